import codecs
import contextlib
import csv
import gzip
import io
import json
import lzma
import os
import random
import time
import tracemalloc
import zipfile
from html import escape

import orjson
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT, ends, params_with
from xinglin.cli import CommandError
from xinglin.dialogues.batches import Batch
from xinglin.dialogues.conversion import convert
from xinglin.dialogues.reading import Broken, Record, records
from xinglin.dialogues.record import LIMIT

SEED = os.environ.get("FUZZ_SEED")
ROWS = [{"data": ["问：头痛，发热三天", "答：量体温，多休息"]}, {"data": ["问：“咳嗽”", "答：看呼吸科。"]}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABLE = 'department,title,ask,answer\n内科,头痛,"发热三天\n体温39℃，怕冷",请就诊\n外科,,"脚""崴""了",冰敷\n'


def read(file):
    return [(record.element or record.line, loaded(record.value)) for record in records(file)]


def loaded(value):
    return json.loads(value) if isinstance(value, bytes) else value


def write(file, content):
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def told(file, columns=None):
    """Return what is read: a record as it is, of what is broken the reason, the text and how many lines it covers."""
    return [
        (record.value.reason, record.value.text, record.lines) if isinstance(record.value, Broken) else loaded(record.value)
        for record in records(file, columns)
    ]


ENCODINGS = ["utf-8", "utf-8-sig", "gbk", "gb18030", "utf-16", "utf-16-le", "utf-16-be"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".zst", zstandard.compress)]
)
def test_lines_and_arrays_are_read_in_each_encoding_and_packing(tmp_path, encoding, ending, pack):
    for kind, text in (
        (".jsonl", LINES),
        (".json", json.dumps(ROWS, ensure_ascii=False, indent=1)),
        (".json", LINES),
        (".jsonl", json.dumps(ROWS)),
    ):
        file = tmp_path / f"d{kind}{ending}"
        file.write_bytes(pack(text.encode(encoding)))
        assert read(file) == [(1, ROWS[0]), (2, ROWS[1])]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("kind", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_tables_are_read_with_newlines_and_quotes_in_cells(tmp_path, encoding, kind, delimiter):
    file = tmp_path / f"d{kind}"
    file.write_bytes(TABLE.replace(",", delimiter).encode(encoding))
    first = {"department": "内科", "title": "头痛", "ask": "发热三天\n体温39℃，怕冷", "answer": "请就诊"}
    assert read(file) == [(2, first), (4, {"department": "外科", "title": "", "ask": '脚"崴"了', "answer": "冰敷"})]


def test_a_row_with_a_cell_too_many_or_too_few_is_named_and_the_next_is_read(tmp_path):
    file = tmp_path / "d.csv"
    file.write_text("ask,answer\n咳嗽,多喝水,多休息\n头痛\n,\n发热,量体温\n", encoding="utf-8")
    assert read(file) == [
        (2, Broken("3 cells under a header of 2", "咳嗽,多喝水,多休息")),
        (3, Broken("1 cells under a header of 2", "头痛")),
        (5, {"ask": "发热", "answer": "量体温"}),
    ]


def test_blank_lines_are_no_records_and_keep_the_count_of_lines(tmp_path):
    file = tmp_path / "d.jsonl"
    file.write_bytes(b"\n" + LINES.encode().replace(b"\n", b"\r\n\r\n"))
    assert [place for place, _ in read(file)] == [2, 4]


def test_one_line_in_another_encoding_does_not_change_how_the_others_are_read(tmp_path):
    file = tmp_path / "d.jsonl"
    file.write_bytes(LINES.encode() + json.dumps(ROWS[0], ensure_ascii=False).encode("gbk") + b"\n" + LINES.encode())
    assert [record.value for record in records(file)][1] == (json.dumps(ROWS[1], ensure_ascii=False) + "\n").encode()


def test_a_character_cut_at_the_end_of_the_first_look_does_not_change_the_encoding(tmp_path):
    row = json.dumps({"data": ["问：" + "咳" * 100, "答：" + "好" * 233]}, ensure_ascii=False)
    file = tmp_path / "d.jsonl"
    file.write_bytes(f"{row}\n".encode("gb18030") * 2000)
    assert {value["data"][0] for _, value in read(file)} == {"问：" + "咳" * 100}


@pytest.mark.parametrize("more", range(4))
def test_an_array_on_one_line_is_read_wherever_the_first_look_cuts_it(tmp_path, more):
    rows = [{"data": ["问：" + "x" * more + "咳" * 200, "答：" + "好" * 200]}] * 1500
    for encoding in ("gb18030", "utf-8"):
        file = tmp_path / f"{encoding}.json"
        file.write_bytes(json.dumps(rows, ensure_ascii=False).encode(encoding))
        assert file.stat().st_size > 1 << 20 and [value for _, value in read(file)] == rows


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.docx", b"x", "expected a name that ends in .jsonl"),
        ("d.jsonl.bz2", b"x", "expected a name that ends in .jsonl"),
        ("d.jsonl", LINES.encode("utf-32"), "UTF-32, expected UTF-8, UTF-16, GBK, GB18030 or Big5"),
        ("d.jsonl", "鼗鼗龘".encode("gbk"), "cannot be told: GB18030 (GBK) or Big5?"),
        ("d.parquet.gz", b"x", "expected a name that ends in .jsonl"),
        ("d.parquet", b"PAR1 and no more", "damaged or cut short after record 0"),
        ("d.xlsx", b"PK and no more", "damaged or cut short after record 0"),
        ("d.jsonl.gz", gzip.compress(LINES.encode() * 900)[:-200], "cut short after record"),
        ("d.jsonl.xz", lzma.compress(LINES.encode() * 900)[:-40], "cut short after record"),
        ("d.jsonl.zst", zstandard.compress(LINES.encode() * 900)[:-40], "cut short after record"),
        ("d.csv.zst", zstandard.compress(TABLE.encode())[:-1], "cut short after record"),
        ("d.jsonl.zst", zstandard.compress(LINES.encode()) * 2 + zstandard.compress(LINES.encode())[:-1], "cut short after"),
        ("d.jsonl.zst", b"", "cut short after record 0"),
        ("d.jsonl.zst", b"not packed", "damaged or cut short after record 0"),
        ("d.json", b'[{"data": []}, {"data"', "cut short after record 2: the array is not closed"),
        ("d.csv", "ask,answer,Answer\n咳嗽,好,坏\n".encode(), "columns 2 and 3 are both called 'answer'"),
        ("d.csv", '"ask,answer\n咳嗽,好\n'.encode(), "the first line is not a row of a table"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line_that_names_it(tmp_path, capsys, name, content, words):
    file = tmp_path / name
    file.write_bytes(content)
    with ends():
        read(file)
    line = capsys.readouterr().err
    assert name in line and words in line and line.count("\n") == 1


def row(number):
    return {"question": f"头疼{number}怎么办", "answer": f"建议多喝水，注意休息{number}"}


def table_of(numbers, delimiter=","):
    return [f"{row(number)['question']}{delimiter}{row(number)['answer']}\n" for number in numbers]


@pytest.mark.parametrize(
    "damage", ['胃疼怎么办,"医生说', '"胃疼怎么办,医生说', '胃疼怎么办,"医生说"多喝水"', '"胃疼",怎么办,"医生说']
)
@pytest.mark.parametrize("before", [0, 1, 50])
def test_a_quote_without_its_end_takes_one_line_and_no_more(tmp_path, damage, before):
    lines = ["question,answer\n", *table_of(range(before)), f"{damage}\n", *table_of(range(before, 551))]
    found = list(records(write(tmp_path / "d.csv", "".join(lines))))
    assert [record.line for record in found] == list(range(2, 554)) and {record.lines for record in found} == {1}
    assert found.pop(before).value.text == damage
    assert [record.value for record in found] == list(map(row, range(551)))


def test_many_rows_between_two_stray_quotes_are_rows_and_not_one_cell(tmp_path):
    lines = ["question,answer\n", '胃疼怎么办,"医生说\n', *table_of(range(30)), '好了吗,医生说"\n', *table_of([30])]
    found = told(write(tmp_path / "d.csv", "".join(lines)))
    assert found[0] == ("a quote that is not closed", '胃疼怎么办,"医生说', 1)
    assert found[1:] == [*map(row, range(30)), {"question": "好了吗", "answer": '医生说"'}, row(30)]


def test_a_quote_that_closes_on_a_later_line_but_leaves_too_many_cells_takes_one_line(tmp_path):
    found = told(write(tmp_path / "d.csv", 'question,answer\n胃疼,"医生说\n好",了\n'))
    assert found == [("a quote that is not closed", '胃疼,"医生说', 1), {"question": '好"', "answer": "了"}]


def test_a_cell_over_several_lines_is_one_record_that_says_how_many(tmp_path):
    file = write(tmp_path / "d.csv", 'question,answer\n"头痛，\n1,发热\n2,咳嗽",多喝水\n咳嗽,看医生\n')
    assert [(record.line, record.lines) for record in records(file)] == [(2, 3), (5, 1)]
    assert told(file)[0] == {"question": "头痛，\n1,发热\n2,咳嗽", "answer": "多喝水"}


@pytest.mark.parametrize("line", ['"高血压"怎么办,少盐', '怎么治"高血压",少盐', '"高血压"和"糖尿病",少盐'])
def test_a_quoted_word_at_the_start_of_a_cell_is_text(tmp_path, line):
    question, answer = line.split(",")
    found = told(write(tmp_path / "d.csv", f"question,answer\n{line}\n{table_of([1])[0]}"))
    assert found == [{"question": question, "answer": answer}, row(1)]


CELLS = st.lists(st.text(alphabet='甲a",;\n\r\t ', max_size=8), min_size=2, max_size=2)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(CELLS.filter(lambda cells: any(map(str.strip, cells))), max_size=6),
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from(['x,"a"b"', "a,b,c", '"a"b"c"d",e,"f"', "alone"])), max_size=3),
    st.sampled_from([(".csv", ","), (".tsv", "\t")]),
)
def test_sound_rows_come_back_whatever_damage_stands_between_them(tmp_path_factory, rows, damages, kind):
    suffix, delimiter = kind
    lines = []
    for cells in rows:
        text = io.StringIO()
        csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerow(cells)
        lines.append(text.getvalue())
    for place, damage in damages:
        lines.insert(place, damage.replace(",", delimiter) + "\n")
    content = f"question{delimiter}answer\n{''.join(lines)}"
    found = list(records(write(tmp_path_factory.mktemp("rows") / f"d{suffix}", content)))
    assert [list(record.value.values()) for record in found if isinstance(record.value, dict)] == rows
    assert sum(isinstance(record.value, Broken) for record in found) == len(damages)
    assert sum(record.lines for record in found) == len(content.encode().splitlines()) - 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([None, 'a,"b', '"a,b', 'a,"b ""c""']), max_size=30))
