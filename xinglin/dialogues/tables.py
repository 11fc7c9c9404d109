"""Rows of a table: CSV and TSV, whose damaged rows take no others with them, Parquet, and the sheet of an XLSX workbook."""

import csv
import re
import zipfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from itertools import chain, count, islice
from pathlib import Path

from xinglin.dialogues.dialogue import Unusable
from xinglin.dialogues.formats import NAMED, shape_of
from xinglin.dialogues.record import LIMIT, Read, Record, Unreadable, broken, lines_of, too_long

Columns = Mapping[str, str | int] | None

MORE = 1 << 20  # bytes of further lines in which the end of a quoted cell is looked for
ALIKE = 20  # from how many lines on, each of which could be a row, a cell that holds them is none
HEADER_LINES = 10  # over which a header may stretch
DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|"}  # of those that fit the header equally, the first is the delimiter
AHEAD = 20  # lines that tell which of two delimiters in the header divides rows
TITLE_LINES = 10  # that may stand above a header
NOTHING = {"nan", "-nan", "null", "none", "\\n", "n/a", "na", "#n/a", "#na", "<na>", "nil", "nat"}  # what programs write
NOTHING |= {"#null!", "#div/0!", "#value!", "#ref!", "#name?", "#num!"}  # into an empty cell, and Excel's errors
LONGEST_NOTHING = max(map(len, NOTHING))
SENTENCE = re.compile(r"[。？！?!，；]|[\u4e00-\u9fff]{9}|\d[天岁周月年度次℃]|.{41}", re.DOTALL)  # no name of a column is one
NO_TEXT = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ufffd]")
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
        first = unquoted(header)
        found = [delimiter for delimiter in DELIMITERS[kind] if delimiter in first]
        ahead = self.ahead() if len(found) > 1 else []
        self.again.extend([header, *ahead])
        names = header.decode(errors="replace").replace('"', "")

        def fits(delimiter: str) -> tuple[int, int]:
            known = sum(name.strip().lower() in NAMED for name in names.split(delimiter))
            return known, sum(line.count(delimiter) == first.count(delimiter) for line in map(unquoted, ahead))

        return max(found or DELIMITERS[kind][:1], key=fits)

    def ahead(self) -> list[bytes]:
        """Return some of the next lines, not many bytes of them."""
        lines: list[bytes] = []
        while len(lines) < AHEAD and sum(map(len, lines)) < MORE and (line := self.next_line()):
            lines.append(line)
        return lines

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
        while header and is_title(header[0]) and self.line <= TITLE_LINES:
            self.line += header[1]
            header = self.row(None)
        if header is None:
            return
        cells, lines = header
        if isinstance(cells, str):
            raise Unreadable(f"the first line is not a row of a table: {cells}")
        names, is_header = names_of(cells, columns)
        if is_header:
            self.line += lines
        else:
            self.again.extendleft(reversed(self.pulled))
        head = cells if is_header else None
        expected = f"under a header of {len(names)}" if is_header else f"where the first row has {len(names)}"
        while row := self.row(len(names)):
            cells, lines = row
            if isinstance(cells, str):
                yield Record(self.line, broken(cells, self.pulled[0]), lines)
            elif cells == head:
                yield Record(self.line, broken("the header once more", b"".join(self.pulled)), lines)
            elif len(cells) == len(names):
                if any(map(str.strip, cells)):
                    yield Record(self.line, dict(zip(names, map(without_nothing, cells), strict=True)), lines)
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


def unquoted(line: bytes) -> str:
    return re.sub(r'"[^"]*"', "", line.decode(errors="replace"))


def without_nothing(cell: str) -> str:
    """Return a cell, one that holds only what programs write where nothing is as an empty one."""
    return "" if len(cell) <= LONGEST_NOTHING and cell.strip().lower() in NOTHING else cell


def is_title(cells: Sequence[str] | str) -> bool:
    """Say whether a row above a header is a title or blank: of several cells at most one is filled, and it is no known name."""
    if isinstance(cells, str):
        return False
    filled = [cell for cell in cells if cell.strip()]
    return len(cells) != 1 and len(filled) <= 1 and not has_known_names(filled, None)


def has_known_names(names: Iterable[str], columns: Columns) -> bool:
    """Say whether a header has what `columns` name, or names of a known shape."""
    if columns:
        return {str(name).split(".")[0] for name in columns.values()} <= set(names)
    try:
        return bool(shape_of({name: name for name in names}, None))
    except Unusable:
        return False


