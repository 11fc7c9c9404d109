import json
import shutil

import numpy as np
import pandas as pd
import pytest

from stages import statistics
from tests.conftest import ROOT

pytestmark = pytest.mark.filterwarnings("ignore")


def row(question, answer, history=(), department=""):
    return {
        "instruction": question,
        "input": "",
        "output": answer,
        "system": "",
        "history": list(history),
        "department": department,
    }


def test_a_cutoff_says_what_it_cuts_loses_and_costs():
    found = statistics.cutoffs(np.array([100, 300, 600]), present=500).set_index("cutoff_len")
    assert found.loc[256].to_dict() == {"cut": 0.6667, "lost": 0.388, "cost": round((100 + 256 + 256) / 900, 4)}
    assert found.loc[500].to_dict() == {"cut": 0.3333, "lost": 0.1, "cost": 1.0}
    assert found.loc[1024].to_dict() == {"cut": 0.0, "lost": 0.0, "cost": round(1000 / 900, 4)}


def test_topics_are_departments_or_else_keywords():
    rows = [row("高血压吃什么药好", "听医生的", department="内科")] * 3 + [row("咳嗽怎么办", "看医生", department="儿科")]
    assert statistics.topics(rows).values.tolist() == [["内科", 3], ["儿科", 1]]
    found = statistics.topics([r | {"department": ""} for r in rows]).set_index("topic")["dialogues"]
    assert found["高血压"] == 3 and found["咳嗽"] == 1


def test_tokens_are_those_that_llamafactory_trains_on(tiny_tokenizer):
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    some = row("还要查什么？", "先查血常规。", [["咳嗽三天", "有没有发热？"]])
    found = statistics.dialogue_tokens([some], tokenizer)[0]
    theirs = get_template_and_fix_tokenizer(
        AutoTokenizer.from_pretrained(ROOT / "models" / "tiny"), DataArguments(template="qwen")
    )
    said = ["咳嗽三天", "有没有发热？", "还要查什么？", "先查血常规。"]
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    assert found == [token for pair in theirs.encode_multiturn(tokenizer, turns) for ids in pair for token in ids]


def test_the_stage_writes_numbers_and_plots(workplace, stage, tiny_tokenizer):
    folder = workplace({"adapter.cutoff_len": 60})
    (folder / "split").mkdir()
    rows = [row(f"咳嗽{i}天怎么办", "多喝水，" * i, [["先问", "先答"]] * (i % 2)) for i in range(1, 21)]
    for name, part in (("train", rows[:10]), ("val", rows[10:15]), ("test", rows[15:])):
        (folder / "split" / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part))
    (folder / "check.json").write_text(json.dumps({"tokens_per_character": 0.9}))
    done = stage("statistics", split="split", tokenizer=tiny_tokenizer, check="check.json", out="data")
    assert done.status == 0, done.err
    found = json.loads((folder / "data" / "stats.json").read_text())
    assert (found["dialogues"], found["questions"]) == (20, 30)
    assert "60" in found["cutoff_len"] and found["cutoff_len"]["4096"]["cut"] == 0
    turns = pd.read_csv(folder / "data" / "turns.csv").set_index("questions")
    assert turns.loc[1].to_dict() == {"train": 5, "val": 2, "test": 3} and turns.loc[2].to_dict() == {
        "train": 5,
        "val": 3,
        "test": 2,
    }
    assert pd.read_csv(folder / "data" / "characters.csv")[["questions", "answers"]].sum().tolist() == [30, 30]


def test_a_base_that_does_not_read_the_data_ends_the_stage(workplace, stage, tiny_tokenizer, tmp_path):
    folder = workplace()
    (folder / "split").mkdir()
    for name in ("train", "val", "test"):
        (folder / "split" / f"{name}.jsonl").write_text(json.dumps(row("咳嗽三天怎么办", "多喝水，" * 40)) + "\n")
    deaf = shutil.copytree(tiny_tokenizer, tmp_path / "deaf")
    known = json.loads((deaf / "tokenizer.json").read_text())
    known["normalizer"] = {"type": "Replace", "pattern": {"Regex": "[一-鿿，]"}, "content": ""}
    (deaf / "tokenizer.json").write_text(json.dumps(known))
    (folder / "check.json").write_text(json.dumps({"tokens_per_character": 0.9}))
    done = stage("statistics", split="split", tokenizer=deaf, check="check.json", out="data")
    assert done.status == 1 and "tokens a character" in done.error and not (folder / "data").exists()