def test_sound_rows_come_back_whatever_lone_quotes_stand_between_them(tmp_path_factory, damages):
    lines = [table_of([i])[0] if damage is None else damage + "\n" for i, damage in enumerate(damages)]
    file = write(tmp_path_factory.mktemp("rows") / "d.csv", f"question,answer\n{''.join(lines)}")
    expected = [row(i) if damage is None else ("a quote that is not closed", damage, 1) for i, damage in enumerate(damages)]
    assert told(file) == expected


@pytest.mark.parametrize("line", ['a,"b', 'a,"', '"', 'a,"b ""c', '"a,b', 'a"",""b,"c'])
def test_a_file_full_of_lone_quotes_is_read_in_linear_time(tmp_path, line):
    file = write(tmp_path / "d.csv", "question,answer\n" + f"{line}\n" * 100_000)
    began = time.process_time()
    assert sum(record.lines for record in records(file)) == 100_000
    assert time.process_time() - began < 10


def test_lone_quotes_far_apart_are_looked_beyond_once_each(tmp_path):
    lines = ['胃疼,"医生说\n' if i % 1000 == 0 else table_of([i])[0] for i in range(60_000)]
    began = time.process_time()
    found = list(records(write(tmp_path / "d.csv", "question,answer\n" + "".join(lines))))
    assert sum(isinstance(record.value, Broken) for record in found) == 60 and len(found) == 60_000
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("kind", "delimiter", "told_in_a_line"), [(".csv", ";", ""), (".csv", "|", ""), (".tsv", ",", ""), (".csv", "^", "sep=^\n")]
)
def test_the_header_tells_the_delimiter(tmp_path, kind, delimiter, told_in_a_line):
    content = f"{told_in_a_line}question{delimiter}answer\n{''.join(table_of(range(3), delimiter))}"
    assert told(write(tmp_path / f"d{kind}", content)) == list(map(row, range(3)))


