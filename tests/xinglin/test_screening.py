import re
from collections import Counter
from itertools import cycle, islice
from time import process_time

import pytest

from xinglin.dialogues import cleaning, personal, screening
from xinglin.dialogues.cleaning import clean, tidy
from xinglin.dialogues.dialogue import Dialogue, Unusable
from xinglin.dialogues.personal import Found
from xinglin.dialogues.screening import ensure_length, screened


def screen(answer, question="头疼怎么办", personal_data="mask", advertising="remove"):
    """Return an answer as it is after screening, and what was mended."""
    mended: Counter = Counter()
    dialogue = Dialogue([("user", question), ("assistant", answer)])
    return screened(dialogue, personal_data, advertising, mended, Found()).turns[1][1], mended


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("多喝水&nbsp;多休息", "多喝水 多休息", "entities"),
        ("血压&amp;lt;90", "血压<90", "entities"),
        ("先量体温<br/>再看", "先量体温\n再看", "tags"),
        ("<p>多喝水</p>", "多喝水", "tags"),
        ('<span style="color:red">立即就医</span>', "立即就医", "tags"),
        ("好<script>alert(1)</script>的", "好的", "tags"),
        ("请看 https://www.example.com/a?b=1 里的说明", "请看 [链接] 里的说明", "links"),
        ("请看example.com.cn。", "请看[链接]。", "links"),
        ("多休息，关注公众号健康之家领优惠券。三天后复诊。", "多休息。三天后复诊。", "advertising"),
        ("多休息。扫码下单有优惠！", "多休息。", "advertising"),
        ("点击链接进群，多喝水。", "多喝水。", "advertising"),
        ("多喝水。加微信咨询。", "多喝水。", "advertising"),
        ("æ„Ÿå†’", "感冒", "mojibake: UTF-8 as Latin-1"),
        ("多喝水".encode().decode("latin-1"), "多喝水", "mojibake: UTF-8 as Latin-1"),
        ("鎰熷啋", "感冒", "mojibake: UTF-8 as GBK"),
    ],
)
def test_each_rule_does_what_it_says_and_is_counted(before, after, rule):
    screened_text, mended = screen(before)
    assert screened_text == after and mended[rule] == 1


@pytest.mark.parametrize(
    "text",
    [
        "血压<90且心率>100，a<b 时就医",
        "体温<38.5℃，x < p > y",
        "不要扫码付款，谨防骗子加微信。",
        "这是café、naïve和Ménière病（梅尼埃）",
        "皮肤烫烫的，怎么办????急????",
        "鐘點工體檢報告說明鎖骨錯位",
        "AT&T，R&D，胆囊&胰腺",
        "体重3.5kg，0.9%NaCl，血糖7.0.次日",
    ],
)
def test_ordinary_texts_stay(text):
    assert screen(text) == (text, Counter())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("锟斤拷锟斤拷", "锟斤拷"),
        ("烫烫烫烫", "烫烫烫"),
        ("我????头疼????怎么办", "question marks"),
        ("????????????", "question marks"),
        ("鎴戝ご鐤兼庝箞鍔烇紝鎬庝箞", "read as GBK"),
        ("æˆ‘å¤´ç–¼æ€Žä¹", "Latin-1"),
        ("加微信：abc12345，限时优惠", "nothing but advertising"),
    ],
)
def test_what_cannot_be_mended_says_why(text, reason):
    with pytest.raises(Unusable, match=reason):
        screen(text)


def test_a_patient_who_tells_of_wechat_advertises_nothing():
    assert screen("好", "他加我微信以后就不理我了")[1] == Counter()
    with pytest.raises(Unusable, match="nothing but advertising"):
        screen("好", "加微信：abc12345，祖传秘方，包邮")


def test_an_entity_hides_no_special_token():
    assert screen("好&lt;|im_end|&gt;")[0] == "好＜|im_end|>"


@pytest.mark.parametrize("policy", ["remove", "reject", "keep"])
def test_the_policy_of_advertising_decides(policy):
    text = "多喝水。加微信咨询。"
    if policy == "reject":
        with pytest.raises(Unusable, match="advertising"):
            screen(text, advertising=policy)
    else:
        assert screen(text, advertising=policy)[0] == ("多喝水。" if policy == "remove" else text)


def test_the_system_text_and_a_rejected_answer_are_screened_too():
    dialogue = Dialogue([("user", "头疼"), ("assistant", "休息")], system="电话13800138000", rejected="打13900139000")
    done = screened(dialogue, "mask", "remove", Counter(), found := Found())
    assert (done.system, done.rejected, found.kinds) == ("电话[电话]", "打[电话]", {"phone": 2})


def test_the_department_is_screened_though_nothing_else_is_personal():
    dialogue = Dialogue([("user", "头疼"), ("assistant", "休息")], department="内科 张伟 13812345678")
    done = screened(dialogue, "mask", "remove", Counter(), found := Found())
    assert (done.department, found.kinds) == ("内科 [姓名] [电话]", {"phone": 1})
    with pytest.raises(Unusable, match=r"personal data \(phone\)"):
        screened(dialogue, "reject", "remove", Counter(), Found())


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("头疼怎么办", "。", "an answer without a word"),
        ("头疼怎么办", "……！", "an answer without a word"),
        ("头疼怎么办", "\u3164\u2800\u115f", "an empty turn"),
        ("？？", "多喝水", "a first question without a word"),
        ("头疼怎么办", "头疼怎么办", "equal to its question"),
        ("头疼", "多喝热水。" * 6, "repeats itself"),
        ("头疼", "多喝热水" * 6, "repeats itself"),
        ("头疼", "请注意，" + "建议到医院检查，" * 9, "repeats itself"),
    ],
)
def test_answers_that_say_nothing_are_rejected(question, answer, reason):
    with pytest.raises(Unusable, match=reason):
        clean([("user", question), ("assistant", answer)], 1000)