def names_of(first: Sequence[str], columns: Columns) -> tuple[list[str], bool]:
    """Return the names of a table's columns, and whether its first row is a header: otherwise they are "1", "2" …

    They are that too if `columns` gives positions. Raises Unreadable.
    """
    wanted = [str(column) for column in (columns or {}).values()]
    if wanted and all(name.isdecimal() for name in wanted) and not set(wanted) <= set(first):
        if beyond := [name for name in wanted if not 1 <= int(name) <= len(first)]:
            raise Unreadable(f"converted.columns: position {beyond[0]} in a table of {len(first)} columns")
        cells = [first[int(name) - 1].strip().lower() for name in wanted]
        is_header = any(cell in NAMED for cell in cells) and not any(map(SENTENCE.search, cells))
        return [str(position) for position in range(1, len(first) + 1)], is_header
    names = [" ".join(name.split()) for name in first]
    if any(map(NO_TEXT.search, names)):
        raise Unreadable("the first line is no text: expected a table in UTF-8, UTF-16, GBK, GB18030 or Big5")
    places = Counter(name.lower() for name in names if name)
    for name, times in places.items():
        if times > 1:
            found = [str(place) for place, given in enumerate(names, 1) if given.lower() == name]
            raise Unreadable(f"columns {' and '.join(found)} are both called '{name}', expected each name once")
    if not columns and len(names) > 1 and any(map(SENTENCE.search, names)) and not has_known_names(names, None):
        longest = sorted(range(1, len(names) + 1), key=lambda place: -len(names[place - 1]))[:2]
        question, answer = sorted(longest)
        raise Unreadable(
            f"the first line looks like a row, not like a header: where there is none, set converted.columns: "
            f"{{question: {question}, answer: {answer}}}; where it is one, {{question: NAME, answer: NAME}}"
        )
    return names, True


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
                yield from (Record(next(number), filled(row)) for row in batch.to_pylist())
    except pyarrow.ArrowException as error:
        raise OSError(error)


def filled(row: dict) -> dict:
    return {name: without_nothing(cell) if isinstance(cell, str) else cell for name, cell in row.items()}


def workbook(file: Path, columns: Columns) -> Iterator[Record]:
    """Yield the rows of the sheet that has any, or of several the one with known names; hidden ones do not count.

    Raises OSError if the workbook is damaged, Unreadable.
    """
    import python_calamine

    try:
        with zipfile.ZipFile(file) as parts:
            if sum(part.file_size for part in parts.infolist()) > UNPACKED:
                raise Unreadable(f"a workbook of more than {UNPACKED >> 20} MiB unpacked: save it as CSV")
        with python_calamine.CalamineWorkbook.from_path(str(file)) as book:
            visible = [one.name for one in book.sheets_metadata if one.visible == python_calamine.SheetVisibleEnum.Visible]
            sheets = {name: sheet for name in visible if (sheet := book.get_sheet_by_name(name)).height}
            if len(sheets) > 1:
                headers = {name: next(texts_below_title(sheet.iter_rows(), 1))[1] for name, sheet in sheets.items()}
                known = [name for name in sheets if has_known_names(headers[name], columns)]
                if len(known) != 1:
                    raise Unreadable(
                        f"several sheets hold rows: {', '.join(sheets)}; expected one, or one whose header names a question "
                        "and an answer: hide the others, or save the right one as CSV"
                    )
                sheets = {known[0]: sheets[known[0]]}
            for sheet in sheets.values():
                first_line = (sheet.start or (0, 0))[0] + 1
                yield from sheet_records(texts_below_title(sheet.iter_rows(), first_line), columns)
    except (python_calamine.CalamineError, zipfile.BadZipFile) as error:
        raise OSError(error)


def texts_below_title(rows: Iterable[list], first_line: int) -> Iterator[tuple[int, list[str]]]:
    """Return the rows of a sheet as texts with their lines, without titles above the header if there is one below them."""
    texts = ((line, list(map(cell_text, row))) for line, row in enumerate(rows, first_line))
    above = list(islice(texts, TITLE_LINES))
    start = next((place for place, (_, cells) in enumerate(above) if not is_title(cells)), 0)
    return chain(above[start:], texts)


def sheet_records(texts: Iterator[tuple[int, list[str]]], columns: Columns) -> Iterator[Record]:
    top, first = next(texts)
    names, is_header = names_of(first, columns)
    for line, cells in texts if is_header else chain([(top, first)], texts):
        if any(map(str.strip, cells)):
            yield Record(line, dict(zip(names, map(without_nothing, cells), strict=True)))


def cell_text(value: object) -> str:
    """Return a cell as its sheet shows it: 3, not 3.0."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat() if isinstance(value, date) else str(value)