def test_a_delimiter_in_the_quotes_of_a_header_tells_nothing(tmp_path):
    found = told(write(tmp_path / "d.csv", '"question, or title";answer\n咳嗽;多喝水\n'))
    assert found == [{"question, or title": "咳嗽", "answer": "多喝水"}]


@pytest.mark.parametrize("columns", [{"question": 1, "answer": 3}, {"question": "1", "answer": "3"}])
def test_columns_given_by_their_positions_say_that_there_is_no_header(tmp_path, columns):
    file = write(tmp_path / "d.csv", '咳嗽,内科,多喝水\n头痛,"神经\n内科",休息\n发热,内科\n')
    first, second, last = records(file, columns)
    assert (first.line, first.value) == (1, {"1": "咳嗽", "2": "内科", "3": "多喝水"})
    assert (second.line, second.lines, second.value["3"]) == (2, 2, "休息")
    assert last == Record(4, Broken("2 cells where the first row has 3", "发热,内科"))
    with ends():
        list(records(file, {"question": 1, "answer": 4}))


def test_names_that_are_numbers_may_be_a_header(tmp_path):
    file = write(tmp_path / "d.csv", "1,2\n咳嗽,多喝水\n")
    assert told(file, {"question": "1", "answer": "2"}) == [{"1": "咳嗽", "2": "多喝水"}]


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
TALKS = [
    {"data": ["问：咳嗽{[怎么办", "答：多喝温水]"]},
    {"department": "内科", "data": ['问：他说"头痛"', "答：好\\"]},
    {
        "conversations": [
            {"from": "human", "value": "问甲乙"},
            {"from": "gpt", "value": "答丙丁"},
            {"from": "human", "value": "再"},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "问{甲}乙"},
            {"role": "assistant", "content": "答"},
            {"role": "user", "content": ""},
        ]
    },
]


