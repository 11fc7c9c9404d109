"""What every reader yields, and the lines of a source, none of them longer than one may be."""

import codecs
from collections.abc import Callable, Iterator
from typing import NamedTuple

LIMIT = 1 << 26  # bytes that a line, a row or an element may have: 64 MiB, so that no file takes the memory
BLOCK = 1 << 20  # bytes read at once
LARGEST_BLOCK = 1 << 23
MARK = codecs.BOM_UTF8  # it stands where files were put behind each other, too
SHOWN = 1000  # characters kept of what is broken

Read = Callable[[int], bytes]  # the next bytes of a source, in UTF-8; none at its end


class Unreadable(Exception):
    """A source of which no record can be read; the message says why."""


class Broken(NamedTuple):
    """What stands where a record should be."""

    reason: str
    text: str


class Record(NamedTuple):
    """A record and the place where it stands."""

    line: int  # of the source, counted from 1; in Parquet and XLSX the row
    value: bytes | dict | Broken  # JSON in UTF-8, or what a row holds
    lines: int = 1  # of the source that it covers
    element: int = 0  # in a JSON array, its place there, counted from 1

    @property
    def where(self) -> str:
        lines = f"line {self.line}" if self.lines == 1 else f"lines {self.line} to {self.line + self.lines - 1}"
        return f"{lines}, element {self.element}" if self.element else lines


def size(value: bytes | dict | Broken) -> int:
    """Return about how many bytes or characters a record has; of what is nested in a row nothing is counted."""
    if isinstance(value, bytes):
        return len(value)
    return sum(len(cell) for cell in (value.values() if isinstance(value, dict) else value) if isinstance(cell, str))


def broken(reason: str, text: bytes) -> Broken:
    return Broken(reason, text[: 4 * SHOWN].decode(errors="replace").rstrip()[:SHOWN])


def too_long(what: str, text: bytes) -> Broken:
    return broken(f"{what} of more than {LIMIT >> 20} MiB", text)


def lines_of(read: Read) -> Iterator[bytes]:
    """Yield lines with their ends; of a line longer than LIMIT the first LIMIT + 1 bytes, and then the next line."""
    rest = b""
    while block := read(min(max(BLOCK, len(rest)), LARGEST_BLOCK)):
        lines = (rest + block).splitlines(keepends=True)
        rest = b"" if lines[-1].endswith(b"\n") else lines.pop()  # a "\r" there may be half of "\r\n"
        yield from (line.removeprefix(MARK) for line in lines)
        if len(rest) > LIMIT and not rest.endswith(b"\r"):
            yield rest.removeprefix(MARK)[: LIMIT + 1]
            rest = after_this_line(read)
    yield from (line.removeprefix(MARK) for line in rest.splitlines(keepends=True) if line != MARK)


def after_this_line(read: Read) -> bytes:
    """Read to the end of the line and return what was read beyond it."""
    while block := read(BLOCK):
        first, *others = block.splitlines(keepends=True)
        if first.endswith((b"\n", b"\r")):
            return b"".join(others)
    return b""
