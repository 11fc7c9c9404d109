"""Rows of a table: CSV and TSV, whose damaged rows take no others with them, Parquet, and the sheet of an XLSX workbook."""

import csv
import re
import zipfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from itertools import chain, count
from pathlib import Path

from xinglin.dialogues.record import LIMIT, Read, Record, Unreadable, broken, lines_of, too_long

Columns = Mapping[str, str | int] | None

MORE = 1 << 20  # bytes of further lines in which the end of a quoted cell is looked for
ALIKE = 20  # from how many lines on, each of which could be a row, a cell that holds them is none
HEADER_LINES = 10  # over which a header may stretch
DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|"}  # the first that the header holds is the delimiter
TOLD = re.compile(rb"sep=(.)\s*\Z")  # a first line that tells Excel the delimiter
NOT_CLOSED = "a quote that is not closed"
BATCH = 1000  # rows of a Parquet file read at once, if they are no longer than usual
UNPACKED = 1 << 30  # bytes of a workbook's parts, which are read as a whole

csv.field_size_limit(1 << 30)


class Table:
    """A table read line by line; the lines in which a quoted cell did not end are read again.

    A cell may hold lines if its quote closes before a delimiter or the end of a line, and the row then has the header's
    number of cells. Otherwise the row is damaged: it is its first line alone, and a row begins at the next.

    A line on which a cell begins with a quoted word (`"高血压"怎么办,…`) is read literally if that gives the header's
    number of cells: its quotes are even, so it ends where its writer ended it. A lone quote may begin a text of which
    the rest is on other lines, so that line is broken.
    """

    def __init__(self, read: Read, kind: str) -> None:
        self.lines = lines_of(read)
        self.again: deque[bytes] = deque()  # lines to be read before those
        self.first = b""  # the first line of a row, for the parser
        self.pulled: list[bytes] = []  # the lines of this row
        self.room = 0  # bytes that further lines of it may have
        self.line = 1  # at which the next row begins
        self.delimiter = self.told_delimiter() or self.likely_delimiter(kind)
        self.parser = csv.reader(self, delimiter=self.delimiter, strict=True)

    def told_delimiter(self) -> str | None:
        first = self.next_line()
        if told := TOLD.match(first):
            self.line = 2
            return told[1].decode("latin-1")
        self.again.append(first)
        return None

    def likely_delimiter(self, kind: str) -> str:
        while (header := self.next_line()) and not header.strip():
            self.line += 1
        self.again.append(header)
        unquoted = re.sub(r'"[^"]*"', "", header.decode(errors="replace"))
        return next((delimiter for delimiter in DELIMITERS[kind] if delimiter in unquoted), DELIMITERS[kind][0])

    def next_line(self) -> bytes:
        """Return the next line, nothing at the end."""
        return self.again.popleft() if self.again else next(self.lines, b"")

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Give the parser the first line of the row, then further ones as long as there is room."""
        line, self.first = self.first, b""
        if not line:
            if self.room < 0 or not (line := self.next_line()):
                raise StopIteration
            self.pulled.append(line)
        self.room -= len(line)
        return line.decode(errors="replace")

    def records(self, columns: Columns) -> Iterator[Record]:
        header = self.row(None)
        if header is None:
            return
        cells, lines = header
        if isinstance(cells, str):
            raise Unreadable(f"the first line is not a row of a table: {cells}")
        names = names_of(cells, columns)
        if names == cells:
            self.line += lines
        else:
            self.again.extendleft(reversed(self.pulled))
        expected = f"under a header of {len(names)}" if names == cells else f"where the first row has {len(names)}"
        while row := self.row(len(names)):
            cells, lines = row
            if isinstance(cells, str):
                yield Record(self.line, broken(cells, self.pulled[0]), lines)
            elif len(cells) == len(names):
                if any(map(str.strip, cells)):
                    yield Record(self.line, dict(zip(names, cells, strict=True)), lines)
            elif any(cells):
                yield Record(self.line, broken(f"{len(cells)} cells {expected}", b"".join(self.pulled)), lines)
            self.line += lines

    def row(self, width: int | None) -> tuple[list[str] | str, int] | None:
        """Return the cells of the next row, or what is wrong with it, and its number of lines; None at the end."""
        line = self.next_line()
        if not line:
            return None
        self.pulled = [line]
        if len(line) > LIMIT:
            return too_long("a line", b"").reason, 1
        if b'"' not in line:
            text = line.decode(errors="replace").rstrip("\r\n")
            return text.split(self.delimiter) if text else [], 1
        return self.quoted(line, width)

    def quoted(self, line: bytes, width: int | None) -> tuple[list[str] | str, int]:
        """Return the same of a row with quotes, perhaps over several lines; of a damaged one only the first is taken."""
        self.first, self.room = line, MORE
        try:
            cells = next(self.parser)
            if len(self.pulled) == 1 or self.is_one_row(cells, width):
                return cells, len(self.pulled)
            wrong = NOT_CLOSED
        except csv.Error as error:
            wrong = NOT_CLOSED if len(self.pulled) > 1 or "end of data" in str(error) else f"not a row: {error}"
        if wrong != NOT_CLOSED and line.count(b'"') % 2 == 0:
            cells = line.decode(errors="replace").rstrip("\r\n").split(self.delimiter)
            if len(cells) == width:
                return cells, 1
        self.again.extendleft(reversed(self.pulled[1:]))
        del self.pulled[1:]
        return wrong, 1

    def is_one_row(self, cells: list[str], width: int | None) -> bool:
        if width is None:
            return len(self.pulled) <= HEADER_LINES
        delimiter = self.delimiter.encode()
        alike = len(self.pulled) > ALIKE and all(line.count(delimiter) == width - 1 for line in self.pulled)
        return len(cells) == width and not alike


def names_of(first: Sequence[str], columns: Columns) -> list[str]:
    """Return the names of a table's columns: its first row, or "1", "2" … if `columns` gives positions; raises Unreadable."""
    wanted = [str(column) for column in (columns or {}).values()]
    if wanted and all(name.isdecimal() for name in wanted) and not set(wanted) <= set(first):
        if beyond := [name for name in wanted if not 1 <= int(name) <= len(first)]:
            raise Unreadable(f"converted.columns: position {beyond[0]} in a table of {len(first)} columns")
        return [str(position) for position in range(1, len(first) + 1)]
    places = Counter(name.strip().lower() for name in first if name.strip())
    for name, times in places.items():
        if times > 1:
            found = [str(place) for place, given in enumerate(first, 1) if given.strip().lower() == name]
            raise Unreadable(f"columns {' and '.join(found)} are both called '{name}', expected each name once")
    return list(first)


