"""Several sources at once, from their files to the rows of the split."""

import json
from collections import Counter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT, TOYHOM, params_with
from xinglin.dialogues.licences import terms
from xinglin.dialogues.sources import own_parts

REAL = TOYHOM.parent


def huatuo(*questions, answer="多喝温水。"):
    return "".join(json.dumps({"data": [f"问：{q}", f"答：{answer}"]}, ensure_ascii=False) + "\n" for q in questions)


def named(prefix, count):
    return [f"{prefix}第{i}位患者问怎么办" for i in range(count)]


def rows(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def convert(workplace, stage):
    """Give a function that writes files, runs raw and converted on sources, and returns the folder and what was said."""

    def run(files, sources, changes=None):
        folder = workplace()
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        given = [{"source": "path", **source} for source in sources]
        workplace({"raw.sources": given} | (changes or {}))
        raw = stage("raw", sample="none", out="raw")
        done = stage("converted", raw="raw", out="converted") if raw.status == 0 else raw
        done.raw = raw
        done.stats = json.loads((folder / "converted" / "stats.json").read_text()) if done.status == 0 else {}
        return folder, done

    return run


def test_each_row_keeps_its_source_and_line_through_rejects_duplicates_and_split(convert, stage):
    files = {
        "huatuo.jsonl": huatuo(*named("甲", 40)) + "{broken\n" + huatuo("  咳嗽\t怎么办  "),
        "feedback.jsonl": huatuo(*named("甲", 2), *named("乙", 30)),
        "general.json": json.dumps([{"instruction": q, "output": "好"} for q in [*named("丙", 30), "丙第3位患者问怎么办"]]),
    }
    sources = [{"name": name.split(".")[0], "path": name} for name in files]
    folder, done = convert(files, sources, {"converted.max_reject_rate": 0.1})
    assert done.status == 0, done.err
    found = rows(folder / "converted" / "dialogues.jsonl")
    assert len({tuple(row) for row in found}) == 1, "all rows have the same keys"
    for row in found:
        text = files[row["source"]].splitlines()[row["line"] - 1] if row["source"] != "general.json" else ""
        told = json.loads(text)["data"][0] if text else json.loads(files["general.json"])[row["element"] - 1]["instruction"]
        assert row["instruction"].split()[0] in told
    (reject,) = rows(folder / "converted" / "rejects.jsonl")
    assert (reject["source"], reject["line"]) == ("huatuo.jsonl", 41)
    assert rows(folder / "converted" / "duplicates.jsonl") == [
        {"source": "feedback.jsonl", "line": line, "lines": 1, "of": {"source": "huatuo.jsonl", "line": line, "lines": 1}}
        for line in (1, 2)
    ] + [
        {
            "source": "general.json",
            "line": 1,
            "lines": 1,
            "element": 31,
            "of": {"source": "general.json", "line": 1, "lines": 1, "element": 4},
        }
    ]
    counts = {s["name"]: [s[k] for k in ("raw", "converted", "rejected", "duplicates")] for s in done.stats["sources"]}
    assert counts == {"huatuo": [42, 41, 1, 0], "feedback": [32, 30, 0, 2], "general": [31, 30, 0, 1]}
    assert [s["shape"] for s in done.stats["sources"]] == ["huatuo", "huatuo", "alpaca"]
    assert stage("split", converted="converted", out="split").status == 0
    sides = [row for name in ("train", "val", "test") for row in rows(folder / "split" / f"{name}.jsonl")]
    assert sorted(map(json.dumps, sides)) == sorted(map(json.dumps, found))


def test_a_share_is_drawn_by_content_wherever_a_row_stands_and_whatever_stands_beside_it(convert):
    some = named("甲", 400)
    source = [{"name": "mine", "path": "mine.jsonl", "share": 0.25}]
    folder, done = convert({"mine.jsonl": huatuo(*some)}, source)
    before = {row["instruction"] for row in rows(folder / "converted" / "dialogues.jsonl")}
    assert 60 < len(before) < 140 and done.stats["raw"] == len(before) and done.stats["left_out"] == 400 - len(before)
    assert f"{400 - len(before)} more left out" in done.err
    convert({"mine.jsonl": huatuo(*named("乙", 300), *reversed(some))}, source)
    after = {row["instruction"] for row in rows(folder / "converted" / "dialogues.jsonl")}
    assert {question for question in after if question.startswith("甲")} == before
    convert({"mine.jsonl": huatuo(*some)}, [source[0] | {"share": 0.5}])
    assert before < {row["instruction"] for row in rows(folder / "converted" / "dialogues.jsonl")}
    convert({"mine.jsonl": huatuo(*some)}, source, {"raw.seed": 7})
    assert before != {row["instruction"] for row in rows(folder / "converted" / "dialogues.jsonl")}


@pytest.mark.parametrize("limit", [1, 37, 60, 99])
def test_a_limit_gives_just_as_many_dialogues_whatever_is_rejected_or_stands_twice(convert, limit):
    text = huatuo(*named("甲", 60), *named("甲", 30), answer="好") + "{broken\n" * 3
    source = [{"name": "a", "path": "a.jsonl", "limit": limit}]
    folder, done = convert({"a.jsonl": text}, source, {"converted.max_reject_rate": 0.9})
    assert done.status == 0, done.err
    stats = done.stats
    assert stats["converted"] == min(limit, 60) == len(rows(folder / "converted" / "dialogues.jsonl"))
    assert stats["raw"] == stats["converted"] + stats["rejected"] + stats["duplicates"] == 93 - stats["left_out"]


def test_a_limit_is_within_the_share(convert):
    given = {"a.jsonl": huatuo(*named("甲", 200))}
    folder, _ = convert(given, [{"name": "a", "path": "a.jsonl", "share": 0.3}])
    share = {row["line"] for row in rows(folder / "converted" / "dialogues.jsonl")}
    convert(given, [{"name": "a", "path": "a.jsonl", "share": 0.3, "limit": 20}])
    limited = {row["line"] for row in rows(folder / "converted" / "dialogues.jsonl")}
    assert len(limited) == 20 and limited < share


def test_a_source_of_which_nothing_is_drawn_or_too_much_rejected_is_named(convert):
    many = huatuo(*named("甲", 90))
    two = [{"name": "big", "path": "big.jsonl"}, {"name": "small", "path": "small.jsonl"}]
    folder, done = convert({"big.jsonl": many, "small.jsonl": huatuo("乙") + "{broken\n"}, two)
    assert done.status == 1 and "small.jsonl: 1 of 2 records rejected" in done.error and not (folder / "converted").exists()
    _, done = convert({"small.jsonl": huatuo("乙")}, [two[0], two[1] | {"share": 0.000001}])
    assert done.status == 1 and "small.jsonl: no records: its share draws none of 1" in done.error


def test_a_source_of_nothing_but_preferences_may_stand_beside_others(convert):
    pairs = [{"instruction": f"头痛{i}天", "chosen": "多休息", "rejected": "不知道"} for i in range(5)]
    files = {"a.jsonl": huatuo("甲"), "pairs.jsonl": "".join(json.dumps(pair) + "\n" for pair in pairs)}
    _, done = convert(files, [{"name": name.split(".")[0], "path": name} for name in files])
    assert done.status == 0 and (done.stats["converted"], done.stats["preferences"]) == (1, 5), done.err


def test_one_of_several_sources_may_need_columns(convert):
    other = json.dumps({"case": {"ask": "头晕怎么办", "doctor": "先测血压"}}, ensure_ascii=False)
    files = {"huatuo.jsonl": huatuo(*named("甲", 3)), "clinic.jsonl": other + "\n"}
    sources = [{"name": name.split(".")[0], "path": name} for name in files]
    columns = {"question": "case.ask", "answer": "case.doctor"}
    folder, done = convert(files, sources, {"converted.columns": {"clinic": columns}})
    assert done.status == 0, done.err
    assert [row["output"] for row in rows(folder / "converted" / "dialogues.jsonl")][-1] == "先测血压"
    _, done = convert(files, sources, {"converted.columns": {"clinik": columns}})
    assert done.status == 1 and "converted.columns: no source 'clinik', there is huatuo, clinic" in done.error
    _, done = convert(files, sources, {"converted.columns": {"clinic": {"answer": "a"}}})
    assert done.status == 2 and "columns.clinic must name the turns" in done.error


def test_max_dialogues_lets_later_sources_not_come_to_their_turn(convert):
    two = [{"name": "a", "path": "a.jsonl"}, {"name": "b", "path": "b.jsonl"}]
    _, done = convert({"a.jsonl": huatuo(*named("甲", 9)), "b.jsonl": huatuo("乙")}, two, {"converted.max_dialogues": 5})
    assert done.status == 0 and [source["converted"] for source in done.stats["sources"]] == [5, 0]
    assert "b: 0 records" in done.err


def test_one_row_of_many_characters_is_a_reject_and_holds_nothing_up(convert):
    files = {"a.jsonl": huatuo(*named("甲", 40), "邮箱 a@b.cn " + "iVBORw0KGgo" * 25_000)}
    _, done = convert(files, [{"name": "a", "path": "a.jsonl"}])
    assert done.status == 0 and done.stats["converted"] == 40
    assert done.stats["reasons"] == {"a turn of more than 4000 characters": 1}


def test_a_folder_is_read_in_the_order_of_names_and_what_is_left_aside_is_said(convert):
    files = {"set/b.jsonl": huatuo("乙"), "set/a.jsonl": huatuo("甲"), "set/.c.jsonl": huatuo("丙"), "set/README.md": "x"}
    folder, done = convert(files, [{"name": "mine", "path": "set"}])
    assert sorted(file.name for file in (folder / "raw").iterdir()) == ["mine-a.jsonl", "mine-b.jsonl", "sources.json"]
    assert [row["source"] for row in rows(folder / "converted" / "dialogues.jsonl")] == ["mine-a.jsonl", "mine-b.jsonl"]
    assert "README.md" in done.raw.err and "part" not in rows(folder / "converted" / "dialogues.jsonl")[0]


def test_files_of_one_name_lie_beside_each_other(convert):
    files = {"x/a.jsonl": huatuo("甲"), "y/a.jsonl": huatuo("乙"), "b.jsonl": huatuo("丙")}
    sources = [{"name": "m", "path": ["x/a.jsonl", "y/a.jsonl"]}, {"name": "m-a", "path": "b.jsonl"}]
    folder, _ = convert(files, sources)
    names = [row["source"] for row in rows(folder / "converted" / "dialogues.jsonl")]
    assert names == ["m-a.jsonl", "m-a-2.jsonl", "m-a-3.jsonl"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("absent.jsonl", ["raw.sources.mine.path", "absent.jsonl", "no such file or folder"]),
        ("empty", ["raw.sources.mine.path", "empty", "no data file", ".jsonl"]),
        (["a.jsonl", "none.jsonl"], ["raw.sources.mine.path", "none.jsonl", "the file is empty"]),
        ("set/notes.txt", ["notes.txt", "expected a name that ends in .jsonl"]),
    ],
)
def test_a_source_that_cannot_be_used_is_one_line_and_leaves_nothing(convert, path, words):
    files = {"a.jsonl": huatuo("甲"), "none.jsonl": "", "empty/.keep": "", "set/notes.txt": "x"}
    folder, done = convert(files, [{"name": "mine", "path": path}])
    assert done.status == 1 and done.err.count("\n") == 1 and not (folder / "raw").exists()
    for word in words:
        assert word in done.error


