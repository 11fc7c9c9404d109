"""The base as stages load it: unchanged since it was proven, the user's own folder left alone."""

import json
import os
import shutil

import pytest

from tests.conftest import ROOT, default_params, ends
from xinglin.bases import folder as model_folder
from xinglin.bases.record import record
from xinglin.hubs.settings import Base


@pytest.fixture
def base(workplace):
    folder = workplace() / "mine"
    shutil.copytree(ROOT / "models" / "tiny", folder, ignore=shutil.ignore_patterns("*.xz", "*.py", "*.md"))
    return folder


def recorded(folder):
    return record(Base(**default_params()["base"] | {"source": "path", "path": str(folder)}), folder)


def test_a_stage_sees_the_bases_weights_beside_the_proven_tokenizer(base, tiny_tokenizer):
    before = sorted(base.iterdir())
    view = model_folder.open_base(recorded(base), tiny_tokenizer)
    assert (view / "model.safetensors").resolve() == (base / "model.safetensors").resolve()
    assert json.loads((view / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (view / "chat_template.jinja").exists() and sorted(base.iterdir()) == before
    assert view == model_folder.open_base(recorded(base), tiny_tokenizer)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_file_that_changed_after_the_proof_is_told_of_before_a_stage_uses_it(base, tiny_tokenizer, capsys, name):
    known = recorded(base)
    content = bytearray((base / name).read_bytes())
    content[-1] ^= 1  # the same length
    (base / name).write_bytes(content)
    with ends():
        model_folder.open_base(known, tiny_tokenizer)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{name}: changed since models/base.json was made" in error


def test_weights_are_read_once_as_long_as_neither_size_nor_time_changes(base, tiny_tokenizer, monkeypatch):
    known = recorded(base)
    monkeypatch.setattr(model_folder, "file_sha256", lambda file: pytest.fail(f"{file} was read again"))
    model_folder.open_base(known, tiny_tokenizer)
    os.utime(base / "config.json")
    with pytest.raises(pytest.fail.Exception, match=r"config\.json"):
        model_folder.open_base(known, tiny_tokenizer)


def test_a_base_that_is_gone_is_one_line(base, tiny_tokenizer, capsys):
    known = recorded(base)
    shutil.rmtree(base)
    with ends():
        model_folder.open_base(known, tiny_tokenizer)
    assert "is not there: run 'dvc repro --force base'" in capsys.readouterr().err
