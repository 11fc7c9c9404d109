"""Files of records: packing, encodings, damage at large, limits."""

import codecs
import contextlib
import gzip
import json
import lzma
import os
import random
import time
import tracemalloc

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT, ends, params_with
from tests.reading import ENCODINGS, LINES, ROWS, TABLE, read, row, sound, table_of, told, write
from xinglin.cli import CommandError
from xinglin.dialogues.batches import Batch
from xinglin.dialogues.conversion import convert
from xinglin.dialogues.reading import Broken, records
from xinglin.dialogues.record import LIMIT

SEED = os.environ.get("FUZZ_SEED")


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


def test_a_file_of_several_frames_is_read_to_its_end(tmp_path):
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    content = skippable + zstandard.compress(LINES.encode()) + zstandard.compress(b"") + zstandard.compress(LINES.encode())
    assert [value for _, value in read(write(tmp_path / "d.jsonl.zst", content))] == ROWS * 2


def test_a_file_cut_anywhere_is_never_read_as_a_whole_one(tmp_path):
    packed = zstandard.ZstdCompressor(level=3, write_content_size=False).compress((LINES * 50).encode())
    for length in range(len(packed)):
        with pytest.raises(CommandError, match="damaged or cut short"):
            list(records(write(tmp_path / "d.jsonl.zst", packed[:length])))


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


def test_a_byte_order_mark_between_files_put_behind_each_other_is_read_over(tmp_path):
    mark = codecs.BOM_UTF8
    assert told(write(tmp_path / "d.jsonl", mark + LINES.encode() + mark + LINES.encode() + mark)) == ROWS * 2
    array = json.dumps(ROWS).encode()
    assert told(write(tmp_path / "d.json", mark + array + mark + array)) == ROWS * 2
    part = mark + ("question,answer\n" + table_of([1])[0]).encode()
    assert told(write(tmp_path / "d.csv", part * 2)) == [row(1), ("the header once more", "question,answer", 1), row(1)]


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
