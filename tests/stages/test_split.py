import json

import numpy as np
import pytest

from stages.split import SIDES, assign, draw, groups, separate
from tests.conftest import params_with
from xinglin.leakage.links import SHORT, compared, equal_links, near_links

SPLIT = params_with().split
LONG = "我最近三个月总是在夜里咳嗽并且有一些白色的痰请问需要做什么检查才好呢谢谢医生"


def row(question, answer="好", history=(), department=""):
    return {
        "instruction": question,
        "input": "",
        "output": answer,
        "system": "",
        "history": list(history),
        "department": department,
    }


def questions(count):
    return [
        f"第{i}位患者问{chr(0x4E00 + i * 7 % 5000)}{chr(0x4E00 + i * 13 % 5000)}{chr(0x4E00 + i * 29 % 5000)}怎么办"
        for i in range(count)
    ]


def sides(dialogues, split=SPLIT):
    texts = compared(dialogues)
    found, _, overlap = separate(texts, draw(texts.questions, split), split.near_duplicate_threshold)
    assert overlap == {"exact": 0, "near": 0}
    return [SIDES[side] for side in found.tolist()]


def labels(dialogues, threshold=0.9):
    texts = compared(dialogues)
    return groups(np.concatenate([equal_links(texts), near_links(texts, threshold, exact=False)]), len(dialogues)).tolist()


def test_equal_and_near_equal_first_questions_share_a_group():
    found = labels([(LONG, "好"), (LONG + "啊", "行"), ("孩子发热三十九度怎么办", "去"), (LONG, "对")])
    assert found[0] == found[1] == found[3] != found[2]
    strict = labels([(LONG, "好"), (LONG + "啊", "行")], 1.0)
    assert strict[0] != strict[1]


def test_equal_and_near_equal_answers_share_a_group_unless_they_are_short():
    found = labels([("甲", "你好", "乙", LONG), ("丙", LONG + "吧"), ("丁", "不客气"), ("戊", "不客气")])
    assert found[0] == found[1] and len(set(found)) == 3 and len("不客气") < SHORT


def test_shares_are_the_ratios_within_chance():
    found = sides([(q, "好") for q in questions(5000)])
    for name, ratio in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        assert abs(found.count(name) / 5000 - ratio) < 4 * (ratio * (1 - ratio) / 5000) ** 0.5


def test_data_that_grows_moves_no_test_row_into_training_wherever_the_new_rows_stand():
    old = [(f"{q}{LONG[i % 30 :]}", f"{q}答案一共有二十个字以上所以要比较") for i, q in enumerate(questions(400))]
    new = [(f"{q}，{LONG[i % 30 :]}", old[(i + 1) % 400][1]) for i, (q, _) in enumerate(zip(questions(120), old, strict=False))]
    new += [(f"新来的{q}", "好") for q in questions(900)]
    before, after = sides(old), sides([*new, *old])[len(new) :]
    held = {"train": 0, "val": 1, "test": 2}
    assert all(held[now] >= held[then] for then, now in zip(before, after, strict=True))
    assert "train" in after and before != after


def test_another_seed_is_another_split():
    other = SPLIT.model_copy(update={"seed": 7})
    assert draw(questions(50), SPLIT).tolist() != draw(questions(50), other).tolist()


def test_near_questions_mostly_draw_the_same_side():
    some = [f"{q}，{LONG[i % 20 :]}" for i, q in enumerate(questions(500))]
    changed = [q.replace("谢谢", "谢") for q in some]
    assert np.mean(draw(some, SPLIT) == draw(changed, SPLIT)) > 0.85


def test_a_group_takes_its_most_held_out_side():
    assert assign(np.array([0, 2, 1, 0]), np.array([0, 0, 1, 1])).tolist() == [2, 2, 1, 1]


def test_what_minhash_misses_is_found_by_the_exact_join_and_put_together(monkeypatch):
    texts = compared([(f"{LONG}{'嗯' * (i % 2)}{i}", "好") for i in range(60)])
    monkeypatch.setattr("xinglin.leakage.links.near_pairs", lambda texts, threshold: np.empty((0, 2), np.int64))
    draws = np.arange(60) % 3
    found, _, overlap = separate(texts, draws, 0.8)
    assert overlap == {"exact": 0, "near": 0} and set(found.tolist()) == {2}


def write(folder, rows):
    (folder / "converted").mkdir()
    (folder / "converted" / "dialogues.jsonl").write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8"
    )


def test_the_stage_writes_sides_dataset_info_and_a_report_without_overlap(workplace, stage):
    folder = workplace()
    texts = questions(60)
    write(
        folder,
        [
            row(q, f"答{i}", [["先问" + q, "先答"]] * (i % 2), "内科" if i % 3 else "外科")
            for i, q in enumerate(texts + texts[:20])
        ],
    )
    assert stage("split", converted="converted", out="split").status == 0
    parts = {n: [json.loads(line) for line in (folder / "split" / f"{n}.jsonl").read_text().splitlines()] for n in SIDES}
    found = json.loads((folder / "split" / "report.json").read_text())
    assert found["rows"] == {n: len(rows) for n, rows in parts.items()} and sum(found["rows"].values()) == 80
    assert found["overlap"] == {"exact": 0, "near": 0}
    for name, rows in parts.items():
        assert found["mix"][name]["multi_turn"] == pytest.approx(sum(bool(r["history"]) for r in rows) / len(rows), abs=1e-4)
        assert found["mix"][name]["departments"]["外科"] == pytest.approx(
            sum(r["department"] == "外科" for r in rows) / len(rows), abs=1e-4
        )
        assert found["deviation"][name] == pytest.approx(len(rows) / 80 - getattr(SPLIT.ratios, name), abs=1e-3)
    assert set(json.loads((folder / "split" / "dataset_info.json").read_text())) == set(SIDES)


def test_an_array_is_split_like_lines(workplace, stage):
    folder = workplace()
    write(folder, [row(q) for q in questions(60)])
    assert stage("split", converted="converted", out="lines").status == 0
    rows = [json.loads(line) for line in (folder / "converted" / "dialogues.jsonl").read_text().splitlines()]
    (folder / "converted" / "dialogues.json").write_text(json.dumps(rows))
    (folder / "converted" / "dialogues.jsonl").unlink()
    assert stage("split", converted="converted", out="array").status == 0
    assert (folder / "lines" / "report.json").read_text() == (folder / "array" / "report.json").read_text()


@pytest.mark.parametrize("count", [1, 2])
def test_an_empty_side_is_an_error_that_names_it(workplace, stage, count):
    folder = workplace()
    write(folder, [row(q) for q in questions(count)])
    done = stage("split", converted="converted", out="split")
    assert done.status == 1 and "split.ratios." in done.error and not (folder / "split").exists()
