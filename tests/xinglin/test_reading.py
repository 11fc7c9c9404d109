import contextlib
import gzip
import json
import lzma
import os
import random
import time

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.converted import convert
from tests.conftest import ROOT, ends, params_with
from xinglin.cli import CommandError
from xinglin.dialogues.reading import Broken, records

SEED = os.environ.get("FUZZ_SEED")
ROWS = [{"data": ["问：头痛，发热三天", "答：量体温，多休息"]}, {"data": ["问：“咳嗽”", "答：看呼吸科。"]}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABLE = 'department,title,ask,answer\n内科,头痛,"发热三天\n体温39℃，怕冷",请就诊\n外科,,"脚""崴""了",冰敷\n'


def read(file):
    return [(place, json.loads(value) if isinstance(value, bytes) else value) for place, value in records(file)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk", "gb18030"])
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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
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
    assert [value for _, value in records(file)][1] == (json.dumps(ROWS[1], ensure_ascii=False) + "\n").encode()


def test_a_character_cut_at_the_end_of_the_first_look_does_not_change_the_encoding(tmp_path):
    row = json.dumps({"data": ["问：" + "咳" * 100, "答：" + "好" * 233]}, ensure_ascii=False)
    file = tmp_path / "d.jsonl"
    file.write_bytes(f"{row}\n".encode("gb18030") * 2000)
    assert {json.loads(value)["data"][0] for _, value in records(file)} == {"问：" + "咳" * 100}


@pytest.mark.parametrize("more", range(4))
def test_an_array_on_one_line_is_read_wherever_the_first_look_cuts_it(tmp_path, more):
    rows = [{"data": ["问：" + "x" * more + "咳" * 200, "答：" + "好" * 200]}] * 1500
    for encoding in ("gb18030", "utf-8"):
        file = tmp_path / f"{encoding}.json"
        file.write_bytes(json.dumps(rows, ensure_ascii=False).encode(encoding))
        assert file.stat().st_size > 1 << 20 and [value for _, value in records(file)] == rows


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.docx", b"x", "expected a name that ends in .jsonl"),
        ("d.jsonl.bz2", b"x", "expected a name that ends in .jsonl"),
        ("d.jsonl", LINES.encode("utf-16"), "UTF-16, expected UTF-8, GBK or GB18030"),
        ("d.jsonl.gz", gzip.compress(LINES.encode() * 900)[:-200], "cut short after record"),
        ("d.jsonl.xz", lzma.compress(LINES.encode() * 900)[:-40], "cut short after record"),
        ("d.jsonl.zst", b"not packed", "damaged or cut short after record 0"),
        ("d.json", b'[{"data": []}, {"data"', "not a JSON array after record 1"),
        ("d.json", rb'[{"data": []}, {"data": ["\udc00"]}]', "not a JSON array after record 1"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line_that_names_it(tmp_path, capsys, name, content, words):
    file = tmp_path / name
    file.write_bytes(content)
    with ends():
        read(file)
    line = capsys.readouterr().err
    assert name in line and words in line and line.count("\n") == 1


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=300),
    kind=st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".jsonl.gz", ".csv.xz", ".json.zst"]),
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
            chunk = convert(given, converted)
            assert len(chunk.rows) + len(chunk.rejects) == len(given)
            for row in chunk.rows:
                json.loads(row)
        count += 1
    print(f"{count} files")
    assert count > 1000
