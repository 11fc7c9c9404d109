import hashlib
import json
import shutil

import pytest

from tests.conftest import ROOT, default_params
from xinglin.bases import record
from xinglin.hubs.settings import Base

pytestmark = pytest.mark.filterwarnings("ignore")
TINY = ROOT / "models" / "tiny"
OUT = {"out": "base.json", "files": "base_files.json", "tokenizer": "tokenizer", "check": "check.json"}


def test_base_json_names_the_folder_and_each_files_checksum(workplace, stage):
    folder = workplace()
    assert stage("base", tiny=TINY, **OUT).status == 0
    found = json.loads((folder / "base.json").read_text())
    assert found["files"]["config.json"]["sha256"] == hashlib.sha256((TINY / "config.json").read_bytes()).hexdigest()
    assert json.loads((folder / "base_files.json").read_text()) == found["files"]
    assert "model.safetensors" in found["files"] and "pretrain.py" not in found["files"]


@pytest.mark.parametrize("gone", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_named_with_it(workplace, stage, tmp_path, gone):
    shutil.copytree(TINY, tmp_path / "mine")
    (tmp_path / "mine" / gone).unlink()
    folder = workplace({"base.source": "path", "base.path": str(tmp_path / "mine")})
    done = stage("base", tiny="none", **OUT)
    assert done.status == 1 and f"no {gone}" in done.error and not (folder / "base.json").exists()


def test_a_folder_that_is_not_there_is_named(workplace, stage):
    workplace({"base.source": "path", "base.path": "/nowhere/model"})
    assert "/nowhere/model: no such folder" in stage("base", tiny="none", **OUT).error


def test_a_path_below_the_home_folder_may_begin_with_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    section = default_params()["base"] | {"source": "path", "path": "~/models/mine"}
    folder = record.locate(Base(**section), TINY)
    assert str(folder) == "/home/someone/models/mine" and record.portable(folder) == "~/models/mine"
