import hashlib
import json
import random

import numpy as np
import orjson
import pytest

from stages.split import SIDES, assign, draw, groups, separate
from tests.conftest import ROOT, params_with
from xinglin.leakage.links import SHORT, compared, equal_links, near_links

SPLIT = params_with().split
NONE = np.empty(0, np.uint64)  # 8-grams
NOTHING = {"exact": 0, "near": 0, "contained": 0}
INSTRUCTION = "你是一名经验丰富的临床医生，请认真阅读下面患者的描述，给出专业、准确、易懂的回答，不要给出处方药的具体用量。"
STOCK = "建议您多喝水，注意休息，必要时到医院就诊检查血常规和胸片。"
CLASSES = (
    "判断下面这条筛选标准属于哪一类，只回答类别名称。可选类别：疾病，症状，体征，怀孕相关，肿瘤进展，过敏耐受，器官组织状态。"
)
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
    found, _, told = separate(texts, draw(texts.drawn, split, texts.common), split.near_duplicate_threshold)
    assert told["overlap"] == NOTHING
    return [SIDES[side] for side in found.tolist()]


def labels(dialogues, threshold=0.9):
    texts = compared(dialogues)
    return groups(np.concatenate([equal_links(texts), near_links(texts, threshold)]), len(dialogues)).tolist()


def test_equal_and_near_equal_first_questions_share_a_group():
    found = labels([(LONG, "好"), ("那" + LONG, "行"), ("孩子发热三十九度怎么办", "去"), (LONG, "对")])
    assert found[0] == found[1] == found[3] != found[2]
    strict = labels([(LONG, "好"), ("那" + LONG, "行")], 1.0)
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


def test_data_that_makes_a_phrase_boilerplate_leaves_the_draw_of_old_rows():
    """Cut out and joined, the rest would make new 8-grams; masked, only a draw by the phrase itself is another."""
    phrase = "最近感觉身体不太舒服想咨询"
    old = [(f"{q[:9]}{phrase}{q[9:]}{i}", "好") for i, q in enumerate(random_texts(28, 30, 9))]
    new = [(f"{q}{phrase}", "好") for q in random_texts(40, 30, 10)]
    before, after = (compared(dialogues) for dialogues in (old, old + new))
    assert not len(before.common) and len(after.common) == len(phrase) - 7
    drawn = [draw(texts.drawn, SPLIT, texts.common)[: len(old)] for texts in (before, after)]
    assert np.mean(drawn[0] == drawn[1]) > 0.8


def test_another_seed_is_another_split():
    other = SPLIT.model_copy(update={"seed": 7})
    assert draw(questions(50), SPLIT, NONE).tolist() != draw(questions(50), other, NONE).tolist()


def test_near_questions_mostly_draw_the_same_side():
    some = [f"{q}，{LONG[i % 20 :]}" for i, q in enumerate(questions(500))]
    changed = [q.replace("谢谢", "谢") for q in some]
    assert np.mean(draw(some, SPLIT, NONE) == draw(changed, SPLIT, NONE)) > 0.85


def test_a_group_takes_its_most_held_out_side():
    assert assign(np.array([0, 2, 1, 0]), np.array([0, 0, 1, 1])).tolist() == [2, 2, 1, 1]


def test_what_is_found_inside_another_after_the_groups_moved_is_put_together_too():
    texts = compared([(LONG[: 20 + 4 * i], "好") for i in range(5)])
    found, _, told = separate(texts, np.array([0, 0, 0, 0, 2]), 0.9)
    assert told["overlap"] == NOTHING and found.tolist() == [2] * 5


def sample():
    lines = (ROOT / "data" / "sample" / "dialogues.jsonl").read_bytes().splitlines()
    return [[text[2:] for text in orjson.loads(line)["data"]] for line in lines]


def random_texts(count, length, seed=1):
    draw_one = random.Random(seed)
    return ["".join(chr(draw_one.randrange(0x4E00, 0x6E00)) for _ in range(length)) for _ in range(count)]


def balanced(found, count=4):
    """Whether the shares are the ratios within `count` standard deviations."""
    return all(
        abs(found.count(name) / len(found) - ratio) < count * (ratio * (1 - ratio) / len(found)) ** 0.5
        for name, ratio in (("train", 0.6), ("val", 0.2), ("test", 0.2))
    )


def test_the_embedded_sample_has_no_boilerplate_and_keeps_its_sides():
    texts = compared(sample())
    assert texts.left_out == {"questions": 0, "answers": 0}
    assert hashlib.sha256(" ".join(sides(sample())).encode()).hexdigest()[:16] == "4d743f3732aeda5b"


