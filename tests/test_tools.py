import json
import shutil
import socket
import sys

import pytest

from stages.params import read_params
from tests.conftest import ROOT, default_params
from tools import board, doctor, profile, serve, table

PROFILES = sorted(file.stem for file in (ROOT / "profiles").glob("*.yaml"))


def lay(monkeypatch, folder, name):
    shutil.copytree(ROOT / "profiles", folder / "profiles", dirs_exist_ok=True)
    if not (folder / "params.yaml").exists():
        shutil.copy(ROOT / "params.yaml", folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["profile", name])
    profile.main()


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_fits_and_keeps_every_comment(monkeypatch, tmp_path, name):
    lay(monkeypatch, tmp_path, name)
    found = read_params(tmp_path / "params.yaml")
    assert found.adapter.lora_alpha == 2 * found.adapter.lora_rank == 16

    def comments(file):
        return [line.partition("#")[2].strip() for line in file.read_text(encoding="utf-8").splitlines()]

    assert comments(tmp_path / "params.yaml") == comments(ROOT / "params.yaml")
    if name != "tiny":
        assert found.raw.source == found.base.source == "modelscope" and found.split.ratios.train == 0.7


def test_tiny_is_the_default_and_the_way_back(monkeypatch, tmp_path):
    lay(monkeypatch, tmp_path, "deepseek-r1-7b")
    lay(monkeypatch, tmp_path, "tiny")
    assert read_params(tmp_path / "params.yaml").model_dump() == default_params()


def test_a_profile_that_is_not_there_is_named_with_those_that_are(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        lay(monkeypatch, tmp_path, "qwen9")
    line = capsys.readouterr().err
    assert end.value.code == 2 and "NAME=qwen9" in line and "qwen2.5-7b" in line


def test_serving_without_a_model_says_how_to_make_it(workplace, capsys):
    workplace()
    with pytest.raises(SystemExit):
        serve.main()
    assert "models/merged: no merged model: run 'dvc repro'" in capsys.readouterr().err


def merged_model(folder):
    (folder / "models" / "merged").mkdir(parents=True)
    (folder / "models" / "merged" / "config.json").write_text("{}")


def test_a_port_in_use_is_named(workplace, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        merged_model(workplace({"serve.port": port}))
        with pytest.raises(SystemExit):
            serve.main()
    assert f"serve.port: 127.0.0.1:{port}" in capsys.readouterr().err


def test_an_open_address_demands_a_key(workplace, capsys, monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    merged_model(workplace({"serve.host": "0.0.0.0"}))
    with pytest.raises(SystemExit) as end:
        serve.main()
    assert end.value.code == 2 and "VLLM_API_KEY" in capsys.readouterr().err


def test_every_knob_of_serving_reaches_vllm(workplace, monkeypatch):
    seen = []
    monkeypatch.setattr("os.execve", lambda program, line, environment: seen.extend(line))
    monkeypatch.setattr("stages.server.on_gpu", lambda: True)
    knobs = {"port": 0, "model_name": "mine", "max_model_len": 321, "dtype": "float16", "gpu_memory_utilization": 0.3, "tensor_parallel_size": 2, "data_parallel_size": 3}
    merged_model(workplace({f"serve.{k}": v for k, v in knobs.items()}))
    serve.main()
    options = dict(zip(seen[3::2], seen[4::2], strict=True))
    for name, value in ({"served-model-name": knobs.pop("model_name")} | knobs).items():
        assert options[f"--{name.replace('_', '-')}"] == str(value)
    assert options["--host"] == "127.0.0.1"


def test_doctor_names_versions_hardware_and_what_is_missing(workplace, capsys):
    workplace({"raw.source": "path", "raw.path": "/nowhere/d.jsonl"})
    doctor.main()
    out = capsys.readouterr().out
    for words in ("llamafactory  0.9.5", "vllm", "build)", "torch", "dvc", "disk", "memory", "/nowhere/d.jsonl: no such file"):
        assert words in out
    assert table.show


def test_the_board_holds_the_adapter_on_its_base_or_the_tuned_model_alone(workplace, capsys):
    folder = workplace()
    (folder / "models" / "adapter").mkdir(parents=True)
    with pytest.raises(SystemExit):
        board.settings()
    assert "models/adapter: no adapter: run 'dvc repro adapter' to make it" in capsys.readouterr().err
    (folder / "models" / "base.json").write_text(json.dumps({"path": str(ROOT / "models" / "tiny")}))
    (folder / "models" / "adapter" / "adapter_config.json").touch()
    tiny = str(ROOT / "models" / "tiny")
    assert board.settings() == {"model_name_or_path": tiny, "adapter_name_or_path": "models/adapter", "template": "qwen"}
    (folder / "models" / "adapter" / "adapter_config.json").rename(folder / "models" / "adapter" / "config.json")
    assert board.settings() == {"model_name_or_path": "models/adapter", "template": "qwen"}
