"""What a source's texts are freed of before the cleaning: mojibake, HTML, personal data, advertising; see docs/data.md."""

import html
import re
from collections import Counter
from typing import Literal

from xinglin.dialogues import personal
from xinglin.dialogues.cleaning import UNCLEAN, changed, tidy
from xinglin.dialogues.dialogue import Dialogue, Unusable

Advertising = Literal["remove", "reject", "keep"]
MARKUP = 4  # how many times as long as it may be a text may come, with its HTML

ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});|&nbsp;?")
AMPERSAND = re.compile(r"&(?:(?:amp|#0{0,5}38|#x0{0,4}26);)+", re.IGNORECASE)  # & hidden any number of times over
NESTED = 8  # entities within entities that are looked into
ATTRIBUTES = r"(?:\s++[A-Za-z][\w:-]*+(?:\s*+=\s*+(?:\"[^\"<]*+\"|'[^'<]*+'|[^\s\"'<>]++))?+)*+\s*+/?>"
# What a browser shows nothing of: how it begins and how it ends.
UNSEEN = [
    (re.compile(opening, re.IGNORECASE), re.compile(closing, re.IGNORECASE))
    for opening, closing in (
        (r"<script\b[^<>]*>", r"</script\s*>"),
        (r"<style\b[^<>]*>", r"</style\s*>"),
        ("<!--", "-->"),
        ("<!DOCTYPE", ">"),
    )
]
LINE_TAG = re.compile(
    rf"(?:(?<!\s)\s++)?</?(?:br|p|div|li|ul|ol|tr|table|h[1-6]|hr|section|article|blockquote|pre|dl|dt|dd){ATTRIBUTES}\s*",
    re.IGNORECASE | re.ASCII,
)
TAG = re.compile(
    rf"\s*</?(?:br|p|div|li|ul|ol|tr|table|h[1-6]|hr|section|article|blockquote|pre|dl|dt|dd){ATTRIBUTES}\s*", re.I | re.A
)
TAG = re.compile(
    rf"</?(?:a|abbr|b|big|button|center|code|del|em|font|form|i|iframe|img|input|ins|label|link|mark|meta|nobr|o:p|option|s|select|"
    rf"small|source|span|strike|strong|sub|sup|svg|tbody|td|th|thead|tfoot|title|html|head|body|header|footer|nav|main|u|video|"
    rf"audio|script|style|caption|col|colgroup|figure|figcaption|wbr){ATTRIBUTES}",
    re.IGNORECASE | re.ASCII,
)

# Bytes as Latin-1 or Windows-1252 shows them.
SHOWN_AS = {chr(byte): byte for byte in range(0x80, 0x100)} | {
    shown: byte for byte in range(0x80, 0x100) if (shown := bytes([byte]).decode("cp1252", "ignore"))
}
FOLLOWING = "".join(map(re.escape, (shown for shown, byte in SHOWN_AS.items() if byte < 0xC0)))
LATIN = re.compile(f"[ã-éï][{FOLLOWING}]{{2}}")  # an ideograph or a wide punctuation mark in UTF-8
LATIN_HALF = re.compile(f"[ã-éï][{FOLLOWING}]")  # the same after a step that dropped control characters
LATIN_RUN = re.compile(f"[{''.join(map(re.escape, SHOWN_AS))}]+")
# Two bytes of an ideograph in UTF-8 as GBK shows them, where that is an ideograph which Chinese of today hardly uses.
GBK_RARE = re.compile(
    "[" + "".join(bytes([a, b]).decode("gbk", "ignore") for a in (*range(0xE3, 0xEA), 0xEF) for b in range(0x80, 0xA1)) + "锛]"
)
GBK_RUN = re.compile(rb"(?:[\xe3-\xe9][\x80-\xbf]{2}|\xef[\xbc\xbd][\x80-\xbf]){2,}")
GBK_FIRST = re.compile(rb"(?:[\xe3-\xe9][\x80-\xa0]|\xef\xbc)")
FILLED = re.compile("烫{3}|屯{3}|葺{3}|锟斤拷?|斤拷锟|锘[挎縚]")
LOST = re.compile(r"(?<=[一-龥])\?{4,}(?=[一-龥])")

# What the rules above need, and the tidying.
STRANGE = re.compile(f"[{UNCLEAN.pattern[1:-1]}{GBK_RARE.pattern[1:-1]}ã-éï锟斤烫屯葺锘]")