def sound(record):
    try:
        return isinstance(record.value, bytes) and bool(orjson.loads(record.value) or True)
    except orjson.JSONDecodeError:
        return False


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


def test_a_file_of_several_frames_is_read_to_its_end(tmp_path):
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    content = skippable + zstandard.compress(LINES.encode()) + zstandard.compress(b"") + zstandard.compress(LINES.encode())
    assert [value for _, value in read(write(tmp_path / "d.jsonl.zst", content))] == ROWS * 2


def test_a_file_cut_anywhere_is_never_read_as_a_whole_one(tmp_path):
    packed = zstandard.ZstdCompressor(level=3, write_content_size=False).compress((LINES * 50).encode())
    for length in range(len(packed)):
        with pytest.raises(CommandError, match="damaged or cut short"):
            list(records(write(tmp_path / "d.jsonl.zst", packed[:length])))


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


TRADITIONAL = [
    {"data": ["問：我頭疼三天了怎麼辦，需要吃藥嗎", "答：建議您多喝水，注意休息，必要時到醫院就診檢查。"]},
    {"data": ["問：咳嗽", "答：看醫生。"]},
]


@pytest.mark.parametrize("encoding", ["big5", "cp950", "big5hkscs", *ENCODINGS])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
@pytest.mark.parametrize("times", [1, 200])
def test_traditional_characters_are_read_in_each_encoding(tmp_path, encoding, suffix, times):
    rows = TRADITIONAL * times
    if suffix == ".csv":
        content = "data\n" + "".join(f"{row['data'][0]}\n" for row in rows)
        rows = [{"data": row["data"][0]} for row in rows]
    else:
        content = json.dumps(rows, ensure_ascii=False)
        content = content if suffix == ".json" else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file = write(tmp_path / f"d{suffix}", content.encode(encoding))
    assert [value for _, value in read(file)] == rows


def test_text_in_another_encoding_after_a_head_of_ascii_is_not_read_as_something_else(tmp_path):
    ascii_rows = b'{"data": ["a", "b"]}\n' * 60_000
    file = write(tmp_path / "d.jsonl", ascii_rows + LINES.encode("gbk"))
    assert [sound(record) for record in records(file)][-3:] == [True, False, False]
    file = write(tmp_path / "d.csv", b"question,answer\n" + b"a,b\n" * 300_000 + "咳嗽三天,多喝温水\n".encode("gbk"))
    assert all("\ufffd" in cell for cell in list(records(file))[-1].value.values())


