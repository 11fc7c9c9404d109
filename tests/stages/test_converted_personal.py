import json

import pytest

from tests.stages.test_converted import convert_file, dumped, ended

PERSONAL = ("13800138000", "陈晓明", "ZY20231145", "abc12345")
RECORDS = dumped(
    {"data": ["问：我叫陈晓明，电话13800138000，头疼", "答：陈晓明您好，多休息。"]},
    {"data": ["问：住院号ZY20231145，头疼", "答：加微信：abc12345，限时优惠"]},
    {"data": ["问：电话13800138000"]},
    {"data": ["问：咳嗽", "答：多喝水。加微信咨询。"]},
)


def read(folder):
    return "".join(file.read_text(encoding="utf-8") for file in folder.iterdir())


@pytest.mark.parametrize("policy", ["mask", "reject"])
def test_nothing_personal_is_in_what_the_stage_writes_or_says(workplace, stage, policy):
    changes = {"converted.personal_data": policy, "converted.max_reject_rate": 0.9}
    done, out = convert_file(workplace, stage, ended(RECORDS), changes)
    assert done.status == 0, done.err
    assert not [value for value in PERSONAL if value in read(out) + done.out + done.err]
    stats = json.loads((out / "stats.json").read_text(encoding="utf-8"))
    assert stats["personal_data"] == {"name": 1, "phone": 2, "record": 1, "wechat": 1}
    assert stats["personal_data_examples"] == {"name": "陈…", "phone": "1…0", "record": "Z…5", "wechat": "a…5"}
    assert stats["reasons"].get("personal data (name, phone)", 0) == (policy == "reject")


def test_what_stops_the_stage_is_shown_masked(workplace, stage):
    done, _ = convert_file(workplace, stage, ended(RECORDS[2:]))
    assert done.status == 1 and "电话[电话]" in done.error and "13800138000" not in done.err


def test_kept_personal_data_stays_everywhere(workplace, stage):
    changes = {"converted.personal_data": "keep", "converted.advertising": "keep", "converted.max_reject_rate": 0.9}
    done, out = convert_file(workplace, stage, ended(RECORDS), changes)
    assert done.status == 0, done.err
    assert not [value for value in PERSONAL if value not in (out / "dialogues.jsonl").read_text(encoding="utf-8")]
    assert "13800138000" in (out / "rejects.jsonl").read_text(encoding="utf-8")
    assert json.loads((out / "stats.json").read_text(encoding="utf-8"))["personal_data"] == {}


@pytest.mark.parametrize(("policy", "answers"), [("remove", ["多休息。", "多喝水。"]), ("reject", ["多休息。"])])
def test_advertising_is_removed_or_rejected(workplace, stage, policy, answers):
    changes = {"converted.advertising": policy, "converted.max_reject_rate": 0.9}
    _, out = convert_file(workplace, stage, ended(RECORDS), changes)
    mended = json.loads((out / "stats.json").read_text(encoding="utf-8"))["mended"]
    assert mended.get("advertising", 0) == (policy == "remove")
    rows = [json.loads(line) for line in (out / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["output"].removeprefix("[姓名]您好，") for row in rows] == answers
