"""CSV, TSV, Parquet and XLSX: quotes, headers, delimiters, sheets."""

import csv
import io
import random
import time
import zipfile
from html import escape

import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ends
from tests.reading import ENCODINGS, ROWS, TABLE, read, row, table_of, told, write
from xinglin.dialogues.reading import Broken, Record, records


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