def test_licences_are_said_on_the_screen_and_stand_where_a_release_finds_them(convert):
    files = {f"{name}.jsonl": huatuo(name) for name in "abc"}
    licences = {"a": "MIT", "b": "CC-BY-NC-4.0", "c": None}
    _, done = convert(files, [{"name": n, "path": f"{n}.jsonl", "licence": licence} for n, licence in licences.items()])
    assert [(s["licence"], s["terms"]) for s in done.stats["sources"]] == [
        ("MIT", "permissive"),
        ("CC-BY-NC-4.0", "non-commercial"),
        (None, "none stated"),
    ]
    warnings = [line for line in done.raw.err.splitlines() if line.startswith("warning")]
    assert ["raw.sources.b.licence" in warnings[0], "raw.sources.c.licence" in warnings[1], len(warnings)] == [True, True, 2]


def test_the_embedded_sample_lies_as_it_always_did_and_is_the_projects_own(workplace, stage, tmp_path):
    (tmp_path / "sample.jsonl").write_text(huatuo("甲"), encoding="utf-8")
    folder = workplace()
    done = stage("raw", sample="sample.jsonl", out="raw")
    assert not done.err and [file.name for file in (folder / "raw").iterdir()] == ["dialogues.jsonl"]
    assert stage("converted", raw="raw", out="converted").status == 0
    (source,) = json.loads((folder / "converted" / "stats.json").read_text())["sources"]
    assert (source["source"], source["licence"], source["terms"]) == ("sample", "Apache-2.0", "permissive")


