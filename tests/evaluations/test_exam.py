import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError
from scipy.stats import binomtest

from evaluations import exam
from tests.conftest import params_with
from tests.evaluations.test_judgements import judge_server

CMEXAM = [
    "Question",
    "Options",
    "Answer",
    "Explanation",
    "Disease Group",
    "Clinical Department",
    "Medical Discipline",
    "Area of Competency",
    "Difficulty level",
]
FEVER = "患者，男性，二十岁，发热三天，咽痛，咳嗽，胸片未见异常，最可能的诊断是"
FIVE = "A 感冒\nB 肺炎\nC 肺结核\nD 哮喘\nE 肺癌"


def cmexam(folder, *rows):
    """Write rows of question, options, answer (department, discipline) as CMExam's table."""
    with (folder / "exam.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(CMEXAM)
        for text, options, answer, *subjects in rows:
            department, discipline = subjects or ("内科", "临床医学")
            writer.writerow([text, options, answer, "解析", "呼吸系统疾病", department, discipline, "疾病诊断和鉴别诊断", "2"])
    return folder / "exam.csv"


def cmb(folder, *rows):
    """Write rows of question, option, answer, question_type as CMB's array."""
    names = ("question", "option", "answer", "question_type")
    kinds = {"exam_type": "医师考试", "exam_class": "执业医师", "exam_subject": "口腔执业医师"}
    (folder / "exam.json").write_text(
        json.dumps([kinds | dict(zip(names, row, strict=True)) for row in rows], ensure_ascii=False)
    )
    return folder / "exam.json"


def test_cmexam_is_read_with_options_in_one_cell_and_its_subjects(tmp_path):
    file = cmexam(
        tmp_path,
        (FEVER, FIVE, "A"),
        ("下列哪些是\n发热的原因", "A. 感染\nB、肿瘤，\n可低热\nC 药物\nD 骨折", "ABC", "", "药学"),
    )
    [single, multiple], unusable = exam.read_questions(file)
    assert not unusable and (single["line"], multiple["line"]) == (2, 7)
    assert single["options"] == {"A": "感冒", "B": "肺炎", "C": "肺结核", "D": "哮喘", "E": "肺癌"}
    assert (single["answer"], single["kind"]) == ("A", "single")
    assert single["subjects"] == {"Medical Discipline": "临床医学", "Clinical Department": "内科"}
    assert multiple["options"] == {"A": "感染", "B": "肿瘤，\n可低热", "C": "药物", "D": "骨折"}
    assert (multiple["answer"], multiple["kind"], multiple["subjects"]) == ("ABC", "multiple", {"Medical Discipline": "药学"})


def test_cmb_is_read_with_its_kinds_and_subjects(tmp_path):
    four = {"A": "甲", "B": "乙", "C": "丙", "D": "丁", "E": None, "F": ""}
    file = cmb(
        tmp_path, ("问一", four, "D", "单项选择题"), ("问二", four, "c, A", "多项选择题"), ("问三", four, "B", "多项选择题")
    )
    found, unusable = exam.read_questions(file)
    assert not unusable and [row["answer"] for row in found] == ["D", "AC", "B"]
    assert [row["kind"] for row in found] == ["single", "multiple", "multiple"] and list(found[0]["options"]) == list("ABCD")
    assert found[0]["subjects"] == {"exam_type": "医师考试", "exam_class": "执业医师", "exam_subject": "口腔执业医师"}


def test_options_may_be_a_list_of_keys_and_values():
    options = [{"key": "A", "value": "甲"}, {"key": "B", "value": "乙"}]
    assert exam.question({"Question": "问", "Options": options, "Answer": "B"})["options"] == {"A": "甲", "B": "乙"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("", FIVE, "A"), "no question"),
        ((FEVER, "", "A"), "fewer than two options"),
        ((FEVER, "感冒 肺炎", "A"), "fewer than two options"),
        ((FEVER, "A 感冒\nC 肺炎", "A"), "the options are AC"),
        ((FEVER, "A 感冒\nB 肺炎\nB 超", "A"), "the options are ABB"),
        ((FEVER, FIVE, ""), "no answer"),
        ((FEVER, FIVE, "F"), "the answer F is not among the options ABCDE"),
        ((FEVER, FIVE, "AF"), "the answer AF is not among the options ABCDE"),
        ((FEVER, FIVE, "感冒"), "is not among the options ABCDE"),
        ((FEVER + "\ufffd", FIVE, "A"), "characters lost"),
    ],
)
def test_a_row_that_is_no_question_is_named_with_its_line(tmp_path, row, reason):
    found, [unusable] = exam.read_questions(cmexam(tmp_path, (FEVER, FIVE, "A"), row))
    assert len(found) == 1 and unusable["line"] == 7 and reason in unusable["reason"]


