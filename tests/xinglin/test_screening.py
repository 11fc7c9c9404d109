from collections import Counter

import pytest

from xinglin.dialogues.cleaning import clean, tidy
from xinglin.dialogues.dialogue import Dialogue, Unusable
from xinglin.dialogues.personal import Found
from xinglin.dialogues.screening import screened


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
