import json
from itertools import combinations

from tests.conftest import ROOT

ROWS = [json.loads(line) for line in (ROOT / "data" / "sample" / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()]
ANSWERS = [text[2:] for row in ROWS for text in row["data"][1::2]]


def test_turns_alternate_and_carry_their_prefix():
    for row in ROWS:
        assert row["department"] and len(row["data"]) in range(2, 11, 2)
        assert [text[:2] for text in row["data"]] == ["问：", "答："] * (len(row["data"]) // 2)


def test_the_sample_is_varied_and_much_of_it_multi_turn():
    assert len(ROWS) >= 300 and len({row["department"] for row in ROWS}) >= 30
    assert sum(len(row["data"]) > 2 for row in ROWS) >= 0.45 * len(ROWS)
    assert len({row["data"][0] for row in ROWS}) == len(ROWS)


def test_answers_are_of_the_stated_length():
    assert [a for a in ANSWERS if not 80 <= len(a) <= 350] == []


def test_any_two_answers_share_less_than_half_of_their_4_grams():
    grams = [{a[i : i + 4] for i in range(len(a) - 3)} for a in ANSWERS]
    assert [(a, b) for a, b in combinations(grams, 2) if len(a & b) >= 0.5 * min(len(a), len(b))] == []
