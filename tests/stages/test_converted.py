import json
from collections import Counter
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.converted import write_rows
from tests.conftest import ROOT, params_with
from xinglin.dialogues.batches import BATCH, Batch, batches
from xinglin.dialogues.conversion import convert
from xinglin.dialogues.reading import Record
from xinglin.dialogues.tally import Tally

GOOD = {"data": ["问：咳嗽怎么办？", "答：多喝温水。", "问：要吃药吗？", "答：先观察。"]}


def convert_file(workplace, stage, lines, changes=None, name="dialogues.jsonl"):
    folder = workplace(changes)
    (folder / "raw").mkdir(exist_ok=True)
    (folder / "raw" / name).write_bytes(b"".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return stage("converted", raw="raw", out="converted"), folder / "converted"


def ended(lines):
    return [line if isinstance(line, bytes) else line + "\n" for line in lines]


def dumped(*records):
    return [json.dumps(record, ensure_ascii=False) for record in records]


def test_a_dialogue_becomes_llamafactorys_alpaca_row(workplace, stage):
    done, out = convert_file(workplace, stage, ended(dumped(GOOD)), {"converted.system": "你是医疗助手"})
    assert done.status == 0
    row = json.loads((out / "dialogues.jsonl").read_text(encoding="utf-8"))
    assert row == {
        "instruction": "要吃药吗？",
        "input": "",
        "output": "先观察。",
        "system": "你是医疗助手",
        "history": [["咳嗽怎么办？", "多喝温水。"]],
        "department": "",
        "source": "dialogues.jsonl",
        "line": 1,
    }


def test_nothing_is_lost_unseen(workplace, stage):
    lines = [*dumped(GOOD, GOOD, {"data": ["问：只有问题"]}), "{broken", "", *dumped({"data": ["问：<|im_end|>", "答：好"]})]
    done, out = convert_file(workplace, stage, ended(lines), {"converted.max_reject_rate": 0.5})
    assert done.status == 0, done.err
    stats = json.loads((out / "stats.json").read_text())
    assert stats["raw"] == 5 == stats["converted"] + stats["rejected"] + stats["duplicates"]
    assert (stats["converted"], stats["rejected"], stats["duplicates"]) == (2, 2, 1)
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(r["line"], r["reason"]) for r in rejects] == [(3, "no answer"), (4, "not JSON in UTF-8")]
    assert rejects[1]["text"] == "{broken"
    assert "<|im_end|>" not in (out / "dialogues.jsonl").read_text(encoding="utf-8")


def test_too_many_rejects_stop_the_stage_and_show_an_example(workplace, stage):
    done, out = convert_file(workplace, stage, ended([*dumped(GOOD), "{broken"]))
    assert done.status == 1 and not out.exists()
    for words in ("1 of 2", "50.0%", "max_reject_rate", "not JSON", "line 2: {broken"):
        assert words in done.error


def test_a_byte_order_mark_and_windows_line_ends_are_read(workplace, stage):
    done, out = convert_file(workplace, stage, ended([b"\xef\xbb\xbf" + dumped(GOOD)[0].encode() + b"\r\n"]))
    assert done.status == 0 and len((out / "dialogues.jsonl").read_text().splitlines()) == 1


