"""JSON arrays, objects over several lines, and sets that an object wraps."""

import contextlib
import gzip
import json
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ends
from tests.reading import LINES, ROWS, TALKS, loaded, read, sound, told, write
from xinglin.cli import CommandError
from xinglin.dialogues.reading import Broken, records


@pytest.mark.parametrize("more", range(4))
def test_an_array_on_one_line_is_read_wherever_the_first_look_cuts_it(tmp_path, more):
    rows = [{"data": ["问：" + "x" * more + "咳" * 200, "答：" + "好" * 200]}] * 1500
    for encoding in ("gb18030", "utf-8"):
        file = tmp_path / f"{encoding}.json"
        file.write_bytes(json.dumps(rows, ensure_ascii=False).encode(encoding))
        assert file.stat().st_size > 1 << 20 and [value for _, value in read(file)] == rows


LAYOUTS = {
    "one line": lambda parts: f"[{', '.join(parts)}]",
    "a line each": lambda parts: "[\n" + ",\n".join(parts) + "\n]\n",
    "indented": lambda parts: json.dumps(["@"] * len(parts), indent=2).replace('"@"', "%s") % tuple(parts),
}


DAMAGES = {
    "NaN": lambda text, place: text[:-1] + ', "score": NaN}',
    "a quote": lambda text, place: text[:place] + '"' + text[place:],
    "a quoted word": lambda text, place: text[:place] + '"头疼"' + text[place:],
    "broken off": lambda text, place: text[:place],
    "a line break": lambda text, place: text[:place] + "\n" + text[place:],
    "half a pair": lambda text, place: text[:place] + r"\ud83d" + text[place:],
    "no bracket": lambda text, place: text.replace("]", ""),
    "no brace": lambda text, place: text[:-1],
    "a comma": lambda text, place: text[:-1] + ",}",
    "not UTF-8": lambda text, place: text[:place] + "\udcff" + text[place:],
}


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from(TALKS), min_size=3, max_size=8),
    st.integers(1, 6),
    st.sampled_from(sorted(DAMAGES)),
    st.sampled_from(sorted(LAYOUTS)),
    st.sampled_from([None, 1]),
)
def test_a_damaged_element_is_one_reject_and_all_others_are_read(tmp_path_factory, rows, place, damage, layout, indent):
    place = min(place, len(rows) - 2)
    rows[place] = TALKS[0]
    rows, place = TALKS + rows, place + len(TALKS)
    parts = [json.dumps(row, ensure_ascii=False, indent=indent) for row in rows]
    parts[place] = DAMAGES[damage](parts[place], parts[place].index("咳"))
    file = tmp_path_factory.mktemp("array") / "d.json"
    found = list(records(write(file, LAYOUTS[layout](parts).encode(errors="surrogateescape"))))
    bad = [record for record in found if not sound(record)]
    assert [loaded(record.value) for record in found if sound(record)] == rows[:place] + rows[place + 1 :]
    assert len(bad) == 1 and bad[0].element == place + 1
    text = bad[0].value.text if isinstance(bad[0].value, Broken) else bad[0].value.decode(errors="replace")
    assert text.startswith("{") and '"data"' in text


def test_after_damage_an_element_is_found_though_none_before_began_with_its_key(tmp_path):
    damaged, sound_one = '{"data": ["a"b"]}', {"department": "内科", "data": ["问", "答"]}
    found = told(write(tmp_path / "d.json", f"[{damaged}, {json.dumps(sound_one)}]"))
    assert found == [("not JSON", damaged, 1), sound_one]


def test_a_comma_too_many_in_an_array_is_a_reject_of_its_own(tmp_path):
    found = told(write(tmp_path / "d.json", '[{"a": 1},,\n{"a": 2}\n,]'))
    comma = ("a comma that no element follows", ",", 1)
    assert found == [{"a": 1}, comma, {"a": 2}, comma]


