"""Records of a source file: JSON Lines, a JSON array, CSV, TSV, Parquet or XLSX; packed or not; in any encoding of Chinese."""

import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from xinglin.cli import CommandError
from xinglin.dialogues.elements import Elements, begins_an_array, is_object, several_lines_each
from xinglin.dialogues.encodings import HEAD, encoding_of, utf8
from xinglin.dialogues.kinds import suffixes
from xinglin.dialogues.record import LIMIT, Broken, Read, Record, Unreadable, broken, lines_of, too_long
from xinglin.dialogues.tables import Columns, Table, parquet, workbook
from xinglin.dialogues.wrapped import Wrapped, set_within

__all__ = ["Broken", "Record", "records"]

UNPACK: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".zst": open}
BY_ROWS: dict[str, Callable[[Path, Columns], Iterator[Record]]] = {".parquet": parquet, ".xlsx": workbook}
FED = 1 << 10  # bytes of a .zst file unpacked at once: they may become 32 MiB
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)


def records(file: Path, columns: Columns = None) -> Iterator[Record]:
    """Yield the records of `file` with their place; a blank line is none. A file that breaks off is an error.

    `columns` that are positions (1, 2 …) say that a table has no header.
    """
    kind, packed = suffixes(file)
    number = 0
    try:
        for record in BY_ROWS[kind](file, columns) if kind in BY_ROWS else streamed(file, kind, packed, columns):
            number += 1
            yield without_nan(record)
    except Unreadable as error:
        raise CommandError(f"{file}: {error}")
    except DAMAGED as error:
        raise CommandError(f"{file}: damaged or cut short after record {number}: {' '.join(str(error).split())[:200]}")


def without_nan(record: Record) -> Record:
    """Return a record, one that would be JSON but for NaN or Infinity as what is broken, with that as the reason."""
    value = record.value
    if not isinstance(value, bytes) or (b"NaN" not in value and b"Infinity" not in value) or is_object(value, object):
        return record
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return record
    return record._replace(value=broken("NaN or Infinity, which is no JSON: expected a number or null", value))


def streamed(file: Path, kind: str, packed: str, columns: Columns) -> Iterator[Record]:
    with opened(file, packed) as source:
        head = source.read(HEAD)
    encoding, mark = encoding_of(head, file)
    with opened(file, packed) as source:
        source.read(mark)
        read = utf8(source, encoding)
        if kind in (".csv", ".tsv"):
            yield from Table(read, kind).records(columns)
        else:
            yield from json_records(read, head[mark:].decode(encoding, "replace").encode(), columns)


@contextmanager
def opened(file: Path, packed: str) -> Iterator[BinaryIO]:
    with UNPACK.get(packed, open)(file, "rb") as source:
        yield io.BufferedReader(Frames(source)) if packed == ".zst" else source


class Frames(io.RawIOBase):
    """Unpacks the frames of a .zst file; raises EOFError where the last has no end, which zstandard.open reads over."""

    def __init__(self, packed: BinaryIO) -> None:
        self.packed = packed
        self.frame = zstandard.ZstdDecompressor().decompressobj()
        self.rest = b""  # read, but not unpacked
        self.unpacked = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.unpacked:
            if not (fed := self.rest or self.packed.read(FED)):
                if not self.frame.eof:
                    raise EOFError("a frame is not closed")
                return 0
            if self.frame.eof:
                self.frame = zstandard.ZstdDecompressor().decompressobj()
            self.unpacked = memoryview(self.frame.decompress(fed))
            self.rest = self.frame.unused_data
        length = min(len(buffer), len(self.unpacked))
        buffer[:length], self.unpacked = self.unpacked[:length], self.unpacked[length:]
        return length


def json_records(read: Read, head: bytes, columns: Columns) -> Iterator[Record]:
    """Yield lines, elements of an array or objects over several lines, told by the beginning: many name an array .jsonl."""
    if begins_an_array(head):
        yield from Elements(read, in_array=True)
    elif (path := set_within(head, columns)) is not None:
        yield from Wrapped(read, path, columns)
    elif several_lines_each(head):
        yield from Elements(read, in_array=False)
    else:
        for number, line in zip(count(1), lines_of(read)):
            if len(line) > LIMIT:
                yield Record(number, too_long("a line", line))
            elif not line.isspace():
                yield Record(number, line)
