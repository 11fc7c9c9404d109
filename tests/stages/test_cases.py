"""Small files of the kinds that people bring, each with the outcome that is right; where they are absent, this skips."""

import json
import shutil

import pytest

from tests.conftest import ROOT

CASES = ROOT.parent / "shared" / "cases" / "data"
APART = {"exact": 0, "near": 0, "contained": 0}
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"no cases at {CASES}")

READ = {  # (converted, rejected, why), and what stats.json counts besides
    "g01_unclosed_quote.csv": (550, {"a quote that is not closed": 1}, {}),
    "g02_quote_at_start.tsv": (356, {"a quote that is not closed": 7}, {}),
    "g02b_quote_at_start.csv": (361, {"a quote that is not closed": 2}, {}),
    "g03_constant_instruction.jsonl": (363, {}, {}),
    "g03b_constant_instruction_long.jsonl": (363, {}, {}),
    "g04_kto_messages.jsonl": (181, {"an undesired answer: it is kept in preferences.jsonl": 182}, {"preferences": 363}),
    "g04b_kto_alpaca.jsonl": (181, {"an undesired answer: it is kept in preferences.jsonl": 182}, {"preferences": 363}),
    "g05_prefix_words.jsonl": (363, {}, {}),
    "g05b_doctor_first.jsonl": (363, {}, {"mended": {"opened": 363}}),
    "g06_complex_cot.jsonl": (363, {}, {"mended": {"thoughts": 363}}),
    "g06b_reasoning_content.jsonl": (60, {}, {"mended": {"thoughts": 60}}),
    "g06c_think.jsonl": (363, {}, {"mended": {"thoughts": 363}}),
    "g07_big5.jsonl": (200, {}, {}),
    "g08_surrogate_array.json": (200, {"not JSON in UTF-8": 1}, {}),
    "g09_system_only_differs.jsonl": (60, {}, {}),
    "g10_same_answer.jsonl": (600, {}, {}),
    "g10b_same_greeting.jsonl": (363, {}, {}),
    "g11_quadratic.jsonl": (1000, {}, {}),
    "g12_pii.jsonl": (
        201,
        {"nothing but advertising": 2},
        {"personal_data": dict.fromkeys(["address", "bank", "email", "identity", "name", "qq", "record"], 1) | {"phone": 2}},
    ),
    "g12b_mojibake.jsonl": (
        201,
        {
            "mojibake: UTF-8 read as GBK": 1,
            "mojibake: 锟斤拷, 烫烫烫 and the like": 1,
            "mojibake: question marks where text was": 1,
        },
        {"mended": {"mojibake: UTF-8 as Latin-1": 2}},
    ),
    "g12c_punctuation.jsonl": (200, {"an answer without a word": 4, "a first question without a word": 1}, {}),
    "g12d_invisible_tags.jsonl": (199, {"an empty turn": 1}, {"mended": {"hidden": 2, "private": 1}}),
    "g13_nan_in_array.json": (200, {"NaN or Infinity, which is no JSON: expected a number or null": 1}, {}),
    "g13b_double_comma.json": (363, {"a comma that no element follows": 1}, {}),
    "g16_exam.jsonl": (363, {}, {}),
    "g16b_exam_short.jsonl": (74, {}, {}),
    "g17_twin_with_tail.jsonl": (726, {}, {}),
}
REFUSED = {
    "g06d_answer_and_response.jsonl": "two answers, 'answer' and 'Response'",
    "g15_two_columns_one_name.csv": "columns 2 and 3 are both called 'answer'",
    "g18_tools_dropped.jsonl": "'tools': a dialogue that calls tools",
}
NOT_SPLIT = {  # one question for every row: no side can be without it
    "g09_system_only_differs.jsonl": "a group of 60 of 60 dialogues is held together by texts such as '头疼怎么办'",
}
SKEWED = ("g07_big5.jsonl",)  # its questions differ in a number alone
MARKS = ("患者：", "医生：", "<think>", "＜think>")  # that no text may begin with


def converted(workplace, stage, file):
    folder = workplace({"converted.max_reject_rate": 1.0})
    (folder / "raw").mkdir()
    shutil.copy(file, folder / "raw" / f"dialogues{file.suffix}")
    return folder, stage("converted", raw="raw", out="converted")


def test_every_case_has_its_outcome():
    assert set(READ) | set(REFUSED) == {file.name for file in CASES.glob("g*")}


@pytest.mark.parametrize("name", READ)
def test_a_file_is_read_and_split_as_is_right(workplace, stage, name):
    folder, done = converted(workplace, stage, CASES / name)
    assert done.status == 0, done.err
    stats = json.loads((folder / "converted" / "stats.json").read_text(encoding="utf-8"))
    count, reasons, more = READ[name]
    assert (stats["converted"], stats["reasons"], stats["duplicates"]) == (count, reasons, 0)
    assert stats["raw"] == count + sum(reasons.values())
    for key, counted in more.items():
        assert counted == stats[key] or counted.items() <= stats[key].items()
    for line in (folder / "converted" / "dialogues.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts = [row["instruction"], row["output"], *(text for turn in row["history"] for text in turn)]
        assert not [text for text in texts if text.startswith(MARKS)]
    done = stage("split", converted="converted", out="split")
    if name in NOT_SPLIT:
        assert done.status == 1 and NOT_SPLIT[name] in done.error
    else:
        report = json.loads((folder / "split" / "report.json").read_text(encoding="utf-8"))
        assert done.status == 0 and report["overlap"] == APART
        assert (
            name in SKEWED or max(map(abs, report["deviation"].values())) < 0.12
        )  # of the small ones; chance is said on the screen


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_is_refused_by_name(workplace, stage, name):
    _, done = converted(workplace, stage, CASES / name)
    assert done.status == 1 and REFUSED[name] in done.error
