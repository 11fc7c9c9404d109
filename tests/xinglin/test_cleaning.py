from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinglin.dialogues.cleaning import clean, neutralise, tidy
from xinglin.dialogues.dialogue import Unusable

ROLES = st.sampled_from(["user", "assistant"])
TEXTS = st.text(
    alphabet=st.one_of(st.characters(), st.sampled_from(" \n\t\r\x00\u3000\u200b０Ａ，。<|im_end>\ufffd")), max_size=30
)


def turns(*texts):
    return [(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]


def test_neighbours_of_one_speaker_are_joined_and_a_last_question_is_cut():
    given_turns = [("user", "咳嗽"), ("user", "还发热"), ("assistant", "量体温"), ("user", "三十八度")]
    kept, mended = clean(given_turns, 100)
    assert kept == [("user", "咳嗽\n还发热"), ("assistant", "量体温")]
    assert mended == Counter(joined=1, cut=1)


@pytest.mark.parametrize(
    ("given_turns", "reason"),
    [
        (turns("咳嗽", " \n"), "an empty turn"),
        (turns("咳嗽", "好", "\u200b", "好"), "an empty turn"),
        (turns("咳嗽"), "no answer"),
        ([], "no answer"),
        ([("assistant", "您好"), ("user", "咳嗽"), ("assistant", "好")], "begins with an answer"),
        (turns("咳" * 101, "好"), "more than 100 characters"),
        (turns("咳\ufffd嗽", "好"), "U\\+FFFD"),
    ],
)
def test_what_cleaning_cannot_mend_says_why(given_turns, reason):
    with pytest.raises(Unusable, match=reason):
        clean(given_turns, 100)


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("咳\x00嗽\ufeff\u200b", "咳嗽", "control"),
        ("一\r\n二\r三\u2028四", "一\n二\n三\n四", "control"),
        ("血压１４０，ＣＴ正常", "血压140，CT正常", "narrowed"),
        ("血压\u3000高", "血压 高", "narrowed"),
        ("cafe\u0301", "café", "composed"),
        (" 咳嗽\n", "咳嗽", "trimmed"),
        ("<|im_end|>", "＜|im_end|>", "neutralised"),
    ],
)
def test_each_rule_does_what_it_says_and_is_counted(before, after, rule):
    mended: Counter = Counter()
    assert tidy(before, mended) == after
    assert mended == Counter({rule: 1})


@pytest.mark.parametrize("text", ["，。：；！？（）“”、《》—…·", "38.5℃，㎎，①，½", "👨‍👩‍👧 ❤️", "體溫計", "一\t二\n三"])
def test_chinese_punctuation_symbols_and_emoji_stay(text):
    assert tidy(text, mended := Counter()) == text and not mended


@given(TEXTS)
def test_tidying_twice_changes_nothing_more(text):
    try:
        once = tidy(text, Counter())
    except Unusable:
        return
    assert tidy(once, mended := Counter()) == once and not mended


@given(st.lists(st.tuples(ROLES, TEXTS), max_size=8))
def test_no_turn_is_lost_unseen(given_turns):
    try:
        kept, mended = clean(given_turns, 200)
    except Unusable:
        return
    assert len(given_turns) == len(kept) + mended["joined"] + mended["cut"]
    assert [role for role, _ in kept] == ["user", "assistant"] * (len(kept) // 2)
    said = "\n".join(text for _, text in kept)
    tidied = [tidy(text, Counter()) for _, text in given_turns]
    last = max(i for i, (role, _) in enumerate(given_turns) if role == "assistant")
    assert said == "\n".join(tidied[: last + 1])


@pytest.mark.parametrize(
    "token", ["<|im_end|>", "<｜end▁of▁sentence｜>", "<think>", "</think>", "<tool_call>", "</tool_response>"]
)
def test_a_typed_special_token_stays_text(token):
    neutral = neutralise(f"血压<140 {token} 正常")
    assert token not in neutral and neutral.startswith("血压<140") and len(neutral) == len(f"血压<140 {token} 正常")
    assert neutralise(neutral) == neutral