def test_a_line_that_is_no_json_or_no_object_is_named_too(tmp_path):
    good = json.dumps({"question": "问", "option": {"A": "甲", "B": "乙"}, "answer": "A"})
    (tmp_path / "exam.jsonl").write_text(f"{good}\n{{broken\n[1]\n")
    found, unusable = exam.read_questions(tmp_path / "exam.jsonl")
    assert len(found) == 1 and unusable == [{"line": 2, "reason": "not JSON"}, {"line": 3, "reason": "not an object"}]


def test_only_letters_of_the_options_are_allowed():
    options = dict.fromkeys("ABCD", "x")
    one, many = (re.compile(exam.allowed({"options": options, "kind": kind})) for kind in ("single", "multiple"))
    assert [text for text in ("A", "D", "E", "AB", "") if one.fullmatch(text)] == ["A", "D"]
    texts = {"".join(letter for i, letter in enumerate("ABCD") if bits >> i & 1) for bits in range(16)}
    assert {text for text in texts | {"BA", "AA", "E", "A B"} if many.fullmatch(text)} == texts - {""}


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0.0, 16.11), (1, 29, 0.61, 17.18)],
)
def test_wilsons_interval_is_that_of_newcombe_1998_and_of_scipy(right, asked, low, high):
    found = exam.wilson(right, asked)
    assert (round(found["low"], 2), round(found["high"], 2)) == (low, high)
    theirs = binomtest(right, asked).proportion_ci(method="wilson")
    assert (found["low"], found["high"]) == pytest.approx((100 * theirs.low, 100 * theirs.high), abs=1e-4)
    assert exam.wilson(asked, asked)["high"] == 100


def test_accuracy_is_by_kind_and_subject_and_the_gain_is_of_pairs():
    def row(subject, kind, base, tuned):
        return {"answer": "A", "kind": kind, "base": base, "tuned": tuned, "subjects": {"exam_class": subject}}

    rows = (
        [row("护理", "single", "A", "A")] * 40
        + [row("护理", "single", "B", "A")] * 10
        + [row("药学", "multiple", "A", "AB")] * 10
    )
    found = exam.summarise(rows, params_with().metrics)
    assert (found["questions"], found["base"], found["tuned"], found["gain"]) == (60, 83.33, 83.33, 0.0)
    nursing = found["subjects"]["exam_class"]["护理"]
    assert (nursing["questions"], nursing["base"], nursing["tuned"], nursing["gain"]) == (50, 80.0, 100.0, 20.0)
    assert nursing["intervals"]["base"] == exam.wilson(40, 50) and nursing["intervals"]["gain"]["low"] > 5
    assert found["kinds"]["multiple"]["tuned"] == 0 and list(found["subjects"]) == ["exam_class"]


def letters_of(prompt):
    return re.findall("^([A-Z])\\. ", prompt, re.MULTILINE)


def clever(prompt, body):
    """As tuned, know that fever is A and take all where there are many; as base, always say the last letter."""
    letters = letters_of(prompt)
    if body["model"] == "base":
        return letters[-1]
    return "".join(letters) if "多项" in prompt else "A"


@pytest.fixture
def sitting(workplace, stage, monkeypatch, tiny_tokenizer):
    """Give a function that runs the stage on an exam file against a server, with a training part beside it."""
    folder = workplace()

    def run(file, url, train=(), **changes):
        (folder / "split").mkdir(exist_ok=True)
        rows = [{"instruction": text, "input": "", "output": "多休息。", "system": "", "history": []} for text in train]
        (folder / "split" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "config.json").write_text("{}")
        (folder / "base.json").write_text(json.dumps({"path": str(folder), "model": "m", "files": {}}))
        params = params_with({"predictions.base_url": url, "predictions.concurrency": 1})  # so that what was seen is known
        section = exam.Exam(**{"path": file and str(file), "max_questions": None} | changes)
        names = ("metrics", "predictions", "adapter", "split", "decoding")
        chosen = SimpleNamespace(exam=section, ensure_unchanged=lambda: None, **{name: getattr(params, name) for name in names})
        monkeypatch.setattr(exam.Params, "read", lambda: chosen)
        paths = {"base": "base.json", "adapter": "split", "split": "split", "tokenizer": tiny_tokenizer}
        done = stage("exam", **paths, out="exam.jsonl", metrics="evaluations/exam.json")
        written = folder / "evaluations" / "exam.json"
        done.found = json.loads(written.read_text()) if written.exists() else None
        done.rows = [json.loads(line) for line in (folder / "exam.jsonl").read_text().splitlines()] if done.found else None
        return done

    return run


