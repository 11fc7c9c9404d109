"""Who speaks: by the names that the records give, never by place where there is one."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

Turn = tuple[str, str]  # ("user" or "assistant", text)
Marked = tuple[str | None, str]  # the role that a mark before a text names, and the text behind it
MARKS = {  # that stand before a text, and within one that tells of a talk
    "user": "问 患者 病人 患儿家长 患者家属 来访者 求助者 咨询者 用户 用戶 user human patient client q",
    "assistant": "答 医生 医师 大夫 主治医生 主治医师 住院医师 主任医师 副主任医师 咨询师 心理咨询师 心理医生 治疗师 助手 "
    "醫生 醫師 主任醫師 諮詢師 assistant doctor counselor counsellor therapist gpt a",
}
NAMES = {  # that are words of an answer too: marks before a text, and within the one text of a record
    "user": "seeker asker usr 提问 提问者 问题 家属 家长 网友 病友 家屬 問題 網友",
    "assistant": "bot physician supporter model ai chatgpt 回答 回复 主任 护士 药师 专家 客服 助理 回覆 護士 藥師 專家",
    "system": "system developer 系统 设定 系統",
    "tool": "tool function function_call tool_call tool_calls observation function_response",
}
ROLES = {name: role for names in (NAMES, MARKS) for role, known in names.items() for name in known.split()}
TITLES = {  # behind a family name, a department and the like
    "user": "患者 病人 家属 家长 女士 先生 小姐 妈妈 爸爸 母亲 父亲 阿姨 大爷 網友 家屬",
    "assistant": "医生 医师 大夫 主任 教授 专家 护士 护士长 药师 院长 咨询师 治疗师 醫生 醫師 教授 護士",
}
TITLE_ROLES = {title: role for role, titles in TITLES.items() for title in titles.split()}
LETTERS = ("q", "a")
GROUPS = ("held", "name", "title", "alone")  # of the patterns, which hold a name

FILLERS = "\u115f\u1160\u3164\uffa0"  # letters that show nothing; all else that shows nothing is no letter
SPACES = r"&(?:nbsp|ensp|emsp|thinsp|zwnj|zwj|#0*(?:32|160|819[2-9]|820[0-7]|12288|65279)|#x0*(?:20|a0|200[0-f]|3000|feff));?"
HTML = r"</?(?:p|div|span|br|b|strong|em|i|u|font|h[1-6]|li|ul|ol|tr|td|table|section|article|s)(?:\s[^<>]{0,300})?/?>"
# What may stand before a mark: all but letters, digits, quotes and brackets, and tags of HTML.
LEAD = rf"(?:[^\w<&\[【(（“”\"'‘’「『《{{*]|[{FILLERS}]|{SPACES}|{HTML})*+"
NUMBER = r"(?:\s*\d{1,3}|(?<=[一-龥])[A-Z甲乙丙丁一二三四五]|\s*[（(][^（）()：:\n]{0,20}[）)])?"  # which of several
END = r"(?P<shut>\*{1,3}|</[a-z]{1,6}>)?\s*[：:](?(shut)|(?(bold)\*{0,3}))"
NO_NAME = "(?!请|您|你|谢|感谢|麻烦|尊敬|亲爱|各位|建议|咨询|推荐|听|找|看|问|去|遵)"  # 请问医生：… calls for one
TITLED = rf"{NO_NAME}[^\W\d_]{{1,6}}?(?P<title>{'|'.join(sorted(TITLE_ROLES, key=len, reverse=True))}){NUMBER}"
UNSEEN = f"\u200b-\u200f\u2060\ufeff{FILLERS}"
BEGINS = rf"(?:^|(?<=[\s。！？!?>;{UNSEEN}]))(?:#{{1,6}}\s*)?(?P<bold>\*{{1,3}})?(?:</?s>)?"  # of a mark within a text
BEFORE_TITLE = re.compile(rf"{LEAD}(?P<bold>\*{{1,3}})?{TITLED}{END}")
LABEL = re.compile(rf"{LEAD}\*{{0,3}}([^\W\d_][^\n，。,!?！？；;：:*]{{0,9}})\*{{0,3}}[：:](?!//)")
SECTION = re.compile(  # such a word before a colon is the head of a paragraph, and nobody's name
    "建议|意见|分析|诊断|注意|指导|提示|提醒|治疗|检查|用药|处方|原因|症状|方法|方案|总结|结论|主诉|病史|说明|补充|描述|情况|"
    "备注|时间|年龄|性别|解答|答案|结果|事项|步骤|标题|内容|科室"
)


class Speakers(NamedTuple):
    """The role of each name, and the patterns of the names as marks: before a text, and within one."""

    roles: dict[str, str]
    first: re.Pattern
    within: re.Pattern
    anywhere: re.Pattern  # the same of all names and titles

    def role(self, name: object) -> str | None:
        plain = narrow(str(name).strip().strip("<>[]【】"))
        mark = f"{plain}："
        return self.roles.get(plain) or next((role for role, rest in (self.mark(mark, True), titled(mark)) if not rest), None)

    def mark(self, text: str, letters: bool = False) -> Marked:
        """Return the role that a mark before the text names (None without one), and the text behind the mark.

        Q and A are marks with `letters` only: an answer "A：…" may name a choice.
        """
        found = self.first.match(text)
        return self.behind(found, named(found), text, letters) if found else (None, text)

    def behind(self, found: re.Match, name: str, text: str, letters: bool) -> Marked:
        if name in LETTERS and not letters:
            return None, text
        return self.roles[name], text[found.end() :].removesuffix("</s>")

    def marks(self, texts: Sequence[str]) -> list[Marked]:
        """Return the mark of each text and what is behind it.

        A title behind a family name is a mark where most texts have one: a letter begins "张医生：您好" as well.
        """
        found = [self.first.match(text) for text in texts]
        names = [named(mark) if mark else "" for mark in found]
        known = [
            self.behind(mark, name, text, "q" in names) if mark else (None, text)
            for mark, name, text in zip(found, names, texts, strict=True)
        ]
        if all(role for role, _ in known):
            return known
        more = [found if found[0] else titled(text) for found, text in zip(known, texts, strict=True)]
        return more if 2 * sum(role is not None for role, _ in more) > len(texts) else known

    def unknown(self, texts: Sequence[str], marked: Sequence[Marked]) -> str | None:
        """Return a name that nobody knows, if most texts begin with one of several names and this one stands there again."""
        if all(role for role, _ in marked):
            return None
        labels = [found[1].strip() if (found := LABEL.match(text)) else "" for text in texts]
        strange = Counter(
            label for label, (role, _) in zip(labels, marked, strict=True) if label and not role and not SECTION.search(label)
        )
        named_texts = sum(bool(label or role) for label, (role, _) in zip(labels, marked, strict=True))
        name, times = next(iter(strange.most_common(1)), ("", 0))
        return name if times > 1 and 2 * named_texts > len(texts) and len({*labels} - {""}) > 1 else None

    def pieces(self, text: str, alone: bool = False) -> list[str]:
        """Return the pieces, each with its mark, into which marks of both speakers divide a text; else the text as it is.

        In a text that is all of its record, `alone`, each name and title is such a mark.
        """
        if text.count("：") + text.count(":") < 2:
            return [text]
        marks = list((self.anywhere if alone else self.within).finditer(text))
        if not {"user", "assistant"} <= {self.roles[named(mark)] for mark in marks}:
            return [text]
        starts = sorted({0, *(mark.start() for mark in marks[only_lead(text[: marks[0].start()]) :])})
        return [
            piece for start, end in zip(starts, [*starts[1:], len(text)], strict=True) if (piece := text[start:end].strip())
        ]


def only_lead(text: str) -> bool:
    return re.fullmatch(LEAD, text) is not None


@lru_cache(1 << 12)
def narrow(name: str) -> str:
    return unicodedata.normalize("NFKC", name).lower()


def named(found: re.Match) -> str:
    groups = found.re.groupindex
    return narrow(next(name for group in GROUPS if group in groups and (name := found[group])))


def titled(text: str) -> Marked:
    """Return the role that a title before the text names, behind a family name say, and the text behind it."""
    found = BEFORE_TITLE.match(text)
    return (TITLE_ROLES[found["title"]], text[found.end() :]) if found else (None, text)


def wide_too(name: str) -> str:
    """Return the pattern of a name whose letters may be as wide as ideographs."""
    return "".join(
        f"[{letter}{chr(ord(letter) + 0xFEE0)}]" if letter.isascii() and letter.isalpha() else re.escape(letter)
        for letter in name
    )


@cache
def speakers(*more: tuple[str, str]) -> Speakers:
    """Return the speakers known by name, and `more`, each as a name and user, assistant or system."""
    own = {narrow(name.strip()): role for name, role in more}
    roles = ROLES | own
    marks = {name for names in MARKS.values() for name in names.split()} | own.keys()
    before = rf"{LEAD}(?P<bold>\*{{1,3}})?(?:{held(roles)}(?:\s*[：:])?|{plain(roles)}{END})"
    return Speakers(
        TITLE_ROLES | roles,
        re.compile(before, re.I),
        re.compile(f"{BEGINS}(?:{held(marks)}\\s*[：:]|{plain(marks)}{END})|{held(marks, 'alone')}\\s*[：:]", re.I),
        re.compile(f"{BEGINS}(?:{held(roles)}\\s*[：:]|(?:{plain(roles)}|{TITLED}){END})", re.I),
    )


def plain(names: Iterable[str]) -> str:
    return rf"{begin_of(names)}(?P<name>{'|'.join(map(wide_too, sorted(names, key=len, reverse=True)))}){NUMBER}"


def begin_of(names: Iterable[str]) -> str:
    """Return the pattern of looking at the first letter alone: where none of the names begins, the others cost nothing."""
    return f"(?=[{''.join(sorted({wide_too(name[0]).strip('[]') for name in names if name}))}])"


def held(names: Iterable[str], group: str = "held") -> str:
    """Return the pattern of a name in brackets."""
    return rf"[<\[【]\s*(?P<{group}>{'|'.join(map(wide_too, sorted(names, key=len, reverse=True)))})\s*[>\]】]"


def placed(marked: Sequence[Marked]) -> list[Turn]:
    """Return the turns of texts that a mark may stand before; one without goes by its neighbours, or all of them by place.

    So it is in HuatuoGPT-sft-data-v1, whose own loader goes by place (FreedomIntelligence/HuatuoGPT, scripts/finetune.py).
    """
    first = next((place for place, (role, _) in enumerate(marked) if role), None)
    if first is None:
        return [(("user", "assistant")[place % 2], text) for place, (_, text) in enumerate(marked)]
    last = marked[first][0] if first % 2 else other(marked[first][0])  # who would speak before the first text
    turns: list[Turn] = []
    for role, text in marked:
        last = role or other(last)
        turns.append((last, text))
    return turns


def other(role: str | None) -> str:
    return "assistant" if role == "user" else "user"
