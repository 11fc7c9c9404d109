import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import psutil
import pytest

from stages import predictions, server
from tests.conftest import ROOT, params_with

ASKED = [{"id": str(i), "messages": [{"role": "user", "content": f"问{i}"}], "reference": "答"} for i in range(6)]
REPLY = {"choices": [{"message": {"content": "多喝水"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}


@contextmanager
def openai_server(answer):
    """Yield the URL of a server that answers each chat request with `answer(body)`, a status and a JSON value."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            status, value = answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    fake = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=fake.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{fake.server_port}"
    finally:
        fake.shutdown()
        fake.server_close()


@pytest.fixture
def launches(monkeypatch):
    """Return the list of servers that are started from here on, each as command line, variables and log: none is, on four GPUs of 80 GiB."""
    seen = []

    @contextmanager
    def started(name, line, variables, log):
        seen.append((line, variables, log))
        yield None

    monkeypatch.setattr(server, "started", started)
    monkeypatch.setattr(server, "wait_until_up", lambda *_: None)
    monkeypatch.setattr(server, "on_gpu", lambda: True)
    monkeypatch.setattr("stages.replicas.cards", lambda: [80 << 30] * 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return seen


def answer_all(url, file, changes=None):
    predictions.answer_all([url], "tuned", ASKED, file, params_with(changes).predictions)


def test_only_what_is_missing_is_asked_and_a_torn_line_is_asked_again(tmp_path):
    file, bodies = tmp_path / "tuned.jsonl", []
    file.write_text(json.dumps(ASKED[0] | {"prediction": "早先"}) + "\n" + '{"id": "1", "pred')
    with openai_server(lambda body: (bodies.append(body), (200, REPLY))[1]) as url:
        answer_all(url, file)
    found = predictions.answered(file)
    assert len(bodies) == 5 and set(found) == {row["id"] for row in ASKED}
    assert found["0"]["prediction"] == "早先" and found["1"]["prediction"] == "多喝水"


def test_what_was_answered_before_a_failure_is_kept(tmp_path):
    file, count = tmp_path / "tuned.jsonl", iter(range(100))
    with (
        openai_server(lambda body: (200, REPLY) if next(count) < 3 else (500, {"error": "out of memory"})) as url,
        pytest.raises(SystemExit),
    ):
        answer_all(url, file, {"predictions.concurrency": 1})
    assert len(predictions.answered(file)) == 3


def test_a_refusal_is_one_line_and_a_server_that_is_gone_is_seen_as_such(tmp_path, capfd):
    with openai_server(lambda body: (500, {"error": "out of memory"})) as url, pytest.raises(SystemExit):
        answer_all(url, tmp_path / "a", {"predictions.concurrency": 1})
    assert [line for line in capfd.readouterr().err.splitlines() if "error:" in line or "Traceback" in line] == [
        'error: tuned: sample 0: the server says 500: {"error": "out of memory"}'
    ]
    with pytest.raises(aiohttp.ClientConnectionError):  # not wrapped in a group: server.started tells a death by it
        answer_all(url, tmp_path / "b")


def test_as_many_requests_are_open_at_once_as_asked_for(tmp_path):
    together = threading.Barrier(len(ASKED), timeout=10)  # nobody is answered before all have asked
    with openai_server(lambda body: (together.wait(), (200, REPLY))[1]) as url:
        answer_all(url, tmp_path / "a", {"predictions.concurrency": len(ASKED)})
    assert len(predictions.answered(tmp_path / "a")) == len(ASKED)


def test_every_knob_of_an_answer_reaches_the_server(tmp_path):
    bodies = []
    with openai_server(lambda body: (bodies.append(body), (200, REPLY))[1]) as url:
        answer_all(url, tmp_path / "a", {"predictions.max_new_tokens": 77, "predictions.repetition_penalty": 1.5})
    assert {(b["model"], b["max_tokens"], b["repetition_penalty"], b["temperature"]) for b in bodies} == {("tuned", 77, 1.5, 0)}


def test_a_dialogue_that_is_too_long_loses_its_oldest_turns(tmp_path):
    turns = [{"role": "user" if i % 2 == 0 else "assistant", "content": f"第{i}句"} for i in range(7)]
    tries = []

    def answer(body):
        tries.append(len(body["messages"]))
        return (200, REPLY) if len(body["messages"]) <= 3 else (400, {"message": "maximum context length is 64 tokens"})

    with openai_server(answer) as url:
        sample = {"id": "x", "messages": turns, "reference": "答"}
        predictions.answer_all([url], "tuned", [sample], tmp_path / "a", params_with().predictions)
    assert tries == [7, 5, 3]
    assert predictions.answered(tmp_path / "a")["x"]["messages"] == turns


def test_a_server_that_fails_to_start_shows_its_log_and_leaves_no_process(tmp_path, capsys):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(SystemExit), server.running(tmp_path / "broken", tmp_path / "vllm.log"):
        raise AssertionError("it started")
    line = capsys.readouterr().err
    assert "vLLM did not start, status" in line and "unheard_of" in line
    assert not [p for p in psutil.Process().children(recursive=True) if "vllm" in " ".join(p.cmdline())]


STARTING = """
import sys
from pathlib import Path
from stages.common import arguments
from stages import server
sys.argv = ["stage"]
arguments("")
with server.running("models/tiny", Path(sys.stdin.readline().strip())):
    pass
"""


def test_a_stage_that_is_told_to_end_while_its_server_starts_leaves_nothing_however_often_it_is_told():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        process = subprocess.Popen([sys.executable, "-c", STARTING], cwd=ROOT, stdin=subprocess.PIPE, env=os.environ | {"TMPDIR": folder})
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


def options_of(line):
    """Return a command line's options, those without a value as ""."""
    pairs = zip(line, [*line[1:], "--"], strict=True)
    return {word[2:].replace("-", "_"): "" if value.startswith("--") else value for word, value in pairs if word.startswith("--")}


def test_every_knob_of_the_server_reaches_its_command_line(tmp_path, launches):
    (tmp_path / "adapter_config.json").write_text('{"r": 12}')
    knobs = {"max_model_len": 333, "dtype": "float32", "gpu_memory_utilization": 0.4, "tensor_parallel_size": 2, "concurrency": 5, "data_parallel_size": 2, "batch_invariant": True}
    chosen = params_with({f"predictions.{k}": v for k, v in knobs.items()} | {"predictions.max_new_tokens": 9}).predictions
    with predictions.endpoints(chosen, ROOT / "models" / "tiny", tmp_path, tmp_path / "qwen.jinja", tmp_path / "vllm.log") as urls:
        assert len(set(urls)) == 2
    expected = {"max_model_len": "333", "dtype": "float32", "gpu_memory_utilization": "0.4", "tensor_parallel_size": "2", "max_num_seqs": "3"}
    for (line, variables, log), gpus, name in zip(launches, ("0,1", "2,3"), ("vllm.log", "vllm-2.log"), strict=True):
        seen = options_of(line)
        assert {k: seen[k] for k in expected} == expected and "kv_cache_memory_bytes" not in seen and "data_parallel_size" not in seen
        assert variables["CUDA_VISIBLE_DEVICES"] == gpus and variables["VLLM_BATCH_INVARIANT"] == "1" and log.name == name
        assert seen["max_lora_rank"] == "16" and seen["chat_template"].endswith("qwen.jinja") and seen["lora_modules"] == f"tuned={tmp_path}"
    assert "VLLM_BATCH_INVARIANT" not in server.environment()


def test_replicas_share_a_gpu_where_there_are_too_few(tmp_path, launches, monkeypatch, capsys):
    monkeypatch.setattr("stages.replicas.cards", lambda: [8 << 30])
    changes = {"predictions.data_parallel_size": 2, "predictions.gpu_memory_utilization": 0.8, "predictions.concurrency": 8}
    chosen = params_with(changes).predictions
    with predictions.endpoints(chosen, ROOT / "models" / "tiny", None, tmp_path / "qwen.jinja", tmp_path / "vllm.log"):
        pass
    assert [variables["CUDA_VISIBLE_DEVICES"] for _, variables, _ in launches] == ["0", "0"]
    share = 0.4 * (8 << 30)
    for line, *_ in launches:
        seen = options_of(line)
        assert seen["gpu_memory_utilization"] == "0.4" and seen["max_num_seqs"] == "4"
        assert share / 3 < int(seen["kv_cache_memory_bytes"]) < share
    launches.clear()
    with predictions.endpoints(params_with(changes | {"predictions.data_parallel_size": 5}).predictions, ROOT / "models" / "tiny", None, tmp_path, tmp_path / "vllm.log") as urls:
        assert len(urls) == len(launches) == 4  # five would leave each less than CUDA takes
    assert "predictions.data_parallel_size: the GPU's memory does not hold 5 replicas: trying 4" in capsys.readouterr().err
    assert options_of(launches[0][0])["gpu_memory_utilization"] == "0.2"
    cut = params_with({"predictions.tensor_parallel_size": 3}).predictions
    with pytest.raises(SystemExit), predictions.endpoints(cut, ROOT / "models" / "tiny", None, tmp_path / "qwen.jinja", tmp_path / "vllm.log"):
        raise AssertionError("it started")
    assert "predictions.tensor_parallel_size: 3 GPUs are asked for, 1 are here" in capsys.readouterr().err


def test_a_request_goes_to_the_server_with_the_fewest_open_ones(tmp_path):
    served = {"quick": 0, "slow": 0}

    def counted(name, seconds):
        def answer(body):
            served[name] += 1
            time.sleep(seconds)
            return 200, REPLY

        return answer

    asked = [row | {"id": f"{n}-{row['id']}"} for n in range(5) for row in ASKED]
    with openai_server(counted("quick", 0.01)) as quick, openai_server(counted("slow", 0.3)) as slow:
        predictions.answer_all([slow, quick], "tuned", asked, tmp_path / "a", params_with({"predictions.concurrency": 4}).predictions)
    assert set(predictions.answered(tmp_path / "a")) == {row["id"] for row in asked}
    assert served["quick"] > 2 * served["slow"] > 0 and sum(served.values()) == len(asked)


def test_a_replica_that_dies_is_told_while_the_others_still_load(tmp_path, capsys):
    (tmp_path / "second.log").write_text("out of memory")
    loads, dies = (subprocess.Popen([sys.executable, "-c", code]) for code in ("import time; time.sleep(60)", "raise SystemExit(3)"))
    try:
        with pytest.raises(SystemExit):
            server.wait_until_up("vLLM", [(loads, server.free_port(), tmp_path / "first.log"), (dies, server.free_port(), tmp_path / "second.log")])
    finally:
        loads.kill()
        loads.wait()
    assert f"vLLM did not start, status 3; the end of {tmp_path}/second.log:\nout of memory" in capsys.readouterr().err


def test_more_connections_than_a_shell_allows_are_allowed_or_refused_in_one_line(monkeypatch, capsys):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, limits[1]))
        predictions.allow_files(1024)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1024, limits[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 200))
    with pytest.raises(SystemExit):
        predictions.allow_files(1024)
    assert "predictions.concurrency: 1024 open files are needed, the system allows 200 (ulimit -Hn): set it lower" in capsys.readouterr().err


