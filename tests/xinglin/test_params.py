import os
import shutil
import subprocess
import sys
from functools import partial

import pytest

from tests.conftest import ROOT, default_params, ends
from tools.all_params import read_params
from xinglin.files import atomic_path
from xinglin.params import ParamsFile
from xinglin.training.settings import Adapter

MINE = {"name": "mine", "source": "path", "path": "a.jsonl"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"adapter.learning_rat": 0.1}, ["adapter.learning_rat", "unknown", "learning_rate"]),
        ({"adapter.learning_rate": "fast"}, ["adapter.learning_rate", "'fast'", "number"]),
        ({"adapter.lora_rank": 0}, ["adapter.lora_rank", "0", "greater than or equal to 1"]),
        ({"adapter.lora_rank": True}, ["adapter.lora_rank", "True", "integer"]),
        ({"adapter.template": "a template"}, ["adapter.template", "'a template'"]),
        ({"split.ratios.test": 0.5}, ["split.ratios", "must be 1", "1.3"]),
        ({"raw.source": "path"}, ["raw", "raw.path"]),
        ({"raw.path": []}, ["raw.path", "[]", "at least 1"]),
        ({"raw.sources": [MINE | {"shre": 0.1}]}, ["raw.sources.0.shre", "unknown parameter, did you mean 'share'?"]),
        ({"raw.sources": [MINE, MINE | {"path": "b.jsonl"}]}, ["raw", "two are named 'mine'", "a name of its own"]),
        ({"raw.sources": [MINE | {"name": "sources"}]}, ["raw", "'sources'", "another name"]),
        ({"raw.sources": [MINE | {"name": "a/b"}]}, ["raw.sources.0.name", "'a/b'"]),
        ({"raw.sources": [MINE | {"share": 0}]}, ["raw.sources.0.share", "0", "greater than 0"]),
        ({"raw.sources": [MINE | {"share": 1.5}]}, ["raw.sources.0.share", "1.5", "less than or equal to 1"]),
        ({"raw.sources": [MINE | {"limit": 0}]}, ["raw.sources.0.limit", "0", "greater than or equal to 1"]),
        ({"raw.sources": [MINE | {"part": "dev"}]}, ["raw.sources.0.part", "'dev'", "'train', 'val' or 'test'"]),
        ({"raw.sources": [MINE | {"source": "modelscope"}]}, ["raw.sources.0", "'mine'", "'modelscope'", "dataset and file"]),
        ({"raw.sources": [MINE | {"dataset": "a/b"}]}, ["raw.sources.0", "'mine' is of 'path'", "no dataset", "leave it out"]),
        ({"base.source": "modelscope"}, ["base", "base.model"]),
        ({"serve.port": 70000}, ["serve.port", "70000", "65535"]),
        ({"predictions.max_new_tokens": 4096}, ["max_new_tokens", "4096", "2048"]),
        (
            {"adapter.finetuning_type": "full", "adapter.quantization_bit": 4},
            ["adapter", "quantization_bit is 4", "finetuning_type 'full'"],
        ),
        ({"adapter.finetuning_type": "freeze"}, ["adapter.finetuning_type", "'freeze'", "'full'"]),
        ({"adapter.deepspeed": 3}, ["deepspeed is 3", "adapter.gpus"]),
        ({"adapter.deepspeed": 1, "adapter.gpus": 2}, ["adapter.deepspeed", "1", "2 or 3"]),
        ({"speed": {}}, ["speed", "unknown"]),
        (
            {"predictions.repetition_penalty": 1.3},
            ["predictions.repetition_penalty", "unknown", "'decoding.repetition_penalty'"],
        ),
        ({"decoding.temperature": 0.001}, ["decoding", "temperature is 0.001", "0 (greedy), or 0.01 and more"]),
        ({"decoding.temperature": 2.1}, ["decoding.temperature", "2.1", "less than or equal to 2"]),
        ({"decoding.temperature": float("nan")}, ["decoding.temperature", "nan"]),
        ({"decoding.top_p": 0.0}, ["decoding.top_p", "0.0", "greater than 0"]),
        ({"decoding.top_k": -1}, ["decoding.top_k", "-1", "greater than or equal to 0"]),
        ({"decoding.repetition_penalty": 0.0}, ["decoding.repetition_penalty", "0.0", "greater than 0"]),
        ({"decoding.seed": -1}, ["decoding.seed", "-1"]),
        ({"metrics.seed": -1}, ["metrics.seed", "-1", "greater than or equal to 0"]),
        ({"adapter.seed": 1 << 32}, ["adapter.seed", "4294967296", "less than"]),
        ({"adapter.max_steps": 0}, ["adapter", "max_steps is 0", "-1"]),
        ({"adapter.bf16": "Auto"}, ["adapter.bf16: 'Auto'", "true, false or auto"]),
        ({"adapter.eval_steps": 2.5}, ["adapter", "eval_steps is 2.5", "whole number"]),
    ],
)
def test_a_wrong_parameter_is_one_line_with_place_value_and_expectation(workplace, capsys, change, words):
    workplace(change)
    with ends() as end:
        read_params()
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    for word in ["params.yaml", *words]:
        assert word in line