@pytest.mark.parametrize(
    ("suffix", "start", "end"),
    [
        (".jsonl", LINES, "\n" + LINES),
        (".csv", "question,answer\n" + table_of([0])[0], "\n" + table_of([1])[0]),
        (".csv", "question,answer\n" + table_of([0])[0] + '"', '",x\n' + table_of([1])[0]),
        (".json", json.dumps(ROWS)[:-1] + ',{"data": ["', '"]},' + json.dumps(ROWS)[1:]),
        (".json", json.dumps(ROWS)[:-1] + ", ", ", " + json.dumps(ROWS)[1:]),
    ],
)
def test_what_is_too_long_to_be_held_is_one_reject(tmp_path, suffix, start, end):
    file = tmp_path / f"d{suffix}.zst"
    with zstandard.open(file, "wb") as packed:
        packed.write(start.encode())
        for _ in range(3 * LIMIT >> 20):
            packed.write(b"x" * (1 << 20))
        packed.write(end.encode())
    assert file.stat().st_size < 1 << 20
    tracemalloc.start()
    found = list(records(file))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    bad = [record for record in found if isinstance(record.value, Broken)]
    assert len(bad) == 1 and "more than 64 MiB" in bad[0].value.reason and len(bad[0].value.text) <= 1000
    assert len(found) == (5 if "json" in suffix else 3)
    assert peak < 4.5 * LIMIT


def test_parquet_is_read_row_by_row(tmp_path):
    file = tmp_path / "d.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS * 1500), file)
    assert read(file) == list(enumerate(ROWS * 1500, 1))


def xlsx(file, sheets, hidden=()):
    """Write a workbook of sheets, each a list of rows of texts and numbers, as little as the format allows."""
    kind, states = "http://schemas.openxmlformats.org", ("visible", "hidden")
    head = f'<?xml version="1.0"?><%s xmlns="{kind}/%s" xmlns:r="{kind}/officeDocument/2006/relationships">'

    def cell(value):
        return f"<c><v>{value}</v></c>" if isinstance(value, float) else f'<c t="inlineStr"><is><t>{escape(value)}</t></is></c>'

    with zipfile.ZipFile(file, "w") as parts:
        parts.writestr(
            "_rels/.rels",
            head % ("Relationships", "package/2006/relationships")
            + f'<Relationship Id="r" Type="{kind}/officeDocument/2006/relationships/officeDocument" Target="xl/workbook.xml"/>'
            + "</Relationships>",
        )
        parts.writestr(
            "xl/workbook.xml",
            head % ("workbook", "spreadsheetml/2006/main")
            + "<sheets>"
            + "".join(
                f'<sheet name="S{i}" sheetId="{i}" state="{states[i in hidden]}" r:id="r{i}"/>'
                for i in range(1, len(sheets) + 1)
            )
            + "</sheets></workbook>",
        )
        parts.writestr(
            "xl/_rels/workbook.xml.rels",
            head % ("Relationships", "package/2006/relationships")
            + "".join(
                f'<Relationship Id="r{i}" Type="{kind}/officeDocument/2006/relationships/worksheet" '
                f'Target="worksheets/{i}.xml"/>'
                for i in range(1, len(sheets) + 1)
            )
            + "</Relationships>",
        )
        for i, rows in enumerate(sheets, 1):
            cells = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
            sheet = head % ("worksheet", "spreadsheetml/2006/main") + f"<sheetData>{cells}</sheetData></worksheet>"
            parts.writestr(f"xl/worksheets/{i}.xml", sheet)
    return file


def test_the_one_sheet_of_a_workbook_that_holds_rows_is_read(tmp_path, capsys):
    rows = [["问题", "回答", "年龄"], ["咳嗽\n三天", "多喝水", 3.0], ["", "", ""], ['"头痛"', "休息", 3.5]]
    found = read(xlsx(tmp_path / "d.xlsx", [rows, []]))
    assert found == [
        (2, {"问题": "咳嗽\n三天", "回答": "多喝水", "年龄": "3"}),
        (4, {"问题": '"头痛"', "回答": "休息", "年龄": "3.5"}),
    ]
    with ends():
        read(xlsx(tmp_path / "d.xlsx", [rows, rows]))
    assert "several sheets hold rows: S1, S2" in capsys.readouterr().err


