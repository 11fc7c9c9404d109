import itertools
import json
import shutil
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from benchmarks import gpu_answering, pipeline
from tests.conftest import ROOT, default_params, ends, params_with
from tools import board, doctor, print_metrics, profile, repro, serve
from tools.all_params import read_params
from xinglin.files import file_sha256, write_json
from xinglin.serving.decoding import Decoding, generation_config

PROFILES = sorted(file.stem for file in (ROOT / "profiles").glob("*.yaml"))


def overlay(monkeypatch, folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "profiles", folder / "profiles", dirs_exist_ok=True)
    if not (folder / "params.yaml").exists():
        shutil.copy(ROOT / "params.yaml", folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["profile", name])
    profile.main()


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_fits_and_keeps_every_comment(monkeypatch, tmp_path, name):
    overlay(monkeypatch, tmp_path, name)
    found = read_params(tmp_path / "params.yaml")
    assert found.adapter.lora_alpha == 2 * found.adapter.lora_rank == 16

    def comments(file):
        return [line.partition("#")[2].strip() for line in file.read_text(encoding="utf-8").splitlines()]

    assert comments(tmp_path / "params.yaml") == comments(ROOT / "params.yaml")
    if name != "tiny":
        assert found.raw.source == found.base.source == "modelscope" and found.split.ratios.train == 0.7


def test_profiles_set_the_same_keys_so_that_none_leaves_its_own_behind(monkeypatch, tmp_path):
    for name in PROFILES:
        overlay(monkeypatch, tmp_path / name, name)
    alone = {name: read_params(tmp_path / name / "params.yaml") for name in PROFILES}
    for before, name in itertools.permutations(PROFILES, 2):
        overlay(monkeypatch, tmp_path / before, name)
        assert read_params(tmp_path / before / "params.yaml").model_dump() == alone[name].model_dump(), before
        overlay(monkeypatch, tmp_path / before, before)


def test_tiny_is_the_default_and_the_way_back(monkeypatch, tmp_path):
    overlay(monkeypatch, tmp_path, "deepseek-r1-7b")
    overlay(monkeypatch, tmp_path, "tiny")
    assert read_params(tmp_path / "params.yaml").model_dump() == default_params()


def test_a_profile_that_is_not_there_is_named_with_those_that_are(monkeypatch, tmp_path, capsys):
    with ends() as end:
        overlay(monkeypatch, tmp_path, "qwen9")
    line = capsys.readouterr().err
    assert end.value.code == 2 and "NAME=qwen9" in line and "qwen2.5-7b" in line


def test_serving_without_a_model_says_how_to_make_it(workplace, capsys):
    workplace()
    with ends():
        serve.main()
    assert "models/merged: no merged model: run 'dvc repro'" in capsys.readouterr().err


def merged_model(folder, decoding=None, **config):
    """Write what `make serve` reads of a merged model: configuration, decoding and, in a file of zeros, its size."""
    model = folder / "models" / "merged"
    model.mkdir(parents=True, exist_ok=True)
    (model / "config.json").write_text(json.dumps({"dtype": "bfloat16", "num_attention_heads": 6} | config))
    known = Decoding.model_validate(default_params()["decoding"] | (decoding or {}))
    (model / "generation_config.json").write_text(json.dumps(generation_config(known, {}, {2})))
    (model / "model.safetensors").write_bytes(bytes(1000))


