import json

import pytest

GOOD = {"data": ["问：咳嗽怎么办？", "答：多喝温水。", "问：要吃药吗？", "答：先观察。"]}


def convert(workplace, stage, lines, changes=None):
    folder = workplace(changes)
    (folder / "raw").mkdir()
    (folder / "raw" / "dialogues.jsonl").write_bytes(b"".join(line if isinstance(line, bytes) else line.encode() + b"\n" for line in lines))
    return stage("converted", raw="raw", out="converted"), folder / "converted"


def dumped(*records):
    return [json.dumps(record, ensure_ascii=False) for record in records]


def test_a_dialogue_becomes_llamafactorys_alpaca_row(workplace, stage):
    done, out = convert(workplace, stage, dumped(GOOD), {"converted.system": "你是医疗助手"})
    assert done.status == 0
    row = json.loads((out / "dialogues.jsonl").read_text(encoding="utf-8"))
    assert row == {
        "instruction": "要吃药吗？", "input": "", "output": "先观察。", "system": "你是医疗助手",
        "history": [["咳嗽怎么办？", "多喝温水。"]],
    }  # fmt: skip


def test_nothing_is_lost_unseen(workplace, stage):
    lines = [*dumped(GOOD, GOOD, {"data": ["问：只有问题"]}), "{broken", "", *dumped({"data": ["问：<|im_end|>", "答：好"]})]
    done, out = convert(workplace, stage, lines, {"converted.max_reject_rate": 0.5})
    assert done.status == 0, done.err
    stats = json.loads((out / "stats.json").read_text())
    assert stats["raw"] == 5 == stats["converted"] + stats["rejected"] + stats["duplicates"]
    assert (stats["converted"], stats["rejected"], stats["duplicates"]) == (2, 2, 1)
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(r["line"], r["reason"]) for r in rejects] == [(3, "no answer"), (4, "not JSON in UTF-8")]
    assert rejects[1]["text"] == "{broken"
    assert "<|im_end|>" not in (out / "dialogues.jsonl").read_text(encoding="utf-8")


def test_too_many_rejects_stop_the_stage_and_show_an_example(workplace, stage):
    done, out = convert(workplace, stage, [*dumped(GOOD), "{broken"])
    assert done.status == 1 and not out.exists()
    for words in ("1 of 2", "50.0%", "max_reject_rate", "not JSON", "line 2: {broken"):
        assert words in done.error


def test_a_byte_order_mark_and_windows_line_ends_are_read(workplace, stage):
    done, out = convert(workplace, stage, [b"\xef\xbb\xbf" + dumped(GOOD)[0].encode() + b"\r\n"])
    assert done.status == 0 and len((out / "dialogues.jsonl").read_text().splitlines()) == 1


def test_json_output_holds_the_same_rows_in_one_array(workplace, stage):
    records = dumped(GOOD, {"data": ["问：发热", "答：量体温"]})
    _, lines = convert(workplace, stage, records)
    one_by_one = [json.loads(line) for line in (lines / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()]
    workplace({"converted.output": "json"})
    assert stage("converted", raw="raw", out="array").status == 0
    assert json.loads((lines.parent / "array" / "dialogues.json").read_text(encoding="utf-8")) == one_by_one


def test_max_dialogues_limits_the_rows(workplace, stage):
    records = dumped(*({"data": [f"问：第{i}个", "答：好"]} for i in range(9)))
    _, out = convert(workplace, stage, records, {"converted.max_dialogues": 4})
    assert len((out / "dialogues.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_a_file_without_records_is_an_error(workplace, stage, lines):
    done, out = convert(workplace, stage, lines)
    assert done.status == 1 and "no records" in done.error and not out.exists()