SHEET = [["问题", "回答"], ["咳嗽", "多喝水"]]
NOTES = [["说明", "日期"], ["仅供内部使用", "三月"]]


@pytest.mark.parametrize(
    ("sheets", "hidden", "line"),
    [
        ([NOTES, SHEET], (), 2),
        ([SHEET, SHEET], (2,), 2),
        ([NOTES, SHEET], (1,), 2),
        ([[["问诊记录", ""], ["", ""], *SHEET]], (), 4),
        ([NOTES, [["问诊记录", ""], *SHEET]], (), 3),
    ],
)
def test_the_sheet_with_known_names_is_read_below_its_title(tmp_path, sheets, hidden, line):
    assert read(xlsx(tmp_path / "d.xlsx", sheets, hidden)) == [(line, {"问题": "咳嗽", "回答": "多喝水"})]


def test_several_sheets_of_which_none_or_two_are_known_are_refused_with_a_cure(tmp_path, capsys):
    for sheets in ([NOTES, NOTES], [SHEET, SHEET, NOTES]):
        with ends():
            read(xlsx(tmp_path / "d.xlsx", sheets))
        line = capsys.readouterr().err
        assert "several sheets hold rows: S1, S2" in line and "save the right one as CSV" in line


def test_one_column_of_talks_is_no_title(tmp_path):
    ((line, value),) = read(xlsx(tmp_path / "d.xlsx", [[["data", ""], ["问：咳嗽", ""]]]))
    assert (line, value["data"]) == (2, "问：咳嗽")


@pytest.mark.parametrize("nothing", ["nan", "NaN", "NULL", "None", "\\N", "N/A", "#N/A", " nan ", "<NA>", "#REF!"])
def test_what_programs_write_into_an_empty_cell_is_empty(tmp_path, nothing):
    expected = {"question": "咳嗽", "answer": ""}
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        content = f"question{delimiter}answer\n咳嗽{delimiter}{nothing}\n".encode()
        assert told(write(tmp_path / f"d{suffix}", content)) == [expected]
    assert told(xlsx(tmp_path / "d.xlsx", [[["question", "answer"], ["咳嗽", nothing]]])) == [expected]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([expected | {"answer": nothing}]), tmp_path / "d.parquet")
    assert told(tmp_path / "d.parquet") == [expected]


def test_a_byte_order_mark_between_files_put_behind_each_other_is_read_over(tmp_path):
    mark = codecs.BOM_UTF8
    assert told(write(tmp_path / "d.jsonl", mark + LINES.encode() + mark + LINES.encode() + mark)) == ROWS * 2
    array = json.dumps(ROWS).encode()
    assert told(write(tmp_path / "d.json", mark + array + mark + array)) == ROWS * 2
    part = mark + ("question,answer\n" + table_of([1])[0]).encode()
    assert told(write(tmp_path / "d.csv", part * 2)) == [row(1), ("the header once more", "question,answer", 1), row(1)]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("form", ["%s\n%s\n", "[%s, %s]"])
def test_nan_is_named_as_what_is_no_json(tmp_path, number, form):
    bad, good = f'{{"data": ["问：咳嗽", "答：NaN"], "score": {number}}}', '{"data": ["问：NaN 是什么", "答：好"]}'
    first, second = told(write(tmp_path / "d.json", form % (bad, good)))
    assert "NaN or Infinity, which is no JSON" in first[0] and first[1:] == (bad, 1) and second == json.loads(good)


@pytest.mark.parametrize("names", ["question;answer;科室,部门", "q;a;科室,部门", '"科室,部门";q;a'])
def test_the_delimiter_is_the_one_that_divides_the_rows(tmp_path, names):
    found = told(write(tmp_path / "d.csv", f"{names}\n" + "咳嗽;多喝水, 少说话;内科\n头痛;休息;外科\n" * 3))
    assert [list(value.values()) for value in found] == [["咳嗽", "多喝水, 少说话", "内科"], ["头痛", "休息", "外科"]] * 3