def test_a_single_path_may_be_a_folder_with_a_licence(workplace, stage, tmp_path):
    (tmp_path / "set").mkdir()
    for name in ("train", "dev", "test-00000-of-00001"):
        (tmp_path / "set" / f"{name}.jsonl").write_text(huatuo(name), encoding="utf-8")
    folder = workplace({"raw.source": "path", "raw.path": "set", "raw.licence": "MIT"})
    done = stage("raw", sample="none", out="raw")
    assert done.status == 0 and not done.err
    files = {
        file["file"]: file["part"] for file in json.loads((folder / "raw" / "sources.json").read_text())["sources"][0]["files"]
    }
    assert files == {
        "dialogues-dev.jsonl": "val",
        "dialogues-test-00000-of-00001.jsonl": "test",
        "dialogues-train.jsonl": "train",
    }
    assert stage("converted", raw="raw", out="converted").status == 0
    parts = Counter(row["part"] for row in rows(folder / "converted" / "dialogues.jsonl"))
    assert parts == {"train": 1, "val": 1, "test": 1}


def test_a_dialogue_in_two_parts_is_no_duplicate_in_one_it_is(convert):
    files = {"set/train.jsonl": huatuo("甲", "甲", "乙"), "set/test.jsonl": huatuo("甲", "丙")}
    _, done = convert(files, [{"name": "mine", "path": "set"}])
    assert (done.stats["converted"], done.stats["duplicates"]) == (4, 1)
    _, done = convert(files, [{"name": "mine", "path": "set", "part": "train"}])
    assert (done.stats["converted"], done.stats["duplicates"]) == (3, 2)


