import hashlib
import json

import orjson

from xinglin.dialogues.rows import alpaca_row, row_id
from xinglin.serving.answers import samples

ROW = alpaca_row(["咳嗽怎么办？", "多喝温水。"], "", "内科")


def test_a_row_is_known_by_what_it_says_and_not_by_where_it_stands():
    place = {"source": "a.jsonl", "line": 7, "part": "test", "element": 3}
    assert row_id(ROW | place) == row_id(ROW) == hashlib.sha256(orjson.dumps(ROW)).hexdigest()[:16]
    assert len({row_id(ROW | {key: "x"}) for key in ROW}) == len(ROW)


def test_a_dialogue_that_stands_twice_in_a_part_is_asked_once(tmp_path):
    other = alpaca_row(["头痛怎么办？", "休息。"], "", "")
    rows = [ROW | {"line": 1}, ROW | {"line": 2, "source": "own.jsonl"}, other]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [sample["reference"] for sample in samples(tmp_path / "test.jsonl", None)] == ["多喝温水。", "休息。"]
    assert len(samples(tmp_path / "test.jsonl", 1)) == 1