@pytest.mark.parametrize(("question", "answer"), [("再见", "再见"), ("还疼吗", "不疼")])
def test_short_answers_stay(question, answer):
    assert clean([("user", question), ("assistant", answer)], 1000)[0][1][1] == answer


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("休息\U000e0069\U000e0067\U000e007f", "休息", "hidden"),
        ("休\ufe0f息\ufe01\u3164", "休息", "hidden"),
        ("休\u200d息", "休息", "hidden"),
        ("\ue5e5休息", "休息", "private"),
    ],
)
def test_what_cannot_be_seen_goes_and_is_counted(before, after, rule):
    assert tidy(before, mended := Counter()) == after and mended == {rule: 1}


@pytest.mark.parametrize("text", ["👨‍👩‍👧", "❤️", "1️⃣", "🏳️‍🌈"])
def test_emoji_stay_as_they_are(text):
    assert tidy(text, mended := Counter()) == text and not mended


SHORT, LONG = 4000, 16000  # characters
# What a text may consist of over and over, and what ends it; "" is nothing that ends it.
REPEATED = (
    "a 1 市 路 区 镇 村 号 & < > @ . , ， “ \" ' : ： / - _ = ; ? 加 微 卡 a. a@ a- 1. 1- &amp; &lt; &#38; <! <!-- --> <p <p> "
    '<br <br> </ <script> <script </script <style> <p_a=b_ <p_a=" <p_a=\'_b=" 路1 路1号 栋1 1栋 花园1 市区 市区村 省市 '
    "石家庄市长安县西村 一三 13 138 +86 0- 加微信 微信 微信： QQ群 电话 电话： 身份证： 地址： 地址：市 姓名 姓名： "
    "姓名：王伟， 我叫 名字叫 患者： 患者：王伟， http:// www. http://, 关注 扫码 "
    "加盟热线： 点击 锟 锛 ä½\xa0 \u0301\u0323 \u200d\ufe0f ❤\u200d 。 ！ \n 问： 医院 a·A v："
)
KINDS = [" ", *(kind.replace("_", " ") for kind in REPEATED.split(" "))]
# Only matched at the start, or on a name or the few characters before one.
ON_A_FEW = {"LOOP", "MATTER", "MATTER_PERHAPS", "NAMED_BEFORE", "PERSON_BEFORE"}
EXPRESSIONS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": value
    for module in (cleaning, personal, screening)
    for name, value in vars(module).items()
    if isinstance(value, re.Pattern) and isinstance(value.pattern, str) and name not in ON_A_FEW
} | {f"personal.RULES[{place}]": rule.pattern for place, rule in enumerate(personal.RULES)}


def hostile(kind, length, start="", end=""):
    return start + "".join(islice(cycle(kind), length)) + end


def seconds(act, text):
    begun = process_time()
    act(text)
    return process_time() - begun


def grows_too_fast(act, *around):
    """Say whether a text four times as long takes more than six times as long, three times in a row."""
    for _ in range(3):
        long = seconds(act, hostile(around[0], LONG, *around[1:]))
        if long < 0.025 or long < 6 * seconds(act, hostile(around[0], SHORT, *around[1:])):
            return False
    return True


def treat(text):
    try:
        done = screened(Dialogue([("user", "邮箱 a@b.cn"), ("assistant", text)]), "mask", "remove", Counter(), Found())
        clean(done.turns, LONG)
    except Unusable:
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_the_time_that_a_text_takes_grows_with_its_length(kind):
    for around in (("", ""), ("微信<p ", "90@1路1号村")):
        assert not grows_too_fast(treat, kind, *around), around
    assert min(seconds(treat, hostile(kind, SHORT)) for _ in range(2)) < 0.25


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_no_expression_takes_more_than_its_share_of_time_on_a_longer_text(name):
    slow = [kind for kind in KINDS if grows_too_fast(lambda text: list(EXPRESSIONS[name].finditer(text)), kind)]
    assert not slow


def test_what_is_far_too_long_is_rejected_before_any_expression_runs():
    for dialogue in (
        Dialogue([("user", "邮箱 a@b.cn" + "a" * 401), ("assistant", "好")]),
        Dialogue([("user", "头疼"), ("assistant", "好")], rejected="a" * 401),
    ):
        with pytest.raises(Unusable, match="a turn of more than 100 characters"):
            ensure_length(dialogue, 100)
    with pytest.raises(Unusable, match="a system text of more than 400 characters"):
        ensure_length(Dialogue([("user", "头疼"), ("assistant", "好")], system="a" * 401), 100)
    ensure_length(Dialogue([("user", "a" * 400), ("assistant", "好")]), 100)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("血压&amp;amp;amp;amp;amp;amp;amp;amp;amp;amp;amp;lt;90", "血压<90"),
        ("好<script>一<!-- 二</script>三<!-- 四 -->五", "好三五"),
        ("好<style>一<style>二</style>三</style>四", "好三四"),
        ("多喝水  <br>  <br/> 多休息", "多喝水\n多休息"),
        ("多喝水<img alt='一' src=\"data:image/png;base64,AAAA\" hidden>多休息", "多喝水多休息"),
    ],
)
def test_html_within_html_goes(before, after):
    assert screen(before)[0].replace("\n\n", "\n") == after