@pytest.mark.parametrize("seed", [1, 42, 99])
@pytest.mark.parametrize("instructions", [1, 5])
@pytest.mark.parametrize("before", [True, False])
def test_a_constant_instruction_before_or_after_each_question_leaves_the_draw_to_the_question(seed, instructions, before):
    split = SPLIT.model_copy(update={"seed": seed})
    constant = [f"{INSTRUCTION}{'回答请用中文并保持耐心请考虑以下方面' * (i + 1)}{i}" for i in range(instructions)]
    dialogues = [
        (constant[i % instructions] + texts[0] if before else texts[0] + constant[i % instructions], *texts[1:])
        for i, texts in enumerate(sample())
    ]
    assert balanced(sides(dialogues, split))


@pytest.mark.parametrize("stocks", [1, 4])
def test_a_stock_answer_links_nothing(stocks):
    found = sides([(q, STOCK + "祝您健康" * (i % stocks)) for i, q in enumerate(questions(600))])
    assert balanced(found)


@pytest.mark.parametrize("greetings", [1, 8])
def test_after_a_greeting_the_next_question_draws(greetings):
    opening = [f"你好{'医生' * i}请问现在方便吗我想咨询一下" for i in range(greetings)]
    found = sides([(opening[i % greetings], "您好，请问有什么可以帮您？", *texts) for i, texts in enumerate(sample())])
    assert balanced(found) and (greetings > 1 or found == sides(sample()))


def test_a_task_template_with_a_list_of_classes_is_split_by_what_stands_in_it():
    found = sides([(f"{CLASSES}{q}", ["疾病", "症状"][i % 2]) for i, q in enumerate(questions(900))])
    assert balanced(found)


def test_many_answers_to_one_question_stay_together_though_the_question_is_frequent():
    asked = questions(20)
    found = sides([(asked[i % 20], f"{LONG[i % 30 :]}{chr(0x5000 + i)}{i}") for i in range(400)])
    assert all(len({found[i] for i in range(j, 400, 20)}) == 1 for j in range(20))


@pytest.mark.parametrize("tails", [1, 25])
def test_a_polite_tail_keeps_no_twin_apart(tails):
    draw = random.Random(3)
    tail = (
        ["谢谢医生了麻烦您看到回复一下急急急在线等"]
        if tails == 1
        else ["".join(draw.choices("谢麻烦请回复好人平安医生急盼望感激不尽", k=18)) for _ in range(tails)]
    )
    twins = [(texts[0] + "，" + tail[i % tails], *texts[1:]) for i, texts in enumerate(sample())]
    found = sides([*sample(), *twins])
    assert found[: len(twins)] == found[len(twins) :]


def apart(dialogues, families):
    """How many families of dialogues stand on two sides."""
    found = dict(zip(families, [set() for _ in families], strict=True))
    for family, side in zip(families, sides(dialogues), strict=True):
        found[family].add(side)
    return sum(len(on) > 1 for on in found.values())


@pytest.mark.parametrize("count", [2, 10, 12, 20, 40])
def test_copies_with_a_change_stay_together_however_many_they_are(count):
    """As a language model writes more of each question, or one answer is given to many."""
    asked, said, other = random_texts(60, 60, 1), random_texts(60, 150, 2), random_texts(60 * count, 40, 3)
    families = [family for family in range(60) for _ in range(count)]
    questions = [(f"{asked[f][:20]}{other[i][:2]}{asked[f][20:]}", other[i]) for i, f in enumerate(families)]
    answers = [(other[i], f"{other[i][:2]}{said[f]}") for i, f in enumerate(families)]
    assert apart(questions, families) == apart(answers, families) == 0


def test_an_equal_answer_of_phrases_that_all_use_is_one_text():
    phrases, asked = random_texts(20, 20, 4), random_texts(300, 30, 5)
    dice = random.Random(6)
    answers = ["".join(dice.sample(phrases, 2)) for _ in asked]
    assert apart(list(zip(asked, answers, strict=True)), answers) == 0


def test_a_short_question_is_one_as_a_later_one_with_thanks_or_with_options():
    asked, fill = random_texts(80, 9, 7), random_texts(320, 60, 8)
    twice = [family for family in range(80) for _ in range(2)]

    def pairs(form):
        return [(form(asked[f]) if i % 2 else asked[f], fill[i]) for i, f in enumerate(twice)]

    later = [(fill[160 + i], fill[i], asked[f], "好的") if i % 2 else (asked[f], fill[i]) for i, f in enumerate(twice)]
    assert apart(later, twice) == 0
    for form in ("{}，谢谢医生", "医生您好，{}，麻烦您了", "{}？A.对 B.错", "请问{}"):
        assert apart(pairs(form.format), twice) == 0, form