@pytest.mark.soak
def test_two_replicas_answer_as_one_does(tmp_path):
    asked = [{"id": str(n), "messages": [{"role": "user", "content": f"感冒{n}天了，怎么办？"}], "reference": ""} for n in range(12)]
    for replicas in (1, 2):
        chosen = params_with({"predictions.data_parallel_size": replicas, "predictions.max_new_tokens": 20, "predictions.concurrency": 4}).predictions
        with predictions.endpoints(chosen, ROOT / "models" / "tiny", None, ROOT / "templates" / "chat" / "qwen.jinja", tmp_path / "vllm.log") as urls:
            assert len(urls) == replicas
            predictions.answer_all(urls, "base", asked, tmp_path / str(replicas), chosen)
    one, two = ({key: row["prediction"] for key, row in predictions.answered(tmp_path / str(n)).items()} for n in (1, 2))
    assert one == two and len(one) == 12
    assert "POST /v1/chat/completions" in (tmp_path / "vllm-2.log").read_text()


def test_a_model_tuned_in_every_weight_has_a_server_of_its_own_after_the_bases(tmp_path, launches):
    (tmp_path / "config.json").write_text("{}")
    chosen = params_with().predictions
    for models in predictions.shifts(chosen, tmp_path):
        with predictions.endpoints(chosen, ROOT, tmp_path, tmp_path / "qwen.jinja", tmp_path / "log", models):
            pass
    seen = [options_of(line) for line, *_ in launches]
    assert [(one["model"], one["served_model_name"], one["tokenizer"]) for one in seen] == [(str(ROOT), "base", str(tmp_path)), (str(tmp_path), "tuned", str(tmp_path))]
    assert not any("enable_lora" in one for one in seen)
    (tmp_path / "adapter_config.json").write_text('{"r": 8}')
    assert predictions.shifts(chosen, tmp_path) == [("base", "tuned")]
    (tmp_path / "adapter_config.json").unlink()
    assert predictions.shifts(params_with({"predictions.base_url": "http://10.0.0.1:8000"}).predictions, tmp_path) == [("base", "tuned")]


def test_a_server_that_cannot_be_reached_is_named_in_one_line(tmp_path, capsys):
    chosen = params_with({"predictions.base_url": "http://127.0.0.1:9/v1"}).predictions
    with pytest.raises(SystemExit), predictions.endpoints(chosen, ROOT, tmp_path, tmp_path, tmp_path) as urls:
        predictions.answer_all(urls, "tuned", ASKED, tmp_path / "a", chosen)
    assert "error: predictions.base_url: http://127.0.0.1:9/v1: Cannot connect to host" in capsys.readouterr().err


def test_a_full_disk_is_said_before_vllm_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("stages.common.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(SystemExit), server.running(ROOT / "models" / "tiny", tmp_path / "vllm.log"):
        raise AssertionError("it started")
    assert "vLLM's log needs 0.1 GB of disk, 0.0 GB are free" in capsys.readouterr().err


def test_base_url_is_used_as_it_is(tmp_path):
    chosen = params_with({"predictions.base_url": "http://10.0.0.1:8000/v1/"}).predictions
    with predictions.endpoints(chosen, ROOT, tmp_path, tmp_path, tmp_path) as urls:
        assert urls == ["http://10.0.0.1:8000"]
