import json
from collections import Counter

import pytest

from tests.conftest import ROOT
from xinglin.dialogues.cleaning import NARROW
from xinglin.dialogues.dialogue import Unusable
from xinglin.dialogues.personal import TOKENS, Found, department, excerpt, identity, luhn, mask, masked, outline

LINES = (ROOT / "tests" / "xinglin" / "personal.tsv").read_text(encoding="utf-8").splitlines()
CASES = [line.split("\t") for line in LINES]  # set (drafted, held, fitted or later), kind, text, what is personal in it
NOT_FOUND = {"微 信 号", "我是李建国", "病人：周美玲"}  # a word broken up, and names that nothing announces
NOT_PERSONAL = {"药盒上写着13579246801", "病人安静"}  # eleven digits that could be anything, a word that begins as a name


@pytest.mark.parametrize(("kind", "text", "values"), [case[1:] for case in CASES if case[1] != "none"])
def test_what_is_personal_is_masked_and_counted_by_kind(kind, text, values):
    found = Found()
    (shown,) = masked([text.translate(NARROW)], "mask", found)
    missed = any(value.translate(NARROW) in shown for value in values.split(" | "))
    if any(text.startswith(start) for start in NOT_FOUND):
        assert missed, "found by now: take it off the list"
    else:
        assert not missed and TOKENS[kind] in shown and found.kinds[kind]


@pytest.mark.parametrize("text", [case[2] for case in CASES if case[1] == "none"])
def test_what_only_looks_personal_stays(text):
    assert (mask(text) == text) != any(text.startswith(start) for start in NOT_PERSONAL)


def test_each_set_has_its_cases_and_about_half_only_look_personal():
    assert Counter(half for half, *_ in CASES) == {"drafted": 102, "held": 100, "fitted": 14, "later": 48}
    assert sum(kind == "none" for _, kind, *_ in CASES) == 128


def test_a_name_is_masked_wherever_it_stands_in_the_dialogue():
    found = Found()
    texts = masked(["我叫陈晓明，头疼", "陈晓明您好，多休息"], "mask", found)
    assert texts == ["我叫[姓名]，头疼", "[姓名]您好，多休息"] and found.kinds == {"name": 1}


def test_the_longest_name_is_masked_first():
    assert masked(["我叫王小，他叫王小明", "王小明，王小"], "mask", Found()) == ["我叫[姓名]，他叫[姓名]", "[姓名]，[姓名]"]


@pytest.mark.parametrize("matter", ["华法林", "黄连素", "白癜风", "麻黄汤", "安博维"])
@pytest.mark.parametrize(
    "said", ["医生开的药名字叫{}，每天一片", "这个病名字是{}，", "得的什么病？名字叫{}", "这个方子名叫{}，"]
)
def test_a_medicine_or_a_disease_that_is_called_by_a_name_stays_in_the_whole_dialogue(said, matter):
    texts = [said.format(matter), f"{matter}要按时复查"]
    assert masked(texts, "mask", found := Found()) == texts and not found.kinds


@pytest.mark.parametrize("person", ["我", "我妈妈", "孩子", "患者", "我的朋友", "她女儿"])
def test_a_person_may_be_called_as_a_medicine_ends(person):
    assert mask(f"{person}名字叫张玉林，去年吃过药") == f"{person}名字叫[姓名]，去年吃过药"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("内科 张伟 13812345678", "内科 [姓名] [电话]"),
        ("内科 李秀兰医生 电话62551234", "内科 [姓名] 电话[电话]"),
        ("康复 麻醉科", "康复 麻醉科"),
        ("康复科  电话13812345678", "康复科 电话[电话]"),
    ],
)
def test_a_department_is_masked_with_the_names_beside_what_is_personal(before, after):
    assert department(before, "mask", Found()) == after and department(before, "keep", Found()) == before


def test_an_example_shows_the_first_and_last_character_at_most():
    assert (outline("13800138000"), outline("张三"), outline("欧阳建国")) == ("1…0", "张…", "欧…")


@pytest.mark.parametrize("policy", ["mask", "reject", "keep"])
def test_the_policy_decides(policy):
    found = Found()
    if policy == "reject":
        with pytest.raises(Unusable, match=r"personal data \(phone\)"):
            masked(["电话13800138000"], policy, found)
    else:
        assert masked(["电话13800138000"], policy, found) == ["电话[电话]" if policy == "mask" else "电话13800138000"]
    assert found.kinds == ({} if policy == "keep" else {"phone": 1})


def test_checks_of_numbers():
    assert luhn("4111111111111111") and not luhn("4111111111111112")
    assert identity("", 0, "11010519491231002X") and not identity("", 0, "110105194913310021")  # no thirteenth month
    assert not identity("", 0, "990105194912310021")  # no such province


@pytest.mark.parametrize(
    "text", ["电话13800138000", "\\n13800138000", "\\u753513800138000", "１３８００１３８０００", "138\u200b00138000"]
)
def test_an_excerpt_of_json_with_escapes_is_masked(text):
    assert excerpt(f'{{"data": ["{text}', 200).endswith("[电话]")


def test_an_excerpt_ends_before_what_the_cut_may_have_halved():
    source = json.dumps([f"{'x' * 40}@example.com，" * 20], ensure_ascii=False)  # masked it is shorter than what may be shown
    for length in range(740, 801):
        assert "xx" not in excerpt(source[:length], 200)


@pytest.mark.parametrize("text", ["微信 public", "加微信Doctor"])
def test_a_word_after_wechat_is_no_account(text):
    assert mask(text) == text and mask("微信号drwang") == "微信号[微信号]"
