"""Servers as processes: their start, their death, what they leave behind."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest

from tests.conftest import ROOT, ends
from xinglin.serving import server


def test_a_server_that_fails_to_start_shows_its_log_and_leaves_no_process(tmp_path, capsys):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "unheard_of"}')
    with ends(), server.serving(server.vllm(tmp_path / "broken", tmp_path / "vllm.log")):
        raise AssertionError("it started")
    line = capsys.readouterr().err
    assert "vLLM did not start, status" in line and "unheard_of" in line
    assert not [p for p in psutil.Process().children(recursive=True) if "vllm" in " ".join(p.cmdline())]


STARTING = """
import sys
from pathlib import Path
from xinglin.cli import start
from xinglin.serving import server
sys.argv = ["stage"]
start("")
with server.serving(server.vllm("models/tiny", Path(sys.stdin.readline().strip()))):
    pass
"""


def test_a_stage_that_is_told_to_end_while_its_server_starts_leaves_nothing_however_often_it_is_told():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        process = subprocess.Popen(
            [sys.executable, "-c", STARTING], cwd=ROOT, stdin=subprocess.PIPE, env=os.environ | {"TMPDIR": folder}
        )
        assert process.stdin
        process.stdin.write(f"{folder}/vllm.log\n".encode())
        process.stdin.close()
        while not list(Path(folder).glob("xinglin-*")):
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(1)
        children = psutil.Process(process.pid).children(recursive=True)
        for _ in range(20):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.005)
        assert process.wait(60) == 143
        assert psutil.wait_procs(children, timeout=10)[1] == []
        assert [file.name for file in Path(folder).iterdir()] == ["vllm.log"]


def launch(folder, name, code):
    return server.Launch("vLLM", [sys.executable, "-c", code], dict(os.environ), server.free_port(), folder / f"{name}.log")


def test_a_server_that_dies_is_told_while_the_others_still_load_and_they_are_stopped(tmp_path, capsys):
    loads = launch(tmp_path, "first", "import time; time.sleep(60)")
    dies = launch(tmp_path, "second", "print('out of memory'); raise SystemExit(3)")
    before = set(psutil.Process().children())
    with ends(), server.serving(loads, dies):
        raise AssertionError("they started")
    assert f"vLLM did not start, status 3; the end of {tmp_path}/second.log:\nout of memory" in capsys.readouterr().err
    assert set(psutil.Process().children()) <= before


def test_a_server_that_dies_at_work_is_told_by_its_log(tmp_path, capsys):
    code = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path != "/health":
            print("CUDA error", flush=True)
            os._exit(4)
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
"""
    at_work = launch(tmp_path, "first", code)
    at_work = at_work._replace(line=[*at_work.line[:2], code.replace("PORT", str(at_work.port))])
    with ends(), server.serving(at_work) as [url]:
        httpx.get(f"{url}/v1/models")
    said = capsys.readouterr().err
    assert "vLLM died with status 4" in said and "CUDA error" in said


def test_a_full_disk_is_said_before_vllm_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("xinglin.files.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with ends(), server.serving(server.vllm(ROOT / "models" / "tiny", tmp_path / "vllm.log")):
        raise AssertionError("it started")
    assert "vLLM's log needs 0.1 GB of disk, 0.0 GB are free" in capsys.readouterr().err


def test_a_servers_variables_are_the_users_before_ours(monkeypatch):
    monkeypatch.delenv("VLLM_USE_FLASHINFER_SAMPLER", raising=False)
    monkeypatch.setattr(server, "on_gpu", lambda: False)
    ours = server.environment()
    assert (
        ours["VLLM_USE_FLASHINFER_SAMPLER"] == "0" and ours["VLLM_NO_USAGE_STATS"] == "1" and "VLLM_BATCH_INVARIANT" not in ours
    )
    assert "VLLM_BATCH_INVARIANT" not in server.environment(True)  # a mode of GPUs
    monkeypatch.setattr(server, "on_gpu", lambda: True)
    assert server.environment(True)["VLLM_BATCH_INVARIANT"] == "1"
    monkeypatch.setenv("VLLM_USE_FLASHINFER_SAMPLER", "1")
    assert server.environment()["VLLM_USE_FLASHINFER_SAMPLER"] == "1"


TINY = ROOT / "models" / "tiny"  # stored in bfloat16


AUTO = {  # by compute capability, None for a CPU, and the type that the weights are stored in
    None: {"bfloat16": "float32", "float32": "float32", "float16": "float32"},
    9.0: {"bfloat16": "bfloat16", "float32": "bfloat16", "float16": "float16"},
    7.5: {"bfloat16": "float16", "float32": "float16", "float16": "float16"},
}


@pytest.mark.parametrize("gpu", AUTO)
def test_auto_is_what_the_device_computes_best(monkeypatch, gpu):
    monkeypatch.setattr(server, "on_gpu", lambda: gpu is not None)
    monkeypatch.setattr(server, "capability", lambda: gpu)
    assert {stored: server.compute_dtype("auto", stored, "predictions.dtype", lora=True) for stored in AUTO[gpu]} == AUTO[gpu]


def test_a_precision_that_the_device_has_not_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(server, "capability", lambda: 7.5)
    for gpu in (False, True):
        monkeypatch.setattr(server, "on_gpu", lambda gpu=gpu: gpu)
        assert server.compute_dtype("float16", "bfloat16", "serve.dtype", lora=True) == "float16"
        assert server.compute_dtype("float32", "bfloat16", "serve.dtype") == "float32"
    with ends():
        server.compute_dtype("bfloat16", "bfloat16", "serve.dtype")
    assert (
        "serve.dtype: bfloat16: the GPU, of compute capability 7.5, has none: set it to auto or float16"
        in capsys.readouterr().err
    )
    monkeypatch.setattr(server, "on_gpu", lambda: False)
    assert server.compute_dtype("bfloat16", "float32", "serve.dtype", lora=True) == "bfloat16"
    assert server.compute_dtype("float32", "float32", "serve.dtype", lora=True) == "float32"


def test_weights_grow_by_the_precision_that_they_are_computed_in(tmp_path):
    assert (server.widened(TINY, "float32"), server.widened(TINY, "bfloat16")) == (2, 1)
    (tmp_path / "config.json").write_text('{"text_config": {"dtype": "float32"}}')
    assert server.widened(tmp_path, "float16") == 0.5


@pytest.mark.parametrize(
    ("seen", "said", "expected"), [(None, "9.0\n7.5\n", 7.5), ("1", "9.0\n", 9.0), ("", "9.0\n", None), (None, None, None)]
)
def test_the_capability_is_that_of_the_least_gpu_that_may_be_used(tmp_path, monkeypatch, seen, said, expected):
    if said:
        (tmp_path / "nvidia-smi").write_text(f'#!/bin/sh\nprintf "{said}"\n')
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin" if said else str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert server.capability() == expected
