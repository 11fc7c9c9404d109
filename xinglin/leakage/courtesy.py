"""What stands around a question or an answer and says nothing of it: a greeting, thanks, the options of an exam."""

import re

EDGE = 40  # characters at the end of a text in which thanks are looked for
LEAST = 4  # characters that a text keeps
PAUSES = " \t\n\u3000，,。.!！~～、;；:：?？…"
PAUSE = f"[{re.escape(PAUSES)}]*"
WHOM = "(?:医生|大夫|专家|老师|主任|教授|患者|朋友|亲|您|你|各位|大家)"
HEAD = re.compile(
    rf"{PAUSE}(?:(?:尊敬的|亲爱的)?{WHOM}*(?:[您你]好|(?:早上|上午|中午|下午|晚上)好){PAUSE}|{WHOM}+好?[{re.escape(PAUSES)}]+"
    rf"|我?想?要?(?:请问|请教|咨询|问)一?下?{WHOM}*{PAUSE}|打扰一?下?了?{PAUSE}|hi{PAUSE}|hello{PAUSE})+",
    re.IGNORECASE,
)
TAIL = re.compile(
    rf"(?:(?:非常|十分|万分|在此|先)?(?:谢谢|感谢|多谢){WHOM}*(?:了|啦|的解答|的回复)?|(?:麻烦|拜托|辛苦){WHOM}*了?|在线等|(?<=[{re.escape(PAUSES)}])急+|不客气"
    rf"|[求望盼请]{WHOM}*(?:解答|回复|指教|指点|帮助|帮忙)(?:一下)?|(?:祝|愿|希望){WHOM}*(?:早日)?(?:康复|身体健康|健康|生活愉快)"
    rf"|希望(?:能|可以)?(?:对{WHOM}有所?帮助|帮到{WHOM}))[啊吧呢嘛哦呀哈了啦]?"
)
TAIL_BEGINS = re.compile("[谢感多非十万在先麻拜辛不求望盼请祝愿希急]")
OPTION = r"(?:(?:(?<=[\s。？?！!，,；;：:])|^)[(（]?{0}\s*[.．、:：)）]|[(（]{0}[)）]|(?<=[\u4e00-\u9fff]){0}\s*[.．:：])"
OPTIONS = re.compile(rf"{OPTION.format('A')}.*?{OPTION.format('B')}.*", re.DOTALL)


def around(text: str, asked: bool) -> tuple[str, str]:
    """Return what stands before and behind what a text says; "" where too little would be left.

    Of a question that is `asked` the options of an exam stand behind: in another order it is the same question.
    """
    options = OPTIONS.search(text) if asked and "A" in text and "B" in text else None
    end = options.start() if options else len(text)
    head = HEAD.match(text, 0, end)
    begin = head.end() if head else 0
    end = without_thanks(text, begin, end)
    enough = end - begin >= EDGE or sum(map(str.isalnum, text[begin:end])) >= LEAST
    return (text[:begin], text[end:]) if enough else ("", "")


def without_thanks(text: str, begin: int, end: int) -> int:
    """Return where a text that ends at `end` ends without thanks and good wishes."""
    while end > begin:
        edge = text[max(begin, end - EDGE) : end]
        end -= len(edge) - len(edge.rstrip(PAUSES))
        hits = (found.start() for found in TAIL_BEGINS.finditer(text, max(begin, end - EDGE), end))
        place = next((hit for hit in hits if TAIL.fullmatch(text, hit, end)), None)
        if place is None:
            break
        end = place
    return end
