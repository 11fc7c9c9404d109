"""Records of a source file of any kind: JSON Lines, a JSON array, CSV or TSV; plain, gz, xz or zst; UTF-8, GBK or GB18030."""

import codecs
import csv
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, NamedTuple

import ijson
import zstandard

from xinglin.cli import CommandError

PACKED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".zst": zstandard.open}
KINDS = (".jsonl", ".json", ".csv", ".tsv")
DAMAGED = (OSError, EOFError, csv.Error, zlib.error, lzma.LZMAError, zstandard.ZstdError)
HEAD = 1 << 20  # bytes that the encoding is told from
BOM = codecs.BOM_UTF8

csv.field_size_limit(1 << 30)


class Broken(NamedTuple):
    """What stands where a row of a table should be."""

    reason: str
    text: str


Record = tuple[int, bytes | dict | Broken]  # the line (in an array: the position); a line of JSON, or what it holds


def suffixes(file: Path) -> tuple[str, str]:
    """Return which of KINDS a file is and how it is packed ("" for plain), by its name; stop if it is none of them."""
    name = file.name.lower()
    packed = next((suffix for suffix in PACKED if name.endswith(suffix)), "")
    kind = next((suffix for suffix in KINDS if name.removesuffix(packed).endswith(suffix)), None)
    if kind is None:
        raise CommandError(
            f"{file}: expected a name that ends in {', '.join(KINDS)}, alone or with {', '.join(PACKED)} after it"
        )
    return kind, packed


def records(file: Path) -> Iterator[Record]:
    """Yield the records of `file` with their place; a blank line is none. A file that breaks off is an error."""
    kind, packed = suffixes(file)
    number = 0
    try:
        with opened(file, packed) as source:
            head = source.read(HEAD)
        encoding = encoding_of(head, file)
        with opened(file, packed) as source:
            source.read(len(BOM) if head.startswith(BOM) else 0)
            for number, value in reader(kind, head)(source, encoding):
                yield number, value
    except DAMAGED as error:
        raise CommandError(f"{file}: damaged or cut short after record {number}: {' '.join(str(error).split())}")
    except (ijson.JSONError, UnicodeDecodeError) as error:  # half a surrogate pair, \udc00, is the latter
        raise CommandError(f"{file}: not a JSON array after record {number}: {' '.join(str(error).split())[:200]}")


@contextmanager
def opened(file: Path, packed: str) -> Iterator[BinaryIO]:
    with PACKED.get(packed, open)(file, "rb") as source:
        yield source if packed != ".zst" else io.BufferedReader(source)


def reader(kind: str, head: bytes) -> Callable[[BinaryIO, str], Iterator[Record]]:
    """Return what reads this kind; an array is told by its first character, since many name one .jsonl."""
    if kind == ".csv":
        return lambda source, encoding: separated(source, encoding, ",")
    if kind == ".tsv":
        return lambda source, encoding: separated(source, encoding, "\t")
    return array if head.removeprefix(BOM).lstrip().startswith(b"[") else lines


def lines(source: BinaryIO, encoding: str) -> Iterator[Record]:
    for number, line in enumerate(source, 1):
        if line.strip():
            yield number, line if encoding == "utf-8" else line.decode(encoding, "replace").encode()


def array(source: BinaryIO, encoding: str) -> Iterator[Record]:
    with decoded(source, encoding) as text:
        reader = SimpleNamespace(read=lambda size: text.read(size).encode()) if encoding != "utf-8" else source
        yield from enumerate(ijson.items(reader, "item", use_float=True), 1)


def separated(source: BinaryIO, encoding: str, delimiter: str) -> Iterator[Record]:
    with decoded(source, encoding) as text:
        table = csv.reader(text, delimiter=delimiter, strict=True)
        names = next(table, [])
        while True:
            line = table.line_num + 1
            try:
                row = next(table)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, Broken(f"not a row: {error}", "")
                continue
            if len(row) != len(names) and any(row):
                yield line, Broken(f"{len(row)} cells under a header of {len(names)}", delimiter.join(row))
            elif any(cell.strip() for cell in row):
                yield line, dict(zip(names, row, strict=True))


@contextmanager
def decoded(source: BinaryIO, encoding: str) -> Iterator[io.TextIOWrapper]:
    """Yield `source` as text, with U+FFFD where it is not valid, and leave it open afterwards."""
    text = io.TextIOWrapper(source, encoding, errors="replace", newline="")
    try:
        yield text
    finally:
        text.detach()


def encoding_of(head: bytes, file: Path) -> str:
    """Return utf-8 or gb18030 (which holds GBK), whichever more of the first lines are valid in."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise CommandError(f"{file}: the file is in UTF-16, expected UTF-8, GBK or GB18030")
    first = [line for line in head.splitlines(keepends=True) if not line.isascii()]
    whole = first[:-1] if len(head) == HEAD and len(first) > 1 else first
    valid = {name: sum(decodes(line, name) for line in whole) for name in ("utf-8", "gb18030")}
    return "gb18030" if valid["gb18030"] > 2 * valid["utf-8"] else "utf-8"


def decodes(line: bytes, encoding: str) -> bool:
    """Say whether a line, whose last character may be cut off, is valid in `encoding`."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(line)
    except UnicodeDecodeError:
        return False
    return True
