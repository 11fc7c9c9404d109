import json
import sys
from pathlib import Path

import pytest

from tests.conftest import ends
from tools import leakage

QUESTION = "孩子昨天夜里开始发热三十九度并且咳嗽要不要马上去医院看急诊呢"
ANSWER = "先量体温多喝水，精神差或者超过三天不退热就到儿科看，出现抽搐立刻拨打120"


@pytest.fixture
def check(workplace, monkeypatch, capsys):
    """Give a function that checks a file against a training part of one dialogue: its status and what it printed."""
    folder = workplace()
    row = {"instruction": QUESTION, "input": "", "output": ANSWER, "system": "", "history": [], "department": ""}
    (folder / "data" / "split").mkdir(parents=True)
    (folder / "data" / "split" / "train.jsonl").write_text(json.dumps(row) + "\n")

    def run(name, content):
        (folder / name).write_text(content, encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["leakage", str(folder / name)])
        with ends() as end:
            leakage.main()
        return end.value.code, "".join(capsys.readouterr())

    return run


@pytest.fixture
def training(check):
    """Give a function that adds a question to the training part."""

    def add(question):
        row = {"instruction": question, "input": "", "output": "好", "system": "", "history": [], "department": ""}
        with Path("data/split/train.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    return add


def lines(*records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def test_a_near_dialogue_fails_and_is_shown(check):
    status, out = check(
        "mine.jsonl",
        lines(
            {"data": [f"问：{QUESTION}？谢谢", f"答：{ANSWER}。"]}, {"data": ["问：别的问题", "答：" + "完全不同的回答" * 5]}
        ),
    )
    assert status == 1 and "1 records, 50.00%" in out and f"line 1: '{QUESTION}" in out


def test_an_exam_question_of_unknown_shape_is_compared_by_every_text_in_it(check):
    exam = {"id": 7, "stem": f"{ANSWER}？", "options": {"A": "是", "B": "否"}}
    status, out = check(
        "exam.jsonl", lines(exam, {"id": 8, "stem": "另一道题目与训练数据没有任何关系，请选择最合适的一项作为答案"})
    )
    assert status == 1 and "1 records, 50.00%" in out


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("texts.json", json.dumps([f"{ANSWER}？", "另一道题目与训练数据没有任何关系，请选择最合适的一项作为答案"])),
        (
            "lists.json",
            json.dumps([["一", [f"{ANSWER}？"]], ["二", "另一道题目与训练数据没有任何关系，请选择最合适的一项作为答案"], 3]),
        ),
        ("lines.jsonl", lines(f"{ANSWER}？", "另一道题目与训练数据没有任何关系，请选择最合适的一项作为答案", None)),
    ],
)
def test_records_that_are_no_objects_are_compared_by_the_texts_in_them(check, name, content):
    status, out = check(name, content)
    assert status == 1 and "1 records, 50.00%" in out and "line 1" in out


def test_a_table_without_leakage_passes_and_its_13_grams_are_counted(check):
    piece = QUESTION[:15]
    status, out = check("exam.csv", f"question,answer\n{piece}但是后来完全不一样了所以不算近似重复,{'天' * 30}\n")
    assert status == 0 and "0 records, 0.00%" in out and "a 13-gram in common: 50.00% of texts" in out


@pytest.mark.parametrize(("content", "words"), [("", "no text of 3 characters"), ('{"a": "短"}\n', "no text of 3 characters")])
def test_a_file_without_texts_is_one_line(check, content, words):
    status, out = check("empty.jsonl", content)
    assert status == 1 and words in out


OPTIONS = " A. 口服抗生素并多饮水休息 B. 立即到急诊手术处理 C. 继续观察不需要任何处理"


@pytest.mark.parametrize(
    "options", [OPTIONS, "（A）口服抗生素（B）立即手术", "\nA、是\nB、否", "下列做法中最恰当的一项是哪一项请选择"]
)
def test_an_exam_question_with_its_options_behind_it_is_found(check, options):
    exam = [{"question": QUESTION + options, "answer": "A"}, {"question": f"高血压患者怎样控制体重{options}", "answer": "B"}]
    status, out = check("exam.jsonl", lines(*exam))
    assert status == 1 and "1 records, 50.00%" in out and "line 1" in out


def test_what_all_questions_of_an_exam_have_in_common_is_left_out(check):
    other = [f"{chr(0x4E00 + 7 * i) * 6}病的患者该如何处理{OPTIONS}" for i in range(30)]
    status, out = check("exam.jsonl", lines(*({"question": text, "answer": "A"} for text in [*other, QUESTION + OPTIONS])))
    assert status == 1 and "1 records, 3.23%" in out and "line 31" in out


@pytest.mark.parametrize("options", ["（A）多喝水（B）去医院", " A. 多喝水 B. 去医院"])
def test_a_short_question_is_found_though_its_options_stand_behind_it(check, training, options):
    training("宝宝拉肚子怎么办")
    status, out = check("exam.jsonl", lines({"question": f"宝宝拉肚子怎么办{options}", "answer": "A"}))
    assert status == 1 and "1 records, 100.00%" in out


def test_a_short_question_is_found_behind_an_instruction_that_all_have(check, training):
    training("宝宝拉肚子怎么办")
    other = [f"{chr(0x4E00 + 7 * i) * 6}该怎么治" for i in range(30)]
    exam = [{"question": f"下列做法中最恰当的一项是哪一项请选择{text}"} for text in [*other, "宝宝拉肚子怎么办"]]
    status, out = check("exam.jsonl", lines(*exam))
    assert status == 1 and "1 records, 3.23%" in out and "line 31" in out


@pytest.mark.parametrize("question", ["宝宝拉肚子怎么办", "老是累"])
def test_a_short_question_is_found_where_training_asks_the_same(check, training, question):
    training(question)
    exam = lines({"question": f"{question}？", "answer": "A"}, {"question": "小孩肚子疼怎么办", "answer": "B"})
    status, out = check("exam.jsonl", exam)
    assert status == 1 and "1 records, 50.00%" in out and "line 1" in out


def test_an_answer_that_stands_in_a_longer_one_of_training_is_found_and_a_short_answer_is_not_compared(check):
    inside = {"question": "换了一个别的问题来问", "answer": ANSWER[:32]}
    polite = {"question": "另外一个问题怎么处理", "answer": "先量体温多喝水"}
    status, out = check("mine.jsonl", lines(inside, polite))
    assert status == 1 and "1 records, 50.00%" in out and "line 1" in out


def test_a_file_that_is_not_there_is_named(workplace, monkeypatch, capsys):
    workplace()
    monkeypatch.setattr(sys, "argv", ["leakage", "nowhere.jsonl"])
    with ends() as end:
        leakage.main()
    assert end.value.code == 2 and "FILE=nowhere.jsonl: no such file" in capsys.readouterr().err
