import json
from collections import Counter

import pytest

from stages.split import assign, first_question, groups, side
from tests.conftest import params_with

SPLIT = params_with().split


def row(question, answer="好", history=()):
    return {"instruction": question, "input": "", "output": answer, "system": "", "history": list(history)}


def questions(count, salt=""):
    return [f"{salt}第{i}位患者问{chr(0x4E00 + i * 7 % 5000)}{chr(0x4E00 + i * 13 % 5000)}{chr(0x4E00 + i * 29 % 5000)}怎么办" for i in range(count)]


def sides(texts, split=SPLIT):
    return dict(zip(texts, assign(texts, groups(texts, split.near_duplicate_threshold), split), strict=True))


def test_the_first_question_is_compared_without_punctuation_and_case():
    assert first_question(row("后来呢", history=[["ABC，头痛 怎么办？", "答"]])) == "abc头痛怎么办"


def test_equal_and_near_equal_first_questions_share_a_group():
    long = "我最近三个月总是在夜里咳嗽并且有一些白色的痰请问需要做什么检查才好呢谢谢医生"
    labels = groups([long, long + "啊", "孩子发热三十九度怎么办", long], 0.9)
    assert labels[0] == labels[1] == labels[3] != labels[2]
    labels = groups([long, long + "啊"], 1.0)
    assert labels[0] != labels[1]


def test_shares_are_the_ratios_within_chance():
    found = Counter(sides(questions(5000)).values())
    for name, ratio in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        assert abs(found[name] / 5000 - ratio) < 4 * (ratio * (1 - ratio) / 5000) ** 0.5


def test_data_that_grows_moves_no_test_row_into_training():
    before, after = sides(questions(500)), sides(questions(1500))
    assert all(after[q] == name for q, name in before.items())


def test_another_seed_is_another_split():
    other = SPLIT.model_copy(update={"seed": 7})
    assert [side(q, SPLIT) for q in questions(50)] != [side(q, other) for q in questions(50)]


def test_a_group_takes_its_most_held_out_side():
    texts = questions(200)
    first_train = next(q for q in texts if side(q, SPLIT) == "train")
    first_test = next(q for q in texts if side(q, SPLIT) == "test")
    assert assign([first_train, first_test], [0, 0], SPLIT) == ["test", "test"]


def write(folder, rows):
    (folder / "converted").mkdir()
    (folder / "converted" / "dialogues.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")


def test_the_stage_writes_sides_dataset_info_and_a_report_without_overlap(workplace, stage):
    folder = workplace()
    texts = questions(60)
    write(folder, [row(q, f"答{i}") for i, q in enumerate(texts + texts[:20])])
    assert stage("split", converted="converted", out="split").status == 0
    parts = {n: [json.loads(line) for line in (folder / "split" / f"{n}.jsonl").read_text().splitlines()] for n in ("train", "val", "test")}
    found = json.loads((folder / "split" / "report.json").read_text())
    assert found["rows"] == {n: len(rows) for n, rows in parts.items()} and sum(found["rows"].values()) == 80
    assert found["overlap"] == {"exact": 0, "near": 0}
    asked = {n: {r["instruction"] for r in rows} for n, rows in parts.items()}
    assert not asked["train"] & asked["test"] and not asked["train"] & asked["val"] and not asked["val"] & asked["test"]
    assert set(json.loads((folder / "split" / "dataset_info.json").read_text())) == {"train", "val", "test"}


@pytest.mark.parametrize("count", [1, 2])
def test_an_empty_side_is_an_error_that_names_it(workplace, stage, count):
    folder = workplace()
    write(folder, [row(q) for q in questions(count)])
    done = stage("split", converted="converted", out="split")
    assert done.status == 1 and "split.ratios." in done.error and not (folder / "split").exists()