def test_an_element_says_its_place_and_its_lines(tmp_path):
    found = list(records(write(tmp_path / "d.json", json.dumps(ROWS, indent=1))))
    assert [(record.line, record.lines, record.element) for record in found] == [(2, 6, 1), (8, 6, 2)]
    assert found[1].where == "lines 8 to 13, element 2"


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("between", ["", " ", "\n", "\n\n", ",\n"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_objects_over_several_lines_or_beside_each_other_are_read(tmp_path, indent, between, suffix):
    file = write(tmp_path / f"d{suffix}", between.join(json.dumps(row, indent=indent) for row in TALKS[:4] * 5))
    assert [value for _, value in read(file)] == TALKS[:4] * 5


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_list_on_each_line_is_a_record(tmp_path, suffix):
    turns = [{"role": "user", "content": "咳嗽"}, {"role": "assistant", "content": "多喝水"}]
    assert read(write(tmp_path / f"d{suffix}", f"{json.dumps(turns)}\n" * 2)) == [(1, turns), (2, turns)]
    assert read(write(tmp_path / f"d{suffix}", json.dumps([turns] * 2))) == [(1, turns), (2, turns)]


def test_lines_stay_lines_though_the_first_of_them_is_damaged(tmp_path):
    found = list(records(write(tmp_path / "d.jsonl", '{"data": ["问\n' + LINES)))
    assert [record.line for record in found] == [1, 2, 3] and list(map(sound, found)) == [False, True, True]


@pytest.mark.parametrize("opening", ["[", ""])
def test_brackets_that_are_never_closed_are_read_in_linear_time(tmp_path, opening):
    file = write(tmp_path / "d.json", opening + '{"a": [{"b": 1}]},\n' + '{"a": [{"b":\n' * 20_000)
    began = time.process_time()
    with contextlib.suppress(CommandError):
        list(records(file))
    assert time.process_time() - began < 20


PAIRS = [{"question": f"头疼{i}怎么办", "answer": f"多休息{i}"} for i in range(5)]


ALPACA = [{"instruction": f"头疼{i}怎么办", "input": "", "output": f"多休息{i}"} for i in range(5)]


OTHER = [{"q": f"头疼{i}", "a": f"多休息{i}"} for i in range(5)]


TALK = [{"role": "user", "content": "咳嗽"}, {"role": "assistant", "content": "多喝水"}]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("rows", [PAIRS, ALPACA, ROWS, [TALK] * 3, OTHER, [{"turns": TALK}], [["咳嗽", "多喝水"]] * 2])
def test_records_that_an_object_wraps_are_read_as_elements(tmp_path, rows, suffix, indent):
    wrapped = [
        {"version": "1.0", "data": rows, "total": len(rows), "by": [{"name": "甲"}, {"name": "乙"}]},
        {"train": rows, "test": []},
        {"code": 0, "result": {"list": rows, "page": 1}},
    ]
    if isinstance(rows[0], dict):
        wrapped.append({str(place): row for place, row in enumerate(rows)})
    for value in wrapped:
        file = write(tmp_path / f"d{suffix}", json.dumps(value, ensure_ascii=False, indent=indent))
        assert read(file) == list(enumerate(rows, 1))


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        ({"data": ["问：咳嗽", "答：多喝水"]}, None),
        ({"messages": TALK, "tools": [{"name": "x"}] * 3}, None),
        ({"id": 1, "conversations": [{"from": "human", "value": "咳嗽"}, {"from": "gpt", "value": "多喝水"}]}, None),
        ({"conversation": [{"human": "咳嗽", "assistant": "多喝水"}] * 3}, None),
        ({**ALPACA[0], "history": [["头痛", "多休息"]] * 3, "sources": [{"url": "甲"}] * 3}, None),
        ({"case": {"ask": "咳嗽", "replies": [{"text": "好"}] * 3}}, {"question": "case.ask", "answer": "case.replies.0.text"}),
        ({"talk": PAIRS}, {"turns": "talk"}),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_one_dialogue_alone_in_its_file_stays_one(tmp_path, record, columns, indent):
    file = write(tmp_path / "d.json", json.dumps(record, ensure_ascii=False, indent=indent))
    assert told(file, columns) == [record]


def test_dialogues_on_lines_of_their_own_are_not_taken_for_sets(tmp_path):
    assert told(write(tmp_path / "d.jsonl", f"{json.dumps({'data': PAIRS})}\n" * 2)) == [{"data": PAIRS}] * 2
    broken = json.dumps({"data": PAIRS})[:-15] + "\n"
    assert len(list(records(write(tmp_path / "d.jsonl", broken + f"{json.dumps({'data': PAIRS})}\n" * 2)))) == 3


def test_columns_name_what_wrapped_records_have(tmp_path):
    columns = {"question": "q", "answer": "a"}
    for value in ({"items": OTHER[:1]}, {"conversations": OTHER}, {"0": OTHER[0], "1": OTHER[1]}):
        found = told(write(tmp_path / "d.json", json.dumps(value)), columns)
        assert found == OTHER[: len(found)] and len(found) == (5 if "conversations" in value else len(value))


@pytest.mark.parametrize("more", [0, 30_000])
def test_several_sets_in_one_file_are_refused_by_name(tmp_path, capsys, more):
    for value in (
        {"train": PAIRS + PAIRS[:1] * more, "test": PAIRS},
        {"train": PAIRS + PAIRS[:1] * more, "test": {"a": PAIRS[0]}},
    ):
        with ends():
            read(write(tmp_path / "d.json", json.dumps(value)))
        assert "several sets of records in one file: train, test" in capsys.readouterr().err


def test_a_damaged_record_of_a_wrapped_set_is_one_reject(tmp_path):
    parts = [json.dumps(row) for row in PAIRS]
    parts[2] = '{"question": "a"b", "answer": "c"}'
    found = list(records(write(tmp_path / "d.json", f'{{"version": 1, "data": [{", ".join(parts)}]}}')))
    assert [record.element for record in found] == [1, 2, 3, 4, 5]
    assert [isinstance(record.value, Broken) for record in found] == [False, False, True, False, False]


def test_a_wrapped_set_that_breaks_off_is_refused_and_a_large_one_is_not_held(tmp_path, capsys):
    text = json.dumps({"version": 1, "data": PAIRS}, ensure_ascii=False)
    for length in (-1, -2, -30):
        with ends():
            read(write(tmp_path / "d.json", text[:length]))
        assert "cut short" in capsys.readouterr().err
    row = json.dumps({"question": "咳" * 1000, "answer": "好"}, ensure_ascii=False)
    with gzip.open(tmp_path / "d.json.gz", "wb", 1) as packed:
        packed.write(b'{"data": [' + b", ".join([row.encode()] * 20_000) + b"]}")
    tracemalloc.start()
    assert sum(1 for _ in records(tmp_path / "d.json.gz")) == 20_000
    assert tracemalloc.get_traced_memory()[1] < 1 << 25
    tracemalloc.stop()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("form", ["%s\n%s\n", "[%s, %s]"])
def test_nan_is_named_as_what_is_no_json(tmp_path, number, form):
    bad, good = f'{{"data": ["问：咳嗽", "答：NaN"], "score": {number}}}', '{"data": ["问：NaN 是什么", "答：好"]}'
    first, second = told(write(tmp_path / "d.json", form % (bad, good)))
    assert "NaN or Infinity, which is no JSON" in first[0] and first[1:] == (bad, 1) and second == json.loads(good)