def test_an_answer_inside_another_and_a_later_question_keep_dialogues_together():
    asked, answers, others = random_texts(80, 12, 2), random_texts(40, 30, 3), random_texts(40, 30, 4)
    found = sides(
        [*zip(asked[:40], answers, strict=True), *zip(asked[40:], map("".join, zip(others, answers, strict=True)), strict=True)]
    )
    assert found[:40] == found[40:] and len(set(found)) == 3
    found = sides([(question, "好", answers[i % 40], "行") for i, question in enumerate(asked)])
    assert found[:40] == found[40:] and len(set(found)) == 3


def test_what_is_left_on_one_side_of_two_is_what_comparing_all_with_all_leaves():
    """The sides after templates, near copies and chains leave no near pair by a loop over all contents."""
    from tests.near import jaccard

    draw_one = random.Random(8)
    dialogues = []
    for i in range(300):
        body = "".join(draw_one.choices([chr(0x4E00 + k) for k in range(60)], k=draw_one.randint(4, 40)))
        if i % 3 == 2:
            body = draw_one.choice(dialogues)[0].removeprefix(CLASSES)[:-1] + draw_one.choice("甲乙丙")
        dialogues.append(((CLASSES if i % 2 else "") + body, "好"))
    texts = compared(dialogues)
    found, _, _ = separate(texts, draw(texts.drawn, SPLIT, texts.common), 0.7)
    kind = texts.kinds[0]
    side = found[kind.first].tolist()
    near = [
        (i, j)
        for i in range(len(side))
        for j in range(i)
        if side[i] != side[j] and jaccard(kind.texts[i], kind.texts[j]) >= 0.7
    ]
    assert not near and len(set(side)) == 3


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
    assert found["overlap"] == NOTHING and found["thresholds"] == {"near": 0.9, "contained": 0.8}
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


def test_a_group_that_takes_too_much_to_one_side_stops_with_its_size_text_and_cure(workplace, stage):
    folder = workplace()
    write(folder, [row(q) for q in questions(300)] + [row("孩子发热三十九度怎么办才好呢", f"答{i}") for i in range(60)])
    done = stage("split", converted="converted", out="split")
    assert done.status == 1 and "a group of 60 of 360 dialogues" in done.error and "孩子发热三十九度怎么办" in done.error
    assert "take copies out" in done.error and not (folder / "split").exists()