def test_a_port_in_use_is_named(workplace, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        merged_model(workplace({"serve.port": port}))
        with ends():
            serve.main()
    assert f"serve.port: 127.0.0.1:{port}" in capsys.readouterr().err


def test_an_open_address_demands_a_key(workplace, capsys, monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    merged_model(workplace({"serve.host": "0.0.0.0"}))
    with ends() as end:
        serve.main()
    assert end.value.code == 2 and "VLLM_API_KEY" in capsys.readouterr().err


def test_every_knob_of_serving_reaches_vllm(workplace, monkeypatch):
    seen = []
    monkeypatch.setattr("os.execve", lambda program, line, environment: seen.extend(line))
    monkeypatch.setattr("xinglin.serving.server.on_gpu", lambda: True)
    monkeypatch.setattr("xinglin.serving.server.cards", lambda: [80 << 30] * 6)
    knobs = {
        "port": 0,
        "model_name": "mine",
        "max_model_len": 321,
        "dtype": "float16",
        "gpu_memory_utilization": 0.3,
        "tensor_parallel_size": 2,
        "data_parallel_size": 3,
    }
    merged_model(workplace({f"serve.{k}": v for k, v in knobs.items()}))
    serve.main()
    options = dict(zip(seen[3::2], seen[4::2], strict=True))
    for name, value in ({"served-model-name": knobs.pop("model_name")} | knobs).items():
        assert options[f"--{name.replace('_', '-')}"] == str(value)
    assert options["--host"] == "127.0.0.1" and options["--generation-config"] == "models/merged"


@pytest.mark.parametrize(
    ("gpu", "dtype", "expected"), [(False, "auto", "float32"), (False, "bfloat16", "bfloat16"), (True, "auto", "bfloat16")]
)
def test_serving_computes_as_predictions_did_where_nothing_else_is_asked_for(workplace, monkeypatch, gpu, dtype, expected):
    seen = []
    monkeypatch.setattr("os.execve", lambda program, line, environment: seen.extend(line))
    monkeypatch.setattr("xinglin.serving.server.on_gpu", lambda: gpu)
    merged_model(workplace({"serve.dtype": dtype, "serve.port": 0}))
    serve.main()
    assert seen[seen.index("--dtype") + 1] == expected


@pytest.mark.parametrize(
    ("changes", "gpus", "says"),
    [
        ({"serve.tensor_parallel_size": 2}, 1, "serve.tensor_parallel_size: 2 GPUs are asked for, 1 are here"),
        (
            {"serve.tensor_parallel_size": 2, "serve.data_parallel_size": 2},
            3,
            "data_parallel_size: 2 × 2 GPUs are asked for, 3 are here",
        ),
        ({"serve.tensor_parallel_size": 4}, 8, "the model's 6 attention heads cannot be shared out to 4 GPUs"),
    ],
)
def test_what_the_gpus_cannot_serve_is_one_line_before_vllm_starts(workplace, monkeypatch, capsys, changes, gpus, says):
    monkeypatch.setattr("os.execve", lambda *_: pytest.fail("vLLM was started"))
    monkeypatch.setattr("xinglin.serving.server.on_gpu", lambda: True)
    monkeypatch.setattr("xinglin.serving.server.cards", lambda: [80 << 30] * gpus)
    merged_model(workplace(changes | {"serve.port": 0}))
    with ends() as end:
        serve.main()
    line = capsys.readouterr().err
    assert end.value.code == 2 and says in line and line.count("\n") == 1


def test_a_model_too_large_for_the_machine_once_it_is_float32_is_not_started(workplace, monkeypatch, capsys):
    monkeypatch.setattr("os.execve", lambda *_: pytest.fail("vLLM was started"))
    monkeypatch.setattr(
        "xinglin.hardware.memory", lambda gpus=None: (2000, "the machine")
    )  # 1,000 bytes in bfloat16 are 2,000, and a fifth more
    merged_model(workplace({"serve.port": 0}))
    with ends():
        serve.main()
    assert "serve: models/merged needs at least" in capsys.readouterr().err


def test_the_decoding_that_was_scored_is_served_whatever_the_parameters_say_by_now(workplace, monkeypatch, capsys):
    monkeypatch.setattr("os.execve", lambda *_: None)
    folder = workplace({"serve.port": 0, "decoding.temperature": 0.7})
    merged_model(folder)
    serve.main()
    out, err = capsys.readouterr()
    assert "greedy, repetition penalty 1.3" in out and "params.yaml says sampled at temperature 0.7, top_p 1, top_k off" in err
    merged_model(folder, {"temperature": 0.7})
    serve.main()
    assert not capsys.readouterr().err
    (folder / "models" / "merged" / "generation_config.json").write_text('{"repetition_penalty": 1.3}')
    with ends():
        serve.main()
    assert "generation_config.json: no temperature" in capsys.readouterr().err


def test_doctor_names_versions_hardware_and_what_is_missing(workplace, capsys):
    workplace({"raw.source": "path", "raw.path": "/nowhere/d.jsonl"})
    doctor.main()
    out = capsys.readouterr().out
    for words in ("llamafactory  0.9.5", "vllm", "build)", "torch", "dvc", "disk", "memory", "/nowhere/d.jsonl: no such file"):
        assert words in out
    assert print_metrics.show


def test_doctor_says_that_vllms_environment_is_missing_and_goes_on(workplace, capsys, monkeypatch):
    folder = workplace({"raw.source": "path", "raw.path": "/nowhere/d.jsonl"})
    monkeypatch.setattr(sys, "prefix", str(folder / ".venv"))
    doctor.main()
    rows = capsys.readouterr().out.splitlines()
    assert "vllm          missing: run 'make setup'" in rows
    assert (
        "missing       vLLM's environment: run 'make setup'" in rows
        and "missing       raw.path: /nowhere/d.jsonl: no such file" in rows
    )


def test_doctor_names_the_base_that_is_used(workplace, capsys):
    rows = []
    for changes in ({}, {"base.source": "path", "base.path": "/models/mine"}, {"base.source": "modelscope"}):
        workplace({"base.model": "Qwen/Qwen2.5-7B-Instruct", **changes})
        doctor.main()
        rows.append(next(row for row in capsys.readouterr().out.splitlines() if row.startswith("active")))
    assert [row.split("base ")[1].split(",")[0] for row in rows] == ["tiny", "/models/mine", "Qwen/Qwen2.5-7B-Instruct"]


def no_driver(output):
    return f"echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.' >&{output}; exit 9"


@pytest.mark.parametrize(
    ("script", "card"),
    [
        (
            "case $1 in -L) echo 'GPU 0: NVIDIA H100';; *name*) echo 'NVIDIA H100, 580.1, 81559 MiB';; *) echo 81559;; esac",
            True,
        ),
        (no_driver(1), False),
        (no_driver(2), False),
        (None, False),
    ],
)
def test_doctor_finds_vllms_build_right_where_setup_would_install_it_again(workplace, monkeypatch, script, card):
    folder = workplace({"base.source": "modelscope", "base.model": "Qwen/Qwen2.5-7B-Instruct"})
    programs = folder / "bin"
    programs.mkdir()
    for name in ("sh", "make", "grep"):
        (programs / name).symlink_to(shutil.which(name))
    if script:
        (programs / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (programs / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    for name in ("CUDA_VISIBLE_DEVICES", "VLLM", "MAKEFLAGS", "MAKELEVEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "vllm_version", lambda: "vllm-0.1")
    asked = ["make", "--silent", "-C", ROOT, "--eval", "which: ; $(info $(VLLM))", "which"]
    installed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    lines = {}
    for build in ("gpu", "cpu"):
        monkeypatch.setattr("xinglin.serving.server.on_gpu", lambda build=build: build == "gpu")
        lines[build] = doctor.missing(read_params())
    assert [build for build, found in lines.items() if not any("vLLM's build" in line for line in found)] == [installed]
    assert any("a GPU, training on a CPU would take days" in line for line in lines[installed]) is not card
    assert doctor.gpu().startswith("NVIDIA H100") is card and (card or doctor.gpu().startswith("none"))


def test_the_benchmark_deletes_no_training_that_could_go_on(workplace, monkeypatch, capsys):
    folder = workplace()
    shutil.copy(ROOT / "dvc.yaml", folder)
    done, begun = (folder / ".work" / "adapter" / key for key in ("0a", "0b"))
    for run in (done, begun):
        (run / "checkpoint-1").mkdir(parents=True)
    (done / "done").touch()
    (folder / ".work" / "judgements").mkdir()
    monkeypatch.setattr(pipeline, "seconds", lambda command: pytest.fail(f"{command} was run"))
    with ends():
        pipeline.main()
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and ".work/adapter/0b: a training that has not come to its end" in line
    assert (begun / "checkpoint-1").is_dir() and done.is_dir()
    (begun / "done").touch()
    pipeline.forget()
    assert [file.name for file in Path(".work").iterdir()] == ["judgements"]


def test_a_stage_that_fails_under_the_benchmark_says_why(capsys):
    with ends():
        pipeline.seconds("echo said; echo the reason >&2; exit 3")
    out, err = capsys.readouterr()
    assert err.startswith("the reason\n") and "ended with status 3" in err and not out
    assert pipeline.seconds(["sh", "-c", "echo noise >&2"]) > 0 and capsys.readouterr() == ("", "")


def test_answers_without_an_adapter_say_what_trains_one(tmp_path, capsys):
    with ends():
        params = read_params(ROOT / "params.yaml")
        next(gpu_answering.answer_all(params.predictions, params.decoding, tmp_path))
    assert capsys.readouterr().err == f"error: {tmp_path}/runs: no adapter to answer with: run '--parts train' first\n"


def test_the_chat_page_decodes_as_was_scored(monkeypatch):
    seen = []
    monkeypatch.setattr("os.execv", lambda program, line: seen.extend(line))
    board.chat({"template": "qwen"}, params_with({"decoding.repetition_penalty": 1.2}).decoding)
    options = dict(zip(seen[2::2], seen[3::2], strict=True))
    assert options == {
        "--template": "qwen",
        "--do_sample": "False",
        "--top_k": "0",
        "--repetition_penalty": "1.2",
        "--enable_thinking": "false",
    }


def test_the_board_holds_the_adapter_on_its_base_or_the_tuned_model_alone(workplace, capsys, tiny_tokenizer):
    folder = workplace()
    (folder / "models" / "adapter").mkdir(parents=True)
    with ends():
        board.settings()
    assert "models/adapter: no adapter: run 'dvc repro adapter' to make it" in capsys.readouterr().err
    (folder / "models" / "base.json").write_text(json.dumps({"path": str(ROOT / "models" / "tiny"), "files": {}}))
    (folder / "models" / "tokenizer").symlink_to(tiny_tokenizer)
    (folder / "models" / "adapter" / "adapter_config.json").touch()
    found = board.settings()
    assert (Path(found.pop("model_name_or_path")) / "model.safetensors").samefile(
        ROOT / "models" / "tiny" / "model.safetensors"
    )
    assert found == {"adapter_name_or_path": "models/adapter", "template": "qwen"}
    (folder / "models" / "adapter" / "adapter_config.json").rename(folder / "models" / "adapter" / "config.json")
    assert board.settings() == {"model_name_or_path": "models/adapter", "template": "qwen"}


def test_a_source_that_changed_under_its_name_is_read_again(workplace, stage, tmp_path):
    (tmp_path / "mine.jsonl").write_text("one\n")
    shutil.copytree(ROOT / "models" / "tiny", tmp_path / "base")
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)} for file in (tmp_path / "base").glob("*.json")
    }
    write_json(tmp_path / "models" / "base.json", {"files": files})
    named = {
        "raw.source": "path",
        "raw.path": str(tmp_path / "mine.jsonl"),
        "base.source": "path",
        "base.path": str(tmp_path / "base"),
    }
    workplace(named)
    assert stage("raw", sample="none", out="data/raw").status == 0
    assert list(repro.changed(repro.Params.read())) == []
    (tmp_path / "mine.jsonl").write_text("one\ntwo\n")
    (tmp_path / "base" / "config.json").write_text("{}")
    assert list(repro.changed(repro.Params.read())) == ["raw", "base"]
    workplace(named | {"raw.source": "sample", "base.source": "tiny"})
    assert list(repro.changed(repro.Params.read())) == []


def test_of_several_sources_changed_bytes_are_read_again_and_a_new_name_is_not(workplace, stage, tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("one.jsonl", "folder/a.jsonl", "folder/b.jsonl"):
        (tmp_path / name).write_text(f"{name}\n")
    own = [{"name": "one", "source": "path", "path": "one.jsonl"}, {"name": "two", "source": "path", "path": "folder"}]
    workplace({"raw.sources": own})
    assert stage("raw", sample="none", out="data/raw").status == 0
    (tmp_path / "folder" / "b.jsonl").rename(tmp_path / "folder" / "c.jsonl")
    assert list(repro.changed(repro.Params.read())) == []
    (tmp_path / "folder" / "c.jsonl").rename(tmp_path / "folder" / "test.jsonl")  # a part by its name now
    assert list(repro.changed(repro.Params.read())) == ["raw"]
    (tmp_path / "folder" / "test.jsonl").rename(tmp_path / "folder" / "b.jsonl")
    (tmp_path / "folder" / "more.jsonl").write_text("more\n")
    assert list(repro.changed(repro.Params.read())) == ["raw"]
    (tmp_path / "folder" / "more.jsonl").unlink()
    (tmp_path / "one.jsonl").write_text("other\n")
    assert list(repro.changed(repro.Params.read())) == ["raw"]


@pytest.mark.parametrize("status", [0, 3])
def test_what_has_changed_is_read_before_the_rest_is_made(monkeypatch, status):
    ran = []
    monkeypatch.setattr(repro.Params, "read", lambda: None)
    monkeypatch.setattr(repro, "changed", lambda params: iter(["raw"]))
    monkeypatch.setattr("subprocess.run", lambda line: ran.append(line[1:]) or subprocess.CompletedProcess(line, status))
    monkeypatch.setattr("os.execv", lambda program, line: ran.append(line[1:]))
    monkeypatch.setattr("sys.argv", ["repro", "metrics"])
    with ends() if status else nullcontext():
        repro.main()
    assert ran == [["repro", "--force", "--single-item", "raw"], ["repro", "metrics"]][: 1 if status else 2]