LINK = re.compile(
    r"(?<![\w@.-])(?:https?://|ftp://|www\.)[\w.%/?&=#:~+@!$'*;,-]*[\w/=#&-]|"
    r"(?<![\w@.-])(?:[a-z0-9-]+\.)+(?:com|cn|net|org|top|xyz|vip|cc|info|shop|site|club)(?![\w@.])(?:/[\w.%/?&=#:~+-]*)?",
    re.IGNORECASE | re.ASCII,
)
SENTENCE = re.compile(r"[^。！？!?；;\n]*[。！？!?；;\n]*")
SENTENCE_END = re.compile(r"(?<![。！？!?；;\n])[。！？!?；;\n]+$")
CLAUSE = re.compile(r"[^，,]*[，,]?")
CONTACT = (
    r"(?:(?:个人|医生|专家|客服|官方|助理|老师)?的?(?:微信|薇信|威信|V信|v信|vx|VX|wx|QQ|qq|扣扣)|[Vv](?=[：:\s\[A-Za-z]))"
)
# What advertises by itself in an answer, and what only does so beside something else of the kind.
ADVERT = re.compile(
    rf"(?=[关搜订扫长识添加➕+＋点戳立马咨购免私])(?:(?:关注|搜索?|订阅)[^，,。]{{0,10}}(?:公众号|公众平台|视频号|抖音号|快手号|小红书号)|扫(?:一?扫|描)?[^，,。]{{0,8}}码[^，,。]{{0,4}}"
    rf"(?:关注|添加|下单|购买|领取?|进群|入群|加群|咨询|了解|加)|(?:长按|识别|扫描?|扫一扫)[^，,。]{{0,8}}(?:二维码|下方码)|"
    rf"(?:添?加|➕|\+|＋)(?:我|一?下|本人|小编|客服|助理|医生|老师)?的?{CONTACT}(?!了|好友)|"
    r"(?:点击|戳)(?:此处|这里|下方|下面|上方|以下|链接|\[链接\]|左下角|阅读原文|头像)|(?<!不)(?:立即|马上|点此)(?:购买|下单|抢购|订购)|"
    r"(?:订购|咨询|加盟|购买|免费)热线(?:电话)?[是：:\s]*[\d\[]|私信我?[^，,。]{0,4}(?:领|购|咨询))"
)
LURE = re.compile(
    r"优惠|下单|包邮|特效药|特价|折扣|祖传秘方|扫码|\[(?:链接|微信号|QQ号|电话)\]|根治|代理|加盟|详情请?[看见]|领取|旗舰店|客服|备注|"
    r"限时|免费(?:试用|送货|领)|货到付款|红包|代金券|抢购|秒杀|名额有限"
)
ADVERT_WORDS = re.compile(
    personal.literals(
        "公众 视频号 抖音号 快手号 小红书号 码 微信 薇信 威信 V信 v信 vx VX wx QQ qq 扣扣 加V 加v 加我V "
        "加我v 点击 戳 购买 下单 抢购 订购 热线 私信 优惠 包邮 特效药 特价 折扣 秘方 详情 领取 旗舰店 限时 货到付款 "
        "红包 代金券 秒杀 http HTTP Http www. WWW. "
        ".com .cn .net .org .top .xyz .vip .cc .info .shop .site .club .COM .CN"
    )
)
WARNING = re.compile(r"不要|不能|别|勿|谨防|警惕|小心|当心|骗|不可|不建议|不允许|禁止|不支持|取消|[吗？?]")


def ensure_length(dialogue: Dialogue, longest: int) -> None:
    """Raise Unusable for texts that no cleaning will bring down to `longest` characters, before any is spent on them."""
    for role, text in [("system", dialogue.system), ("assistant", dialogue.rejected or ""), *dialogue.turns]:
        if len(text) > MARKUP * longest:
            what = f"a system text of more than {MARKUP * longest}" if role == "system" else f"a turn of more than {longest}"
            raise Unusable(f"{what} characters")


def screened(
    dialogue: Dialogue, personal_data: personal.Policy, advertising: Advertising, mended: Counter, found: personal.Found
) -> Dialogue:
    """Return a dialogue whose texts hold neither mojibake nor HTML, nor what the two policies are against.

    Counts in `mended` and `found`, which hold what was found even if the dialogue is then rejected, with Unusable.
    """
    texts = [dialogue.system, dialogue.rejected or "", *(text for _, text in dialogue.turns)]
    together = "\n".join(texts)
    strange = STRANGE.search(together) is not None or "????" in together
    marked = "&" in together or "<" in together
    advertises = advertising != "keep" and ADVERT_WORDS.search(together) is not None
    if not (strange or marked or advertises or personal.suspicious(f"{together}\n{dialogue.department}")):
        return dialogue
    if strange:
        texts = [tidy(readable(text, mended), mended) for text in texts]
    if marked:
        texts = [plain(tidy(text, mended), mended) for text in texts]
    texts = personal.masked(texts, personal_data, found)
    department = personal.department(dialogue.department, personal_data, found)
    if advertising != "keep":
        roles = ["system", "assistant", *(role for role, _ in dialogue.turns)]
        texts = [without_advertising(role, text, advertising, mended) for role, text in zip(roles, texts, strict=True)]
    turns = [(role, text) for (role, _), text in zip(dialogue.turns, texts[2:], strict=True)]
    return dialogue._replace(system=texts[0], rejected=texts[1] or None, department=department, turns=turns)