def test_the_stage_scores_both_models_and_names_what_it_could_not_use(sitting, tmp_path):
    many = (FEVER + "，还有哪些可能", FIVE, "ABCDE")
    file = cmexam(tmp_path, (FEVER, FIVE, "A", "儿科", "临床医学"), many, ("没有答案", FIVE, ""), ("肺癌见于", FIVE, "E"))
    with judge_server(clever) as server:
        done = sitting(file, server.url, train=[FEVER + "什么？", "肺癌见于？", "头痛怎么办"])
    assert done.status == 0 and (done.found["questions"], done.found["base"], done.found["tuned"]) == (3, 33.33, 66.67)
    assert done.found["subjects"]["Clinical Department"]["儿科"]["gain"] == 100
    assert done.found["unusable"] == {"rows": 1, "reasons": [{"line": 12, "reason": "no answer"}]}
    assert done.found["in_training"] == {"questions": 2, "lines": [2, 17]}
    assert "line 12: no answer" in done.err and "2 of 3 questions stand in the training part" in done.err
    sheet = [(row["line"], row["base"], row["tuned"], row["in_training"]) for row in done.rows]
    assert sheet == [(2, "E", "A", True), (7, "E", "ABCDE", False), (17, "E", "A", True)]
    bodies = [request.body for request in server.seen]
    assert {(body["temperature"], body["repetition_penalty"]) for body in bodies} == {(0, 1)}
    patterns = {body["structured_outputs"]["regex"] for body in bodies}
    assert patterns == {"[ABCDE]", exam.allowed({"options": dict.fromkeys("ABCDE"), "kind": "multiple"})}
    prompts = {body["messages"][0]["content"] for body in bodies}
    assert any("单项选择题" in prompt and f"{FEVER}\nA. 感冒\nB. 肺炎\n" in prompt for prompt in prompts)


def test_a_killed_sitting_asks_only_what_is_missing(sitting, tmp_path):
    file, count = cmexam(tmp_path, *((f"问题{i}", FIVE, "A") for i in range(6))), iter(range(100))
    with judge_server(clever, lambda request: (200, {}) if next(count) < 8 else (500, {"message": "out of memory"})) as server:
        broken = sitting(file, server.url)
        assert broken.status == 1 and "out of memory" in broken.error and broken.err.count("error:") == 1
        kept = sum(len(answers.read_bytes().splitlines()) for answers in Path(".work/exam").glob("*/*.jsonl"))
        asked, count = len(server.seen), iter([-1] * 100)
        done = sitting(file, server.url)
    assert kept >= 6 and len(server.seen) - asked == 12 - kept and done.found["tuned"] == 100


def test_fewer_questions_are_drawn_by_content_and_stay_in_order(sitting, tmp_path):
    file = cmexam(tmp_path, *((f"问题{i}", FIVE, "A") for i in range(20)))
    with judge_server(clever) as server:
        few = [row["line"] for row in sitting(file, server.url, max_questions=5).rows]
        more = [row["line"] for row in sitting(file, server.url, max_questions=9).rows]
    assert len(few) == 5 and set(few) < set(more) and few == sorted(few) != more[:5]


def test_equal_questions_are_asked_and_counted_once(sitting, tmp_path):
    file = cmexam(tmp_path, *((f"问题{i // 3}", FIVE, "A") for i in range(9)))
    with judge_server(clever) as server:
        assert [row["line"] for row in sitting(file, server.url).rows] == [2, 17, 32]
        assert len(sitting(file, server.url, max_questions=2).rows) == 2


def test_a_server_that_replies_with_more_than_letters_is_an_error(sitting, tmp_path):
    with judge_server(lambda prompt, body: "答案是 A") as server:
        done = sitting(cmexam(tmp_path, (FEVER, FIVE, "A")), server.url)
    assert done.status == 1 and "line 2" in done.error and "答案是 A" in done.error and "structured_outputs" in done.error


@pytest.mark.parametrize(("name", "says"), [(None, "exam.path: null"), ("nowhere.csv", "no such file")])
def test_without_an_exam_one_line_says_what_to_set(sitting, name, says):
    done = sitting(name, "http://127.0.0.1:9")
    assert done.status == 2 and "exam.path" in done.error and says in done.error and done.err.count("\n") == 1


def test_a_file_without_any_question_is_an_error(sitting, tmp_path):
    done = sitting(cmexam(tmp_path, *[("问", FIVE, "")] * 7), "http://127.0.0.1:9")
    assert done.status == 1 and "no row is a question: line 2: no answer; line 7" in done.error and done.error.endswith("…")


def test_parameters_are_checked():
    with pytest.raises(ValidationError):
        exam.Exam(path=None, max_questions=0)