def parquet(file: Path, columns: Columns) -> Iterator[Record]:
    """Yield the rows of a Parquet file, counted from 1; raises OSError if it is damaged, Unreadable."""
    import pyarrow.parquet  # here: the processes that convert need none of it

    try:
        with pyarrow.parquet.ParquetFile(file) as source:
            names_of(source.schema_arrow.names, None)
            size = sum(source.metadata.row_group(group).total_byte_size for group in range(source.num_row_groups))
            rows = max(1, min(BATCH, LIMIT * source.metadata.num_rows // max(1, size)))
            number = count(1)
            for batch in source.iter_batches(batch_size=rows):
                yield from (Record(next(number), row) for row in batch.to_pylist())
    except pyarrow.ArrowException as error:
        raise OSError(error)


def workbook(file: Path, columns: Columns) -> Iterator[Record]:
    """Yield the rows of the one sheet of a workbook that has any; raises OSError if it is damaged, Unreadable."""
    import python_calamine

    try:
        with zipfile.ZipFile(file) as parts:
            if sum(part.file_size for part in parts.infolist()) > UNPACKED:
                raise Unreadable(f"a workbook of more than {UNPACKED >> 20} MiB unpacked: save it as CSV")
        with python_calamine.CalamineWorkbook.from_path(str(file)) as book:
            sheets = [sheet for sheet in map(book.get_sheet_by_name, book.sheet_names) if sheet.height]
            if len(sheets) > 1:
                raise Unreadable(f"several sheets hold rows: {', '.join(sheet.name for sheet in sheets)}; expected one")
            for sheet in sheets:
                first_line = (sheet.start or (0, 0))[0] + 1
                yield from sheet_records(enumerate(sheet.iter_rows(), first_line), columns)
    except (python_calamine.CalamineError, zipfile.BadZipFile) as error:
        raise OSError(error)


def sheet_records(rows: Iterator[tuple[int, list]], columns: Columns) -> Iterator[Record]:
    texts = ((line, list(map(cell_text, row))) for line, row in rows)
    top, first = next(texts)
    names = names_of(first, columns)
    for line, cells in texts if names == first else chain([(top, first)], texts):
        if any(map(str.strip, cells)):
            yield Record(line, dict(zip(names, cells, strict=True)))


def cell_text(value: object) -> str:
    """Return a cell as its sheet shows it: 3, not 3.0."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat() if isinstance(value, date) else str(value)
