"""Personal data in Chinese medical dialogues: found by form, checksum and the word before it, and masked by a word in brackets.

Expressions of our own rather than jionlp's: docs/data.md gives the figures.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import Literal, NamedTuple

from xinglin.dialogues.cleaning import CONTROL, NARROW
from xinglin.dialogues.dialogue import Unusable

Policy = Literal["mask", "reject", "keep"]

PROVINCES = {*range(11, 16), *range(21, 24), *range(31, 38), *range(41, 47), *range(50, 55), *range(61, 66), 71, 81, 82, 83, 91}
CARDS = re.compile(r"62|60|4|5[1-5]|35|9558")  # how the numbers of cards used in China begin
CARD_WORDS = re.compile(r"(?:卡号?|账[号户]|[工农中建交招]行)[码：:是为\s]*$")
NOT_PERSONAL = re.compile(
    r"(?:单号|订单|批号|条形?码|69码|流水号?|文号|准字\w?|货号|序列号|追溯码|时间戳|编码|(?<!证)编号)[码：:是为\s#]*$"
)
# The commonest family names; a word that begins with none of them is taken for no name.
SURNAMES = (
    "欧阳|上官|司马|诸葛|司徒|夏侯|皇甫|尉|东方|慕容|令狐|[王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖萧田董袁潘于蒋蔡余"
    "杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪范金石廖贾夏韦付傅方白邹孟熊秦邱江尹薛闫阎段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤温康施文牛樊葛邢安齐"
    "易乔伍庞颜倪庄聂章鲁岳翟殷詹申欧耿关兰焦俞左柳甘祝包宁尚符舒阮柯纪梅童凌毕季裴霍涂成苗谷盛曲翁冉骆蓝路游辛靳管柴蒙鲍华喻祁蒲房滕屈饶解牟艾尤"
    "穆农司卓古吉缪简项连芦麦褚娄窦戚岑景党宫费卜冷晏席卫米柏宗瞿桂全佟臧闵苟邬边卞姬仇栾隋商刁沙荣巫寇桑郎甄丛仲虞敖巩明佘池查麻苑邝]"
)
TITLES = "医生|大夫|护士|老师|主任|先生|女士|小姐|教授|院长|阿姨|叔叔|奶奶|爷爷|师傅|同学|医师|药师|家属|本人"
NAME = rf"(?!(?:{SURNAMES})(?:{TITLES}))(?:{SURNAMES})(?:某某?|[一-龥]{{1,2}}?)"
DOTTED = r"[一-龥]{1,8}(?:[·•・‧][一-龥]{1,8}?){1,3}"  # as names of Uygurs, Kazakhs, Tibetans and foreigners are written
LATIN = (
    r"(?!(?:unknown|none|null|name|test|tel|phone|mobile|email|wechat|qq)\b)(?:"
    r"[A-Za-z]{2,15}(?:[ ·.'-]{1,2}[A-Za-z]{2,15}){1,3}|(?-i:[A-Z])[A-Za-z]{2,19})(?![A-Za-z0-9一-龥_-]|\s*[：:])"
)
NAME_END = r"(?=[^一-龥]|$|今年|性别|年龄|电话|手机|身份证|住|男|女|的)"
# What begins as a name does and is a medicine or a disease: by its end, by how it begins, or as a whole.
MATTER = re.compile(
    ".*(?:[片丸散膏酮胺酸苷碱唑啶肽酯病症炎癌瘤痛痒肿癣疹疸疮疣障]|颗粒|胶囊|冲剂|霉素|菌素)|"
    "(?:麻黄|牛黄|安宫|安眠|安神|高血|黄体|黄褐|白癜|白细|白蛋|白带|白头|葛根|柴胡|龙胆|石膏|金银|雷公|温胆|白虎).*|"
    "华法林|万托林|黄连素|左卡尼|马应龙|何首乌|雷公藤|金水宝|金嗓子|施慧达|易善复|安乃近|安定|安博维|安理申|康泰克|康复新|白加黑|万艾可|"
    "黄[芪芩连柏斑精]|白[芍术芷及蔹斑发]|麦冬|石[斛韦淋]|牛膝|党参|连翘|苏[叶子木]|郁金|路路通|夏枯草|梅毒|梅核气|席汉|尤文|成人|全身"
)
MATTER_PERHAPS = re.compile(".*[素林风汤丹]")  # as people are called too: a medicine where nobody says that it is a person
NAMED = r"(?:名字[叫是：:]|名叫)做?[：:是为\s\"'“”‘’「]*"
NAMED_BEFORE = re.compile(f"{NAMED}$")
PERSON_BEFORE = re.compile(
    "(?:[我他她您你咱们爸妈爹娘爷奶公婆哥姐弟妹叔伯舅姨姑嫂甥娃孩媳父母亲夫妻友者士师]|女儿|[孩儿妻嫂侄孙]子|[大二小三宝]宝|"
    "人|[医先学女]生|老板|同事|邻居|对象)[的真全大小本]*$"
)
MATTERS_BEFORE = re.compile(
    "药|(?<!看)病(?!人|友|房|历)|症|手术|检查|化验|项目|指标|方子|方剂|处方|验方|偏方|疗法|治疗|产品|商品|牌子?|仪器|机器|设备|制剂|针剂|注射|"
    "疫苗|胶囊|[片丸膏贴]|冲剂|颗粒|细菌|病毒|基因|穴|食[品物]|保健|奶粉|茶|酒|草|植物|中成|成分|软件|公司|医院|诊所|门诊|科室|书|歌|"
    "小区|狗|猫|东西|[这那几一][个种款样]"
)
PART = r"(?:(?![住在到从往去来于是我您你他她的了和与离址])[一-龥])"  # an ideograph of a place's name
INSIDE = r"(?:[\s，,-]?[\dA-Za-z一二三四五六七八九十]{1,5}(?:号楼|号院|栋|幢|座|单元|层|楼|室|号|户|组)|[\s-]?\d{1,4}(?!\d))*"
ESTATE = r"(?:小区|花园|家园|公寓|新村|社区|广场|大厦|苑|里|城|府|湾)"
STREET = r"(?:路[一二三四五六七八九]段|大街|大道|街|胡同|巷|弄|(?<![尿气血泪胆通线思电网])路)"
# Each level of an area ends at the first word for it, once and for all (?>…): tried anew they would multiply.
AREA = (
    rf"(?>(?:{PART}{{2,7}}?(?:省|自治区))?)(?>(?:{PART}{{2,7}}?(?:自治州|市|州|盟)(?!{STREET}))?)"
    rf"(?>(?:{PART}{{1,6}}?(?:区|县|旗|市)(?!{STREET}))?)(?>(?:{PART}{{1,7}}?(?:街道|镇|乡)(?!{STREET}))?)"
)
PLACE_WORD = r"(?:(?:家庭|现|详细|居住|收货|收件|通讯|联系|邮寄|户籍)?(?:住址|地址))[：:是为\s]+[\"']*"
LABELS = "姓名 联系人 收件人 收货人"
SEX_OR_AGE = r"[，,、\s]{1,2}(?:性别[：:]?\s?)?(?:[男女](?![一-龥]{0,1}[友儿孩])|年龄|\d{1,3}\s?(?:周?岁|个?月))"
# A patient and, right behind the name, sex or age; without a colon both. 王某 is hidden already.
PATIENT = r"(?:患者|病人|患儿|家属|就诊人|受检者)(?:[：:]\s?|\s|(?=[一-龥]{2,4}[，,、\s]{1,2}[男女]性?[，,、\s]{1,2}\d))"
PATIENT_OF_AGE = rf"{PATIENT}(?!.{{1,2}}某)[一-龥]{{2,4}}{SEX_OR_AGE}"
# What may come before 叫 and a name, and other words before one.
CALLED = "我叫 他叫 她叫 子叫 宝叫 儿叫 公叫 婆叫 妈叫 爸叫 亲叫 者叫 人叫 字叫 名叫 名字是 名字： 名字:"
AREA_ALONE = re.compile(rf"(?!哪|什么|同|本|市区){PART}{{3,12}}[市区县旗]")
NUMBERED_STREET = r"(?:路|街|巷|弄|胡同|大道|段)\s?[\dA-Za-z]{1,6}"
NUMBERED_HOUSE = r"[\dA-Za-z]\s?(?:号楼|栋|幢|座|单元)"
VILLAGE = r"[市州盟](?>[一-龥]{1,7}?[区县旗市])[一-龥]{1,9}?(?:[村镇乡]|街道)"
CHAIN = (
    rf"(?>(?:{PART}{{2,7}}?(?:省|自治区){PART}{{2,7}}?|{PART}{{4,14}}?)(?:市|州|盟))(?>{PART}{{1,6}}?(?:区|县|旗|市))"
    rf"{PART}{{1,9}}?(?:村|镇|乡|街道)"
)


def true(text: str, start: int, value: str) -> bool:
    return True


def identity(text: str, start: int, value: str) -> bool:
    """Say whether 18 or 15 digits begin with a province and hold a date of birth.

    The last digit is not held to its checksum: typed by hand it is often wrong, and of 18 digits drawn by chance
    one in some thousands passes as it is.
    """
    digits = re.sub(r"\D", "", value[:-1]) + value[-1]
    if len(digits) not in (15, 18) or int(digits[:2]) not in PROVINCES or NOT_PERSONAL.search(text[max(0, start - 12) : start]):
        return False
    born = digits[6:14] if len(digits) == 18 else "19" + digits[6:12]
    try:
        return 1900 <= date(int(born[:4]), int(born[4:6]), int(born[6:])).year <= date.today().year
    except ValueError:
        return False


def number(text: str, start: int, value: str) -> bool:
    return not NOT_PERSONAL.search(text[max(0, start - 12) : start])


def card(text: str, start: int, value: str) -> bool:
    """Say whether a number has a known beginning and Luhn's check digit, or a card's groups, or the word for one before it."""
    before, digits = text[max(0, start - 12) : start], re.sub(r"\D", "", value)
    if NOT_PERSONAL.search(before):
        return False
    grouped = digits.startswith("62") and value != digits  # typed as it stands on the card
    return grouped or bool(CARD_WORDS.search(before)) or (CARDS.match(digits) is not None and luhn(digits))


def luhn(digits: str) -> bool:
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(n - 9 * (n > 9) for n in doubled) % 10 == 0


def handle(text: str, start: int, value: str) -> bool:
    """Say whether what comes after the word for WeChat is an account and no plain word."""
    return bool(re.search(r"[\d_-]", value)) or text[start - 1 : start] in ("号", "：", ":")


def place(text: str, start: int, value: str) -> bool:
    """Say whether what comes after the word for an address names a street, a village or a building, or is an area."""
    return bool(re.search(r"[县镇乡村路街巷弄栋幢室]|小区|[市区].*\d", value) or AREA_ALONE.fullmatch(value))


def account(text: str, start: int, value: str) -> bool:
    return bool(re.search(r"[\d_]", value))


def person(text: str, start: int, value: str) -> bool:
    """Say whether a name where a person is expected is no medicine and no disease."""
    return not MATTER.fullmatch(value)


def named(text: str, start: int, value: str) -> bool:
    """Say whether what "is called" so is a person: one stands before it, or neither there nor in the name a thing does."""
    before = NAMED_BEFORE.sub("", text[max(0, start - 32) : start])
    if PERSON_BEFORE.search(before):
        return person(text, start, value)
    called = text[max(0, start - 3) : start].rstrip(" \"'“”‘’「")[-1:] in ("叫", "是")
    return person(text, start, value) and not (MATTERS_BEFORE.search(before) or (called and MATTER_PERHAPS.fullmatch(value)))


class Rule(NamedTuple):
    """One form of one kind: in texts where `needs` is found, what group 1 matches is personal if `holds` says so."""

    kind: str
    needs: re.Pattern
    pattern: re.Pattern
    holds: Callable[[str, int, str], bool] = true


def rule(kind: str, words: str, pattern: str, holds: Callable[[str, int, str], bool] = true, needs: str = "") -> Rule:
    """Make a rule for texts with one of some words, or with what the expression `needs` says, or else with a long number."""
    return Rule(kind, re.compile(needs or literals(words) or LONG), re.compile(pattern, re.IGNORECASE), holds)


def literals(words: str) -> str:
    """Return an expression that `re` looks for by first characters, many times as fast as other alternatives."""
    return "|".join(map(re.escape, words.split()))


LONG = r"[0-9](?:[\d\s.·_()（）-]{6})"


# In this order, each on what the ones before it left. Digits are narrow here, see NARROW in cleaning.py.
RULES = (
    rule(
        "email", "@ ＠", r"([A-Za-z0-9][\w.%+-]{0,63}+\s?[@＠]\s?[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,9}\.[A-Za-z]{2,})"
    ),
    rule("wechat", "wxid", r"(wxid_\w+)"),
    rule(
        "wechat",
        "微信 薇信 威信 维信 徽信 V信 v信 vx VX Vx wx WX wechat WeChat weixin 卫星号",
        r"(?<![A-Za-z0-9])(?:[微薇威维徽v]信|vx|wx|wechat|weixin|卫星号)(?:账号|号码|号|ID)?[ \t：:是为)）(（“\"'，,]*"
        r"([A-Za-z][A-Za-z0-9_-]{5,19}|1[3-9]\d{9}|[1-9]\d{4,10})(?![A-Za-z0-9_@-])",
        handle,
    ),
    rule("wechat", "v： v: V： V:", r"(?<![A-Za-z0-9])v[：:]\s*([A-Za-z][A-Za-z0-9_-]{5,19})(?![A-Za-z0-9_@-])", account),
    rule("wechat", "加V 加v", r"加[我您]?v[：:\s]*([A-Za-z][A-Za-z0-9_-]{5,19})(?![A-Za-z0-9_@-])", handle),
    rule(
        "qq", "QQ qq Qq 扣扣 企鹅", r"(?<![A-Za-z])(?:QQ|扣扣|企鹅)(?:号码|号|交流群|群)*[：:是为\s（(]*([1-9]\d{4,10})(?!\d)"
    ),
    rule(
        "identity",
        "身份证 证件",
        r"(?:身份证|证件)(?:号码|编号|号)?[：:是为\s\"']*(\d(?:[\s-]?\d){16}[\s-]?[\dX]|\d{15})(?!\d)",
    ),
    rule(
        "identity",
        "护照 通行证 军官证 台胞证",
        r"(?:护照|通行证|军官证|台胞证)(?:号码|号)?[：:是为\s\"']*([A-Z]{0,2}\d{7,10})(?!\d)",
    ),
    rule("identity", "", r"(?<![\dA-Za-z.])([1-9](?:[\s-]?\d){16}[\s-]?[\dX]|[1-9]\d{14})(?![\dA-Za-z])", identity),
    rule("bank", "", r"(?<![\dA-Za-z.])(\d{4}(?:[\s-]?\d{4}){3}(?:[\s-]?\d{1,3})?)(?!\d)", card),
    rule(
        "record",
        "院号 历号 案号 例号 诊号 记号 像号 查号 验号 理号 本号 保号 疗号 医号 检号 射号 声号 T号 卡号 证号 者号 号码 编号 ID",
        r"(?:住院|病历|病案|病例|门诊|就诊|登记|影像|检查|检验|病理|标本|医保|社保|诊疗|就医|医疗|体检|放射|超声|CT|患者|病人)"
        r"(?:卡|证)?(?:号码|编号|号|ID)[：:是为\s#\"']*([A-Za-z]{0,4}-?\d[\dA-Za-z-]{2,19})(?!\d)",
    ),
    rule("bed", "床号 床位号", r"床位?号[：:是为\s\"']*(\d{1,3})(?!\d)"),
    rule(
        "phone",
        "",
        r"(?:(?<![\dA-Za-z*])|(?<=tel)|(?<=phone)|(?<=mobile))(?<!\d[.-])((?:[（(]?(?:\+|00)?86[)）]?[\s-]?)?(?:1[3-9]\d{9}|"
        r"1[3-9]\d(?:[\s.·_-]{1,2}\d{4}){2}|1[3-9]\d[\s-]\d{8}|1[3-9]\d\d[\s-]\d{3}[\s-]\d{4}|1[3-9]\d\d[\s-]\d{4}[\s-]\d{3}|"
        r"1(?:[\s-]\d){10}))(?!\d|\.\d|\s?(?:copies|IU|U/|拷贝|元|个))",
        number,
    ),
    rule(
        "phone",
        "",
        r"(?<![\d.A-Za-z])((?:\+86[\s-]?)?(?:[（(]0(?:10|2\d|[3-9]\d\d)[)）][\s-]?|0(?:10|2\d|[3-9]\d\d)[\s—–-]{1,2})"
        r"[1-9]\d{2,3}[\s-]?\d{4}(?:\s?[转-]\s?\d{1,6})?)(?!\d)",
        number,
    ),
    rule(
        "phone",
        "电话 座机 热线 致电 拨打 传真 固话 联系方式 手机 号码 tel Tel TEL",
        r"(?:电话|座机|热线|致电|拨打|传真|固话|联系方式|手机|号码|tel)号?码?[：:是为\s]*"
        r"((?!400|800)(?:0\d{9,11}|[1-9]\d{2,3}[\s-]?\d{4}(?:\s?[转-]\s?\d{1,6})?))(?!\d|-\d)",
        number,
    ),
    rule("phone", "", r"(?<![\dA-Za-z.-])(0(?:10|2\d)[2-8]\d{7}|0[3-9]\d\d[2-8]\d{6,7})(?![\dA-Za-z.-])", number),
    rule(
        "phone", "电话 手机 号码 联系", r"([一幺][三四五六七八九][零〇幺一二三四五六七八九]{9})(?![零〇幺一二三四五六七八九])"
    ),
    rule("phone", "+", r"(\+(?!86)\d{1,3}[\s-]\d{2,4}[\s-]?\d{3,4}(?:[\s-]?\d{2,4})?)(?!\d)"),
    rule(
        "name",
        LABELS,
        rf"(?:姓名|联系人|收件人|收货人)[：:是为\s\"']*({DOTTED}|{NAME}){NAME_END}",
        person,
    ),
    rule("name", LABELS, rf"(?:姓名|联系人|收件人|收货人)\s*[：:]\s*({LATIN})"),
    rule(
        "name",
        "姓名",
        rf"姓名\s*[：:]\s*((?![不未无同见略]|保密|匿名|.{{0,2}}(?:{TITLES}))[一-龥]{{2,5}})(?={SEX_OR_AGE})",
        person,
    ),
    rule("name", CALLED, rf"{NAMED}({DOTTED}|{NAME}){NAME_END}", named),
    rule(
        "name",
        CALLED,
        r"(?:我|他|她|孩子|宝宝|儿子|女儿|老公|老婆|妈妈|爸爸|父亲|母亲|丈夫|妻子|患者|病人)的?(?:名字|姓名|名)?叫做?"
        rf"[ \t：:\"'“‘「]{{0,3}}({DOTTED}|{NAME}){NAME_END}",
        person,
    ),
    rule("name", "", rf"{PATIENT}(?!.{{1,2}}某)({NAME})(?={SEX_OR_AGE})", person, needs=PATIENT_OF_AGE),
    rule(
        "address",
        "地址 住址",
        rf"{PLACE_WORD}([一-龥][^\s，,。；;！!？?、\[]{{3,40}})",
        place,
    ),
    rule(
        "address",
        "",
        rf"({AREA}{PART}{{1,9}}?{STREET}\s?[\dA-Za-z]{{1,6}}(?:-\d{{1,4}})?\s?(?:号楼|号院|号(?!线)|弄|栋|幢|座|单元|室){INSIDE})",
        needs=NUMBERED_STREET,
    ),
    rule(
        "address",
        "",
        rf"({AREA}{PART}{{1,8}}?{ESTATE}(?:[东西南北一二三四]区)?\s?[\dA-Za-z]{{1,4}}\s?(?:号楼|栋|幢|座|单元){INSIDE})",
        needs=NUMBERED_HOUSE,
    ),
    rule(
        "address", "", r"(\d{1,3}\s?(?:号楼|栋|幢|座|楼|号)\s?\d{1,2}\s?单元\s?\d{2,4}\s?(?:室|号|房)?)", needs=r"[0-9]\s?单元"
    ),
    rule("address", "", rf"({CHAIN}(?:{PART}{{1,7}}?村)?(?:\d+[组号队])?)", needs=VILLAGE),
)
TOKENS = {
    "phone": "[电话]",
    "identity": "[身份证号]",
    "bank": "[银行卡号]",
    "email": "[邮箱]",
    "wechat": "[微信号]",
    "qq": "[QQ号]",
    "address": "[地址]",
    "name": "[姓名]",
    "record": "[病历号]",
    "bed": "[床号]",
}
# What the rules need at least, looked for in every dialogue before any of them: few have it, and this decides the speed.
NEEDED = re.compile(
    literals(
        "@ ＠ 微信 薇信 威信 维信 徽信 V信 v信 vx VX Vx wx WX wechat WeChat weixin 卫星号 加V 加v QQ qq Qq 扣扣 企鹅 "
        "v： v: V： V: 住址 地址 患者ID 病人ID 零零 零一 一零 + " + f"{LABELS} {CALLED}"
    )
)
LIKE_A_NAME = re.compile(rf"{NAME}(?:{TITLES})?(?<![科室部门])")
NEEDED_NUMBER = re.compile(r"[0-9](?:[\d\s.·_()（）-]{6}|\s?(?:号|弄|栋|幢|座|单元|室))")
NEEDED_TOWN = re.compile(VILLAGE)
NEEDED_PATIENT = re.compile(PATIENT_OF_AGE)
NEEDED_LABEL = re.compile(r"号[码：:是为\s#\"']*[A-Za-z]{0,4}-?\d")


@dataclass
class Found:
    """How often each kind of personal data was found, and one example of each of which nobody is told by."""

    kinds: Counter = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, value: str) -> None:
        self.kinds[kind] += 1
        self.examples.setdefault(kind, outline(value))

    def update(self, other: "Found") -> None:
        self.kinds.update(other.kinds)
        self.examples = other.examples | self.examples


def outline(value: str) -> str:
    """Return the first character of a value and, where that leaves most of it out, the last."""
    return f"{value[0]}…{value[-1]}" if len(value) > 4 else f"{value[0]}…"


def mask(text: str, found: Found | None = None, names: set[str] | None = None) -> str:
    """Return `text` with a word in brackets for each thing personal; add to `found` what it was and to `names` names."""
    for rule in RULES:
        if rule.needs.search(text):
            text = rule.pattern.sub(partial(replaced, rule=rule, found=found, names=names), text)
    return text


def replaced(match: re.Match, rule: Rule, found: Found | None, names: set[str] | None) -> str:
    value, start = match[1], match.start(1)
    if not rule.holds(match.string, start, value):
        return match[0]
    if found is not None:
        found.add(rule.kind, value)
    if names is not None and rule.kind == "name":
        names.add(value)
    return match.string[match.start() : start] + TOKENS[rule.kind] + match.string[match.end(1) : match.end()]


def suspicious(text: str) -> bool:
    """Say whether a text holds what any rule needs; most do not, and this is quick."""
    return (
        NEEDED.search(text) is not None
        or NEEDED_NUMBER.search(text) is not None
        or NEEDED_LABEL.search(text) is not None
        or NEEDED_PATIENT.search(text) is not None
        or (("村" in text or "镇" in text or "乡" in text or "街道" in text) and NEEDED_TOWN.search(text) is not None)
    )


def masked(texts: list[str], policy: Policy, found: Found) -> list[str]:
    """Return the texts of one dialogue with personal data masked as `policy` says, and count it.

    A name found in one text is masked in all. Raises Unusable, with the kinds, if the policy is to reject.
    """
    if policy == "keep" or not suspicious("\n".join(texts)):
        return texts
    here, names = Found(), set[str]()
    texts = [mask(text, here, names) for text in texts]
    for name in sorted(names, key=len, reverse=True):
        texts = [text.replace(name, TOKENS["name"]) for text in texts]
    found.update(here)
    if policy == "reject" and here.kinds:
        raise Unusable(f"personal data ({', '.join(sorted(here.kinds))})")
    return texts


def department(text: str, policy: Policy, found: Found) -> str:
    """Return the department that a record names, personal data masked: beside any, words that look like names too."""
    (shown,) = masked([text], policy, found)
    if shown == text:
        return text
    return " ".join(TOKENS["name"] if LIKE_A_NAME.fullmatch(word) else word for word in shown.split())


ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|[nrt])")
UNSURE = 64  # characters at the end of a cut text in which half a number may stand


def excerpt(text: str, length: int) -> str:
    """Return up to `length` characters of a record's source, which may be JSON with escapes, personal data masked.

    `text` is some times as long, or the whole: what a cut through it may have halved is not shown.
    """
    text = ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else " ", text)
    text = CONTROL.sub("", text.translate(NARROW))
    shown = masked([text], "mask", Found())[0]
    return shown[: min(length, len(shown) - UNSURE)] if len(text) > 4 * length - UNSURE else shown[:length]
