"""The emergency rules against phrases as patients type them, one a line of red_flags.tsv with the flags that are due."""

import pytest

from app.red_flags import Found, find, notice, rules
from tests.conftest import ROOT

PHRASES = [line.split("\t") for line in (ROOT / "tests" / "app" / "red_flags.tsv").read_text(encoding="utf-8").splitlines()]


def flags(text):
    return {flag.id for flag in find(text)}


def test_there_are_enough_phrases_of_each_kind():
    due = [expected for _, expected in PHRASES if expected != "-"]
    assert len(PHRASES) >= 400 and len(due) >= 200 and len(PHRASES) - len(due) >= 150
    for rule in rules().rules:
        assert sum(rule.id in expected.split(",") for expected in due) >= 15


def test_emergencies_are_found_and_others_left_alone():
    missed = [text for text, expected in PHRASES if expected != "-" and not flags(text) & set(expected.split(","))]
    false = [text for text, expected in PHRASES if expected == "-" and flags(text)]
    assert len(missed) <= 2 and len(false) == 0, (missed, false)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("没有胸痛", set()),
        ("没有发热、胸痛和气短", set()),
        ("胸口不疼，就是有点咳", set()),
        ("我没发烧但是胸口很痛", {"chest_pain"}),
        ("怎么预防中风", set()),
        ("爷爷十年前中风过，现在想问饮食", set()),
        ("我妈刚才突然右边胳膊抬不起来，过了十分钟又好了", {"stroke"}),
        ("想死你了", set()),
        ("以前割过腕，现在又不想活了", {"suicide"}),
        ("宝宝两个月 发烧38.5", {"infant_fever"}),
        ("宝宝两岁 发烧38.5", set()),
        ("血压１４０，想问饮食", set()),
    ],
)
def test_denials_history_and_general_questions_take_a_sign_back(text, expected):
    assert flags(text) == expected


def test_the_notice_says_each_advice_once_and_names_the_number():
    said = notice(find("胸口压榨样疼，右边胳膊抬不起来，不想活了"))
    assert said.count("120 或去最近的急诊") == 1 and "12356" in said and "胸痛、中风征象" in said
    assert notice([]) == "" and all(isinstance(flag, Found) for flag in find("吐血了"))


def test_every_rule_has_advice_that_exists_and_signs_without_blank_words():
    known = rules()
    for rule in known.rules:
        assert rule.do in known.advice and rule.signs
        assert all(word for sign in rule.signs for part in sign.split() for word in part.split("|")), rule.id


@pytest.mark.parametrize("text", ["", "。。。", "\x00", "a" * 4000, "不" * 2000, "没有和" * 800, "右手" * 1000])
def test_any_text_is_read_quickly(text):
    find(text)