@pytest.mark.parametrize(("names", "is_header"), [("question,answer", True), ("提问,医生的话", True), ("咳嗽,多喝水", False)])
def test_a_header_above_columns_given_by_position_is_no_row(tmp_path, names, is_header):
    found = list(records(write(tmp_path / "d.csv", f"{names}\n头痛,休息\n"), {"question": 1, "answer": 2}))
    assert [record.line for record in found] == ([2] if is_header else [1, 2])
    assert found[-1].value == {"1": "头痛", "2": "休息"}


def test_a_first_row_that_is_no_header_is_told_with_the_positions_to_set(tmp_path, capsys):
    for first in ("内科,咳嗽三天怎么办？,多喝温水，注意休息。", "1,头痛3天了,请先量一量血压再说"):
        with ends():
            told(write(tmp_path / "d.csv", f"{first}\n"))
        assert "converted.columns: {question: 2, answer: 3}" in capsys.readouterr().err
        assert len(told(tmp_path / "d.csv", {"question": 2, "answer": 3})) == 1


def test_a_name_over_two_lines_is_one_line_and_a_title_above_it_is_no_header(tmp_path):
    found = list(records(write(tmp_path / "d.csv", '问诊记录,\n,\n"question\n",answer\n咳嗽,多喝水\n')))
    assert [(record.line, record.value) for record in found] == [(5, {"question": "咳嗽", "answer": "多喝水"})]


def test_bytes_that_are_no_table_are_one_line_of_text(tmp_path, capsys):
    draw = random.Random(5)
    for _ in range(20):
        with ends():
            told(write(tmp_path / "d.csv", b"\x00\x1b," + draw.randbytes(3000)))
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and line[:-1].isprintable()


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=300),
    kind=st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".jsonl.gz", ".csv.xz", ".json.zst", ".parquet", ".xlsx"]),
)
def test_any_bytes_are_read_or_refused_but_never_raise(tmp_path_factory, content, kind):
    file = tmp_path_factory.mktemp("any") / f"d{kind}"
    file.write_bytes(content)
    with contextlib.suppress(CommandError):
        list(records(file))


TOKENS = [
    b'"data"',
    b'"messages"',
    b"[",
    b"{",
    b"]}",
    b'"',
    b"\\ud800",
    b"\\u0000",
    b",",
    b"\n",
    b"\r",
    b"\t",
    b"\xef\xbb\xbf",
    b"\xff",
    b"1e999",
    b"\xb4\xf0",
]


@pytest.mark.soak
def test_ten_minutes_of_damaged_files_raise_nothing(tmp_path):
    """Bytes of real shapes, mutated at random, in every kind, packing and encoding, read and converted."""
    draw = random.Random(time.time_ns() if SEED is None else int(SEED))
    converted = params_with().converted
    seeds = [(ROOT / "data" / "sample" / name).read_bytes()[:6000] for name in ("messy.jsonl", "dialogues.jsonl")]
    seeds += [
        json.dumps(ROWS).encode(),
        json.dumps(ROWS, ensure_ascii=False, indent=1).encode("gbk"),
        TABLE.encode("gb18030"),
        TABLE.encode(),
    ]
    end, count = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "600")), 0
    while time.monotonic() < end:
        content = bytearray(draw.choice(seeds))
        for _ in range(draw.choice((1, 3, 30))):
            place = draw.randrange(len(content) + 1)
            match draw.randrange(4):
                case 0:
                    content[place : place + draw.randrange(40)] = b""
                case 1:
                    content[place:place] = draw.choice(TOKENS)
                case 2:
                    content[place : place + 1] = draw.randbytes(1)
                case _:
                    content[place:place] = content[(start := draw.randrange(len(content) + 1)) : start + draw.randrange(200)]
        kind, (ending, pack) = (
            draw.choice((".jsonl", ".json", ".csv", ".tsv")),
            draw.choice((("", bytes), (".gz", gzip.compress), (".zst", zstandard.compress))),
        )
        packed = pack(bytes(content))
        file = tmp_path / f"d{kind}{ending}"
        file.write_bytes(packed[: draw.randrange(len(packed) + 1)] if draw.random() < 0.1 else packed)
        with contextlib.suppress(CommandError):
            given = list(records(file))
            chunk = convert(Batch(given), converted)
            assert len(chunk.rows) + len(chunk.rejects) == len(given)
            for row in chunk.rows:
                json.loads(row)
        count += 1
    print(f"{count} files")
    assert count > 1000
