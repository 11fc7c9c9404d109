"""The arithmetic of the benchmarks: what they count, and what they compare it with."""

import json
from itertools import islice

import numpy as np
import pytest

from benchmarks import gpu_serving, quality, synthetic
from benchmarks.app import EVENTS, Stream
from tests.conftest import ROOT
from xinglin.scoring.scores import NAMES
from xinglin.scoring.settings import Metrics


def test_no_conversation_is_asked_twice(tmp_path):
    rows = [
        {
            "messages": [
                {"role": "user", "content": "头痛"},
                {"role": "assistant", "content": "多久了？"},
                {"role": "user", "content": "一天"},
            ]
        }
    ]
    (tmp_path / "asked.jsonl").write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    first, second = islice(gpu_serving.questions(tmp_path / "asked.jsonl"), 2)
    assert [first[0]["content"], second[0]["content"]] == ["1、头痛", "2、头痛"]
    assert first[1:] == second[1:] == rows[0]["messages"][1:]


def test_the_rate_is_of_the_tokens_that_come_in_the_window():
    before, across, joined = [0.1] * EVENTS, [0.5] * 30 + [1.5] * 30, [1.2] * 20  # joined: three tokens in a piece
    streams = [Stream(0.1, 2.0, True, times) for times in (before, across, joined)]
    assert gpu_serving.rate(streams, 1.0, 3.0) == pytest.approx((30 + 60) / 2)


def test_a_way_is_compared_with_the_plain_one_question_by_question():
    plain = [np.tile([[1.0], [3.0]], len(NAMES)), np.tile([[3.0], [5.0]], len(NAMES))]  # two seeds, two questions
    better = [scores + 0.5 for scores in plain]
    metrics = Metrics(bootstrap=100, seed=1, embedding_model=None)
    found = quality.compared({quality.PLAIN: [3.0, 3.1], "other": [2.9, 3.0]}, {quality.PLAIN: plain, "other": better}, metrics)
    assert found[quality.PLAIN]["scores"]["bleu-4"] == [2.0, 4.0] and found["other"]["losses"] == [2.9, 3.0]
    assert found["other"]["less_plain"]["bleu-4"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert "| other | 2.9000, 3.0000 | 2.50, 4.50 | 2.50, 4.50 | +0.50 [+0.50, +0.50] |" in quality.show(found)


def test_a_part_has_the_same_dialogues_however_large_the_others_are(tmp_path):
    for name, val in (("a", 2), ("b", 5)):
        synthetic.make_split(ROOT / "data" / "sample" / "dialogues.jsonl", {"train": 3, "val": val, "test": 4}, tmp_path / name)
    assert (tmp_path / "a" / "test.jsonl").read_bytes() == (tmp_path / "b" / "test.jsonl").read_bytes()
    assert (tmp_path / "a" / "test.jsonl").read_text().count("\n") == 4