@pytest.mark.skipif(not REAL.is_dir(), reason="no real dialogues here")
def test_real_files_of_several_shapes_encodings_and_licences_become_one_set(workplace, stage):
    given = [
        {"name": "toyhom", "path": str(REAL / "toyhom_internal_medicine.gb18030.csv"), "licence": "MIT", "limit": 500},
        {"name": "disc", "path": str(REAL / "disc_medllm_examples.messages.jsonl"), "licence": "Apache-2.0"},
        {"name": "medicalgpt", "path": str(REAL / "medicalgpt_1k.sharegpt.jsonl"), "licence": "Apache-2.0", "share": 0.1},
        {"name": "llama", "path": str(REAL / "llama_med_chinese.alpaca.jsonl"), "licence": "academic use only", "limit": 50},
    ]
    folder = workplace({"raw.sources": [{"source": "path", **source} for source in given], "converted.max_reject_rate": 0.2})
    assert stage("raw", sample="none", out="raw").status == 0
    done = stage("converted", raw="raw", out="converted")
    assert done.status == 0, done.err
    found = {s["name"]: s for s in json.loads((folder / "converted" / "stats.json").read_text())["sources"]}
    assert (found["toyhom"]["converted"], found["toyhom"]["shape"]) == (500, "csv")
    assert found["llama"]["converted"] + found["llama"]["duplicates"] >= 50 and found["llama"]["terms"] == "non-commercial"
    assert 50 < found["medicalgpt"]["raw"] < 140 and found["medicalgpt"]["left_out"] + found["medicalgpt"]["raw"] == 908
    for source in found.values():
        assert source["raw"] == source["converted"] + source["rejected"] + source["duplicates"]


def test_the_example_of_the_documents_is_one_that_works():
    found = {}
    for name in ("README.md", "README.zh-CN.md", "docs/data.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        (block,) = [part.split("```")[0] for part in text.split("```yaml\n")[1:] if "sources:" in part.split("```")[0]]
        found[name] = YAML(typ="safe").load(block)["raw"]["sources"]
    assert found["README.md"] == found["README.zh-CN.md"] == found["docs/data.md"]
    sources = params_with({"raw.sources": found["README.md"]}).raw.all_sources
    assert list(sources) == ["raw.sources.huatuo", "raw.sources.feedback", "raw.sources.general"]
    assert {terms(source.licence) for source in sources.values()} == {"permissive"}


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["train_zh_0.json", "valid_zh_0.json", "test_zh_0.json"], ["train", "val", "test"]),
        (["my_train.jsonl", "my_test.jsonl"], ["train", "test"]),
        (["cMedQA2_train.csv", "test-v2.csv", "eval.csv.gz"], ["train", "test", "val"]),
        (["training.jsonl", "trainTest.jsonl", "train_test_split.jsonl"], ["train", None, None]),
        (["contest.jsonl", "latest.jsonl", "constrained.jsonl"], [None, None, None]),
        (["train.jsonl"], [None]),
    ],
)
def test_own_parts_are_told_by_the_words_of_the_names(names, parts):
    assert own_parts([Path(name) for name in names]) == parts


def test_a_name_that_says_two_parts_is_said_with_the_cure(convert):
    files = {"set/a.jsonl": huatuo("甲"), "set/train_test_split.jsonl": huatuo("乙")}
    _, done = convert(files, [{"name": "mine", "path": "set"}])
    assert "its name says test and train" in done.raw.err and "'part: " in done.raw.err


def test_what_tells_of_a_data_set_is_left_aside_and_said(convert):
    names = ["dataset_info.json", "README.json", "a_config.json", "config.json", "metadata.jsonl"]
    _, done = convert({f"set/{name}": "{}" for name in names} | {"set/a.jsonl": huatuo("甲")}, [{"name": "m", "path": "set"}])
    assert done.status == 0 and all(name in done.raw.err for name in names)


def test_an_empty_path_is_an_error_and_folders_below_are_named(convert):
    _, done = convert({}, [{"name": "m", "path": ""}])
    assert done.status == 1 and "raw.sources.m.path: it is empty" in done.error
    _, done = convert({"set/README.md": "x", "set/data/a.jsonl": huatuo("甲")}, [{"name": "m", "path": "set"}])
    assert done.status == 1 and "set/data: name one of these" in done.error