def readable(text: str, mended: Counter) -> str:
    """Return a text with UTF-8 that was read as Latin-1, Windows-1252 or GBK read anew, where every character comes back.

    Raises Unusable, with the kind, where characters are lost.
    """
    if FILLED.search(text):
        raise Unusable("mojibake: 锟斤拷, 烫烫烫 and the like")
    if len(LOST.findall(text)) > 1 or (text.count("?") > 8 and text.count("?") * 2 > len(text)):
        raise Unusable("mojibake: question marks where text was")
    if LATIN.search(text) or len(LATIN_HALF.findall(text)) > 1:
        text = changed(text, from_latin(text), "mojibake: UTF-8 as Latin-1", mended)
    if GBK_RARE.search(text):
        text = changed(text, from_gbk(text), "mojibake: UTF-8 as GBK", mended)
    return text


def from_latin(text: str) -> str:
    def again(match: re.Match) -> str:
        return bytes(SHOWN_AS[shown] for shown in match[0]).decode() if LATIN_HALF.search(match[0]) else match[0]

    try:
        return LATIN_RUN.sub(again, text)
    except UnicodeDecodeError as error:
        raise Unusable("mojibake: UTF-8 read as Latin-1 or Windows-1252") from error


def from_gbk(text: str) -> str:
    """Return a text read anew if the whole of it was UTF-8; leave it alone if nothing of it looks so."""
    data = text.encode("gb18030", "replace")
    if not any(GBK_FIRST.search(run) and common(run.decode("utf-8", "replace")) for run in GBK_RUN.findall(data)):
        return text
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unusable("mojibake: UTF-8 read as GBK") from error


def common(text: str) -> bool:
    """Say whether a text is made of wide punctuation and of the 3,755 ideographs of GB 2312's first level."""
    try:
        data = text.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return all(lead in (0xA1, 0xA3) or 0xB0 <= lead <= 0xD7 for lead in data[::2])


def plain(text: str, mended: Counter) -> str:
    """Return a text without HTML: entities as the characters they stand for, tags of lines as line ends, other tags out.

    Only names of HTML are tags, so that "血压<90" stays. What an entity hid is tidied anew: it may be a special token.
    """
    before = text
    for _ in range(NESTED):
        unescaped = ENTITY.sub(lambda match: html.unescape(match[0]).replace("\xa0", " "), AMPERSAND.sub("&", text))
        if unescaped == text:
            break
        text = unescaped
    changed(before, text, "entities", mended)
    if "<" in text:
        stripped = TAG.sub("", LINE_TAG.sub("\n", without_unseen(text)))
        text = changed(text, stripped, "tags", mended)
    return tidy(text, mended) if text != before else text


def without_unseen(text: str) -> str:
    """Return a text without scripts, styles and comments that end somewhere."""
    for opening, closing in UNSEEN:
        kept, place = [], 0
        while (begun := opening.search(text, place)) and (ended := closing.search(text, begun.end())):
            kept.append(text[place : begun.start()])
            place = ended.end()
        text = "".join(kept) + text[place:]
    return text


def without_advertising(role: str, text: str, policy: Advertising, mended: Counter) -> str:
    """Return a text without links and without the clauses that advertise; Unusable if none is left or by the policy."""
    before = text
    if "." in text:
        text = changed(text, LINK.sub("[链接]", text), "links", mended)
    if ADVERT.search(text) or text != before or LURE.search(text):
        kept = "".join(without_clauses(sentence, role) for sentence in SENTENCE.findall(text)).strip()
        text = changed(text, kept, "advertising", mended)
    if text != before and policy == "reject":
        raise Unusable("advertising")
    if before and not text:
        raise Unusable("nothing but advertising")
    return text


def without_clauses(sentence: str, role: str) -> str:
    """Take the clauses that advertise out of a sentence that does, unless it asks or warns.

    One sign is enough in an answer, where it leads the patient elsewhere; a patient who tells of WeChat advertises nothing.
    """
    clauses = CLAUSE.findall(sentence)
    adverts = sum(ADVERT.search(clause) is not None for clause in clauses)
    lures = len(set(LURE.findall(sentence)))
    if WARNING.search(sentence) or (not (adverts and (role != "user" or adverts + lures > 1)) and lures < 3):
        return sentence
    end = SENTENCE_END.search(sentence)
    said = "".join(clause for clause in clauses if not ADVERT.search(clause) and not LURE.search(clause)).rstrip(
        "，,。！!；;\n "
    )
    return f"{said}{end[0] if end else ''}" if said else ""