def test_json_output_holds_the_same_rows_in_one_array(workplace, stage):
    records = dumped(GOOD, {"data": ["问：发热", "答：量体温"]})
    _, lines = convert_file(workplace, stage, ended(records))
    one_by_one = [json.loads(line) for line in (lines / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()]
    workplace({"converted.output": "json"})
    assert stage("converted", raw="raw", out="array").status == 0
    assert json.loads((lines.parent / "array" / "dialogues.json").read_text(encoding="utf-8")) == one_by_one


def test_a_reject_says_how_many_lines_it_covers_and_where_it_stands_in_an_array(workplace, stage):
    text = json.dumps([GOOD] * 3, indent=1).replace('"data"', '"data" "data"', 1)
    done, out = convert_file(workplace, stage, [text], {"converted.max_reject_rate": 0.5}, "dialogues.json")
    assert done.status == 0, done.err
    (reject,) = map(json.loads, (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines())
    assert (reject["line"], reject["lines"], reject["element"]) == (2, 8, 1) and reject["text"].startswith("{")


@pytest.mark.parametrize(("rate", "status"), [(0.6, 1), (0.8, 0)])
def test_the_budget_of_rejects_counts_records_or_lines_whichever_is_more(workplace, stage, rate, status):
    rows = [json.dumps({"data": ["问：只有问题"]}, indent=1), *dumped(GOOD, {"data": ["问：发热", "答：量体温"]})]
    text = f"[{', '.join(rows)}]"
    done, _ = convert_file(workplace, stage, [text], {"converted.max_reject_rate": rate}, "dialogues.json")
    assert done.status == status
    assert status == 0 or "5 of 7 lines rejected (71.4%)" in done.error


def test_columns_may_be_given_by_position(workplace, stage):
    changes = {"converted.columns": {"question": 1, "answer": 2}}
    done, out = convert_file(workplace, stage, ["咳嗽,多喝水\n"], changes, "dialogues.csv")
    assert done.status == 0, done.err
    row = json.loads((out / "dialogues.jsonl").read_text(encoding="utf-8"))
    assert (row["instruction"], row["output"]) == ("咳嗽", "多喝水")


def test_half_a_pair_of_surrogates_in_an_array_is_a_reject_as_in_lines(workplace, stage):
    text = json.dumps([GOOD, {"data": ["问：发热", "答：量体温\ud83d"]}])
    done, out = convert_file(workplace, stage, [text], {"converted.max_reject_rate": 0.5}, "dialogues.json")
    assert done.status == 0, done.err
    (reject,) = map(json.loads, (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines())
    assert "not JSON" in reject["reason"] and reject["element"] == 2


def test_max_dialogues_limits_the_rows(workplace, stage):
    records = dumped(*({"data": [f"问：第{i}个", "答：好"]} for i in range(9)))
    _, out = convert_file(workplace, stage, ended(records), {"converted.max_dialogues": 4})
    assert len((out / "dialogues.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("most", [1, 3, 5, 6, 9])
def test_duplicates_do_not_count_towards_max_dialogues_and_no_record_is_skipped(workplace, stage, most):
    records = dumped(*({"data": [f"问：第{i}个", "答：好"]} for i in (0, 0, 1, 0, 2, 3, 3, 4, 5)))
    done, out = convert_file(workplace, stage, ended(records), {"converted.max_dialogues": most})
    assert done.status == 0, done.err
    found = [json.loads(line)["instruction"] for line in (out / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()]
    stats = json.loads((out / "stats.json").read_text())
    assert found == [f"第{i}个" for i in range(min(most, 6))]
    assert stats["converted"] == len(found) and stats["raw"] == stats["converted"] + stats["duplicates"]


@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_a_file_without_records_is_an_error(workplace, stage, lines):
    done, out = convert_file(workplace, stage, ended(lines))
    assert done.status == 1 and "no records" in done.error and not out.exists()


MESSY = {  # what becomes of each line of data/sample/messy.jsonl that is not converted as it stands
    2: "cut",
    3: "joined",
    4: "joined",
    5: "an empty turn",
    6: "an empty turn",
    11: "not JSON in UTF-8",
    12: "not JSON in UTF-8",
    13: "not a JSON object",
    14: "not a JSON object",
    15: "no known shape",
    16: "no answer",
    17: "'data' is not a list of texts",
    18: "no answer",
    19: "no answer",
    20: "opened",
    21: "duplicate",
    24: "more than 4000 characters",
    31: "not JSON in UTF-8",
    32: "an empty turn",
}


def test_each_line_of_the_messy_sample_becomes_what_is_said_of_it(workplace, stage):
    lines = [(ROOT / "data" / "sample" / "messy.jsonl").read_bytes()]
    done, out = convert_file(workplace, stage, lines, {"converted.max_reject_rate": 0.6})
    assert done.status == 0, done.err
    stats, rejects = (
        json.loads((out / "stats.json").read_text()),
        list(map(json.loads, (out / "rejects.jsonl").read_text().splitlines())),
    )
    expected = {line: reason for line, reason in MESSY.items() if reason not in ("cut", "joined", "opened", "duplicate")}
    assert {reject["line"] for reject in rejects} == set(expected)
    assert all(expected[reject["line"]] in reject["reason"] for reject in rejects)
    assert (stats["raw"], stats["converted"], stats["duplicates"]) == (32, 17, 1)
    assert [stats["mended"][rule] for rule in ("cut", "joined", "opened")] == [1, 2, 1]
    rows = [json.loads(line) for line in (out / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = {row["instruction"]: row["output"] for row in rows}
    assert answers["医生说“问：诊”是什么意思"].endswith("“问：哪里不舒服？答：头痛”这样的形式。")
    assert answers["问：重复的前缀怎么办"] == "答：只去掉第一个。"
    assert answers["血压140／90算高吗"].startswith("在诊室测到140／90")
    assert answers["脚崴了怎么办"] == "头两天冰敷、抬高、别负重；[31m肿得厉害[0m或不能走路要拍片。"
    assert rows[-1]["department"] == "全科医学科"


def test_a_file_in_two_shapes_is_an_error_that_shows_the_first_of_each(workplace, stage):
    alpaca = {"instruction": "头痛", "output": "多休息"}
    done, out = convert_file(workplace, stage, [line + "\n" for line in dumped(GOOD, alpaca, alpaca)])
    assert done.status == 1 and not out.exists()
    for words in ("several shapes", "huatuo, line 1", "咳嗽怎么办", "alpaca, line 2", "头痛", "converted.format: huatuo"):
        assert words in done.error


def test_a_shape_that_is_named_is_the_only_one_read(workplace, stage):
    lines = [line + "\n" for line in dumped(GOOD, {"instruction": "头痛", "output": "多休息"})]
    done, out = convert_file(workplace, stage, lines, {"converted.format": "alpaca", "converted.max_reject_rate": 0.5})
    assert done.status == 0, done.err
    assert [json.loads(line)["instruction"] for line in (out / "dialogues.jsonl").read_text().splitlines()] == ["头痛"]


def test_the_columns_of_a_table_may_be_named(workplace, stage):
    columns = {"question": "Q", "answer": "A", "department": "科"}
    done, out = convert_file(workplace, stage, ["科,Q,A\n内科,咳嗽,多喝水\n"], {"converted.columns": columns}, "dialogues.csv")
    assert done.status == 0, done.err
    row = json.loads((out / "dialogues.jsonl").read_text())
    assert (row["instruction"], row["output"], row["department"]) == ("咳嗽", "多喝水", "内科")


def numbered(count):
    return [Record(i, json.dumps({"data": [f"问：第{i % 7000}位", "答：好"]}).encode()) for i in range(1, count + 1)]


@pytest.mark.parametrize("most", [None, 3, BATCH + 5])
def test_many_chunks_by_many_processes_give_what_one_gives(tmp_path, most):
    settings_ = params_with({"converted.max_dialogues": most}).converted
    source = numbered(5 * BATCH)
    with (tmp_path / "rows").open("w+b") as rows, (tmp_path / "rejects").open("wb") as rejects:
        tally = write_rows(batches(source), settings_, rows, rejects, BytesIO(), BytesIO())
        rows.seek(0)
        written = rows.read()
    assert written == b"\n".join(convert(Batch(source[: most or 7000]), settings_).rows) + b"\n"
    assert (tally.raw, tally.converted, tally.duplicates) == ((most, most, 0) if most else (5 * BATCH, 7000, 5 * BATCH - 7000))
    assert tally.counts.questions.total() == tally.converted


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda c: st.lists(c, max_size=3) | st.dictionaries(st.text(), c, max_size=3),
)
TEXT = st.text(alphabet="问答：:头痛\n <|", max_size=8)
RECORD = st.one_of(
    JSON,
    st.builds(lambda turns: {"data": turns}, st.lists(TEXT, max_size=5)),
    st.builds(
        lambda q, a, h: {"instruction": q, "output": a, "history": h},
        TEXT,
        TEXT,
        st.lists(st.lists(TEXT, max_size=3), max_size=2),
    ),
    st.builds(
        lambda turns: {"messages": [{"role": r, "content": c} for r, c in turns]},
        st.lists(st.tuples(st.sampled_from(["user", "assistant", "system", "x"]), TEXT)),
    ),
    st.builds(
        lambda key, value: {key: value},
        st.sampled_from(["data", "messages", "conversations", "history", "instruction", "answer", "ask"]),
        JSON,
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(RECORD, max_size=12), st.sampled_from(["auto", "huatuo", "alpaca", "sharegpt", "messages", "csv"]))
def test_raw_is_always_converted_rejected_and_duplicates(found, shape):
    chunk = convert(
        Batch([Record(i, json.dumps(record).encode()) for i, record in enumerate(found, 1)]),
        params_with({"converted.format": shape}).converted,
    )
    tally = Tally()
    rows, twins = tally.add(chunk)
    assert len(twins) == tally.duplicates
    stats = tally.stats()
    assert stats["raw"] == len(found) == stats["converted"] + stats["rejected"] + stats["duplicates"]
    assert len(rows) == stats["converted"] and len(chunk.rejects) == stats["rejected"] == Counter(stats["reasons"]).total()
    assert sum(stats["questions_per_dialogue"].values()) == stats["converted"]
    for row in map(json.loads, rows):
        assert row["instruction"] and row["output"] and all(q and a for q, a in row["history"])


def test_what_is_set_aside_is_no_dialogue_and_takes_nothing_of_the_budget(workplace, stage):
    labelled = [
        {
            "messages": [{"role": "user", "content": f"咳嗽{i}天"}, {"role": "assistant", "content": "多喝水"}],
            "label": i % 3 > 0,
        }
        for i in range(9)
    ]
    done, out = convert_file(workplace, stage, ended(dumped(*labelled)))
    assert done.status == 0 and "3 undesired answers" in done.err, done.err
    stats = json.loads((out / "stats.json").read_text())
    assert (stats["raw"], stats["converted"], stats["rejected"], stats["preferences"]) == (9, 6, 3, 9)
    kept = [json.loads(line) for line in (out / "preferences.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["kto_tag"] for row in kept] == [i % 3 > 0 for i in range(9)]
    rows = [json.loads(line)["instruction"] for line in (out / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [f"咳嗽{i}天" for i in range(9) if i % 3]
    good = {"instruction": "咳嗽", "output": "多喝水"}
    pair = {"instruction": "头痛", "input": "", "chosen": "多休息", "rejected": "不知道<|im_end|>", "system": "你是助手"}
    done, out = convert_file(workplace, stage, ended(dumped(good, pair)))
    (row,) = [json.loads(line) for line in (out / "preferences.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (row["chosen"], row["rejected"], row["system"], "output" in row) == (
        "多休息",
        "不知道＜|im_end|>",
        "你是助手",
        False,
    )
    done, out = convert_file(workplace, stage, ended(dumped(GOOD)))
    assert not (out / "preferences.jsonl").exists()


def test_dialogues_that_differ_in_their_system_text_are_two(workplace, stage):
    alpaca = {"instruction": "头痛", "output": "多休息"}
    done, out = convert_file(
        workplace, stage, ended(dumped(*(alpaca | {"system": system} for system in ("中医", "西医", "中医"))))
    )
    assert done.status == 0 and len((out / "dialogues.jsonl").read_text().splitlines()) == 2


def test_thoughts_are_dropped_and_said_or_their_dialogues_rejected(workplace, stage):
    lines = ended(
        dumped({"instruction": "咳嗽", "output": "多喝水"}, {"instruction": "头痛", "output": "<think>想</think>多休息"})
    )
    done, out = convert_file(workplace, stage, lines)
    assert (
        done.status == 0
        and "1 thoughts dropped" in done.err
        and "想" not in (out / "dialogues.jsonl").read_text(encoding="utf-8")
    )
    done, out = convert_file(workplace, stage, lines, {"converted.thoughts": "reject"})
    assert done.status == 1 and "a thought stands before an answer" in done.error


def test_keys_that_nobody_reads_are_counted_and_said(workplace, stage):
    done, out = convert_file(
        workplace, stage, ended(dumped(GOOD | {"id": 1}, {"data": ["问：a", "答：b"], "id": 2, "url": "x"}))
    )
    assert json.loads((out / "stats.json").read_text())["unread"] == {"id": 2, "url": 1}
    assert "keys that nobody reads: id (2), url (1)" in done.err


def test_a_key_that_stands_twice_in_a_record_is_named(workplace, stage):
    line = '{"question": "头痛", "answer": "A", "answer": "多休息"}'
    done, _ = convert_file(workplace, stage, [line + "\n"])
    assert done.status == 1 and "the key 'answer' stands in it twice" in done.error
    quoted = dumped({"question": '写着"answer"的字', "answer": '"answer"'})
    assert convert_file(workplace, stage, ended(quoted))[0].status == 0


@pytest.mark.parametrize("output", ["jsonl", "json"])
@pytest.mark.parametrize("tags", [(True, False, True), (False, True, True), (True, True, False)])
def test_an_answer_that_is_called_desired_and_undesired_is_not_learned(workplace, stage, output, tags):
    labelled = [{"instruction": "头痛", "output": "多休息", "kto_tag": tag} for tag in tags]
    others = [{"instruction": f"咳嗽{i}天", "output": "多喝水", "kto_tag": ""} for i in range(3)]
    lines = ended(dumped(others[0], *labelled, *others[1:]))
    done, out = convert_file(workplace, stage, lines, {"converted.output": output})
    assert done.status == 0, done.err
    text = (out / f"dialogues.{output}").read_text(encoding="utf-8")
    rows = json.loads(text) if output == "json" else list(map(json.loads, text.splitlines()))
    assert [row["instruction"] for row in rows] == ["咳嗽0天", "咳嗽1天", "咳嗽2天"]
    stats = json.loads((out / "stats.json").read_text())
    assert (stats["raw"], stats["converted"], stats["rejected"], stats["duplicates"], stats["preferences"]) == (6, 3, 2, 1, 3)
    assert sum(stats["questions_per_dialogue"].values()) == 3
    rejects = [json.loads(line)["reason"] for line in (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sum("another record calls undesired" in reason for reason in rejects) == 1


def test_an_answer_that_a_pair_rejects_is_not_learned_elsewhere(workplace, stage):
    pair = {"instruction": "头痛", "chosen": "多休息", "rejected": "不用管它"}
    lines = ended(dumped(GOOD, {"instruction": "头痛", "output": "不用管它"} | {"history": []}, pair))
    done, out = convert_file(workplace, stage, lines[1:] + ended(dumped({"instruction": "发热", "output": "量体温"})))
    assert done.status == 0, done.err
    rows = [json.loads(line)["output"] for line in (out / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == ["量体温"]


def test_nothing_but_preferences_says_so_with_the_cure(workplace, stage):
    pairs = [{"instruction": f"头痛{i}天", "chosen": "多休息", "rejected": "不知道"} for i in range(20)]
    done, out = convert_file(workplace, stage, ended(dumped(*pairs)))
    assert done.status == 1 and not out.exists()
    for words in ("20 of 20 records are pairs of preferences", "add a source of dialogues to raw.sources"):
        assert words in done.error


@pytest.mark.parametrize("name", ["dialogues.jsonl", "dialogues.csv"])
def test_a_column_that_no_record_has_is_named_beside_those_there(workplace, stage, name):
    lines = ended(dumped({"ask": "咳嗽", "reply": "多喝水"})) if name.endswith("jsonl") else ["ask,reply\n咳嗽,多喝水\n"]
    for columns, words in (
        ({"question": "ask", "answer": "repy"}, "converted.columns names answer: repy, which no record has"),
        ({"question": "ask", "answer": "reply", "system": "sys"}, "converted.columns names system: sys, which no record has"),
    ):
        done, out = convert_file(workplace, stage, lines, {"converted.columns": columns}, name)
        assert done.status == 1 and not out.exists()
        assert words in done.error and "the first has ask, reply" in done.error


def test_a_column_that_only_some_records_have_is_read_where_it_is(workplace, stage):
    lines = ended(dumped({"ask": "咳嗽", "reply": "多喝水"}, {"ask": "头痛", "reply": "多休息", "sys": "你是助手"}))
    columns = {"question": "ask", "answer": "reply", "system": "sys"}
    done, out = convert_file(workplace, stage, lines, {"converted.columns": columns})
    assert done.status == 0, done.err
    rows = list(map(json.loads, (out / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()))
    assert [row["system"] for row in rows] == ["", "你是助手"]


def test_labels_by_position_set_undesired_answers_aside(workplace, stage):
    lines = [f"{i}\t{label}\t内科\t咳嗽{i}天怎么办\t多喝水{i}\n" for i, label in enumerate("1010")]
    columns = {"question": 4, "answer": 5, "department": 3, "label": 2}
    done, out = convert_file(workplace, stage, lines, {"converted.columns": columns}, "dialogues.tsv")
    assert done.status == 0, done.err
    rows = list(map(json.loads, (out / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()))
    assert [row["instruction"] for row in rows] == ["咳嗽0天怎么办", "咳嗽2天怎么办"]