def test_a_missing_section_is_named(tmp_path, capsys):
    (tmp_path / "params.yaml").write_text("raw: {source: sample}\n")
    with ends():
        read_params(tmp_path / "params.yaml")
    assert "raw.path: missing" in capsys.readouterr().err


def test_what_is_not_yaml_is_one_line(tmp_path, capsys):
    (tmp_path / "params.yaml").write_text("raw: [1,\n  2: }\n")
    with ends() as end:
        read_params(tmp_path / "params.yaml")
    assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1


class Adapters(ParamsFile):
    adapter: Adapter


def test_parameters_that_change_while_a_stage_runs_put_nothing_in_place(workplace, capsys):
    folder = workplace()
    params = Adapters.read()
    workplace({"serve.port": 9999, "split.seed": 1})  # which the stage does not read
    with atomic_path(folder / "out") as new:
        new.write_text("made")
        params.ensure_unchanged()
    workplace({"adapter.lora_rank": 32})
    with ends(), atomic_path(folder / "out") as new:
        new.write_text("made with rank 8")
        params.ensure_unchanged()
    assert "section adapter changed while this ran" in capsys.readouterr().err
    assert (folder / "out").read_text() == "made" and not list(folder.glob(".*.part"))


def test_an_edit_in_the_middle_of_a_run_is_seen_and_ends_nothing(workplace):
    folder = workplace()
    params, text = Adapters.read(), (folder / "params.yaml").read_text()
    assert params.changed() is None
    for half in ("adapter: [1,\n  2: }\n", "", text.replace("lora_rank: 8", "lora_rank: 16")):
        (folder / "params.yaml").write_text(half)
        assert params.changed() == "adapter"
    (folder / "params.yaml").write_text(text)
    assert params.changed() is None


def test_a_stage_checks_the_sections_that_it_reads_and_no_other(workplace, capsys):
    workplace({"serve.port": "high", "adapter.lora_rank": 16})
    assert Adapters.read().adapter.lora_rank == 16
    workplace({"adapter.lora_rnk": 16})
    with ends():
        Adapters.read()
    assert "adapter.lora_rnk: unknown parameter, did you mean 'lora_rank'?" in capsys.readouterr().err


def test_a_typo_in_any_section_ends_the_first_stage(tmp_path):
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "params.yaml").write_text(
        (ROOT / "params.yaml").read_text(encoding="utf-8").replace("lora_rank:", "lora_rnk:"), encoding="utf-8"
    )
    line = [sys.executable, "-m", "tools.run", "stages.raw", "--sample", "data/sample/dialogues.jsonl", "--out", "raw"]
    run = partial(
        subprocess.run, line, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    done = run()
    assert (
        done.returncode == 2
        and done.stderr == "error: params.yaml: adapter.lora_rnk: unknown parameter, did you mean 'lora_rank'?\n"
    )
    assert not (tmp_path / "raw").exists()
    shutil.copy(ROOT / "params.yaml", tmp_path)
    assert run().returncode == 0 and (tmp_path / "raw").is_dir()
    assert run().returncode == 0, "checked once, and not again"


def test_every_key_is_commented_with_a_question():
    lines = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    sections = {name: values for name, values in default_params().items() if isinstance(values, dict)}
    keys = [line for line in lines if line.startswith("  ") and line[2] not in " -"]
    assert len(keys) == sum(map(len, sections.values()))
    keys += [line for line in lines if line.split(":")[0] in default_params().keys() - sections.keys()]
    assert not [line for line in keys if not ("#" in line and "?" in line)]


def test_an_empty_profile_is_one_line(tmp_path, capsys):
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    with ends() as end:
        read_params(ROOT / "params.yaml", profile=tmp_path / "empty.yaml")
    assert end.value.code == 2 and "empty.yaml: None: expected sections of params.yaml" in capsys.readouterr().err