def test_shares_beyond_chance_are_a_warning_and_the_closest_pairs_are_named_by_line(workplace, stage):
    folder = workplace()
    pieces = random_texts(40, 20, 5)
    some = [f"{pieces[i % 40]}{q}" for i, q in enumerate(random_texts(400, 15, 6))]
    answers = random_texts(50, 30)
    write(folder, [row(q, answers[i // 8]) for i, q in enumerate(some)])
    done = stage("split", converted="converted", out="split")
    assert done.status == 0 and "warning: split.ratios.train: " in done.err and "instead of 60.0%" in done.err
    found = json.loads((folder / "split" / "report.json").read_text())
    assert len(found["closest"]) == 20 and found["closest"][0]["jaccard"] >= found["closest"][-1]["jaccard"] > 0.2
    lines = [orjson.loads(line) for line in (folder / "converted" / "dialogues.jsonl").read_bytes().splitlines()]
    parts = {n: (folder / "split" / f"{n}.jsonl").read_text().splitlines() for n in SIDES}
    for pair in found["closest"]:
        for line, side in zip(pair["lines"], pair["sides"], strict=True):
            assert json.dumps(lines[line - 1], ensure_ascii=False) in parts[side]
        assert len(set(pair["sides"])) == 2 and pair["jaccard"] < 0.9


def part_rows(part, texts, answer="好", source="own.jsonl"):
    return [row(q, answer) | {"source": source, "line": line, "part": part} for line, q in enumerate(texts, 1)]


def split_of(workplace, stage, given, changes=None):
    folder = workplace(changes)
    write(folder, given)
    done = stage("split", converted="converted", out="split")
    if done.status:
        return done, {}, {}
    parts = {
        n: [json.loads(line)["instruction"] for line in (folder / "split" / f"{n}.jsonl").read_text().splitlines()]
        for n in SIDES
    }
    return done, parts, json.loads((folder / "split" / "report.json").read_text())


def test_own_parts_stay_as_they_are_and_the_rest_is_drawn_beside_them(workplace, stage):
    some = random_texts(400, 16, 9)
    free = [*some[200:], some[0] + "啊", some[50] + "啊", some[100] + "啊"]  # the last three are near own ones
    given = part_rows("train", some[:50]) + part_rows("val", some[50:100]) + part_rows("test", some[100:200])
    done, parts, found = split_of(workplace, stage, part_rows("", free, source="free.jsonl") + given)
    assert done.status == 0, done.err
    for name, own in (("train", some[:50]), ("val", some[50:100]), ("test", some[100:200])):
        assert set(own) <= set(parts[name])
    assert some[50] + "啊" in parts["val"] and some[100] + "啊" in parts["test"]
    assert found["overlap"] == NOTHING and found["own_parts"] == {"train": 50, "val": 50, "test": 100}
    assert "own parts" not in done.err
    drawn = [name for q in some[200:] for name in SIDES if q in parts[name]]
    assert balanced(drawn)
    assert abs(found["deviation"]["test"]) < 0.1 and found["rows"]["test"] > 100


def test_leakage_between_own_parts_is_reported_by_measure_with_the_closest_pairs_and_not_repaired(workplace, stage):
    some = random_texts(150, 30, 10)
    train, val = some[:80], some[80:110]
    test = [*some[110:], train[0], train[1], train[2] + "啊", train[3][:25] + "".join(random_texts(1, 4, 11))]
    given = part_rows("train", train, source="a.jsonl") + part_rows("val", val) + part_rows("test", test, source="b.jsonl")
    done, parts, found = split_of(workplace, stage, given)
    assert done.status == 0, done.err
    assert (parts["train"], parts["val"], parts["test"]) == (train, val, test)
    assert (found["overlap"]["exact"], found["overlap"]["near"]) == (2, 1) and found["overlap"]["contained"] >= 1
    assert found["closest"][0]["jaccard"] == 1 and set(found["closest"][0]["sides"]) == {"train", "test"}
    warning = next(line for line in done.err.splitlines() if "own parts" in line)
    for words in ("warning: split", "2 exact, 1 near", "a.jsonl:1 (train)", "b.jsonl:41 (test)", "out of the training file"):
        assert words in warning


def test_a_text_that_leaks_is_found_whichever_part_stands_first(workplace, stage):
    some = random_texts(60, 30, 12)
    leak = some[0]
    given = part_rows("test", [leak, *some[1:20]]) + part_rows("train", [leak, *some[20:40]]) + part_rows("val", some[40:])
    given += part_rows("train", [leak + "啊"])
    _, parts, found = split_of(workplace, stage, given)
    assert found["overlap"]["exact"] == 1 and found["overlap"]["near"] == 1 and leak + "啊" in parts["train"]


@pytest.mark.parametrize("missing", ["val", "test"])
def test_of_own_parts_without_val_or_test_it_is_drawn_from_train_and_the_other_stays(workplace, stage, missing):
    some = random_texts(400, 16, 13)
    other = {"val": "test", "test": "val"}[missing]
    given = part_rows("train", [*some[:300], some[300] + "啊"]) + part_rows(other, some[300:])
    done, parts, found = split_of(workplace, stage, given)
    assert done.status == 0, done.err
    assert f"split: no file is {missing}: it is drawn from train, 25% of it" in done.err
    assert parts[other] == some[300:] and set(parts["train"]) | set(parts[missing]) == {*some[:300], some[300] + "啊"}
    assert 45 < len(parts[missing]) < 105 and found["overlap"]["near"] == 1
    assert abs(found["deviation"][missing]) < 0.1 and found["deviation"][other] == 0


def test_own_parts_without_train_are_one_line_that_says_so(workplace, stage):
    some = random_texts(40, 16, 14)
    done, _, _ = split_of(workplace, stage, part_rows("val", some[:20]) + part_rows("test", some[20:]))
    assert done.status == 1 and "val and test, and none is train: name one train" in done.error


def test_a_large_group_within_an_own_part_is_no_error(workplace, stage):
    some = random_texts(120, 16, 15)
    same = [row("孩子发热三十九度怎么办才好呢", f"答{i}") | {"source": "a", "line": i, "part": "train"} for i in range(60)]
    done, parts, _ = split_of(workplace, stage, same + part_rows("val", some[:60]) + part_rows("test", some[60:]))
    assert done.status == 0 and len(parts["train"]) == 60, done.err
