import asyncio
import json
import resource
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import pytest

from stages import predictions
from tests.conftest import ROOT, params_with

ASKED = [{"id": str(i), "messages": [{"role": "user", "content": f"问{i}"}], "reference": "答"} for i in range(6)]
keys: list[str | None] = []  # that came with each request to openai_server
REPLY = {"choices": [{"message": {"content": "多喝水"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}


@contextmanager
def openai_server(answer):
    """Yield the URL of a server that answers each chat request with `answer(body)`, a status and a JSON value."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            keys.append(self.headers["Authorization"])
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
    assert predictions.answered(tmp_path / "a")["x"]["messages"] == turns[4:]  # as asked, so that parity and judge read the same


def test_the_key_that_vllm_asks_for_goes_with_each_request(tmp_path, monkeypatch):
    for key, sent in (("xl-123", "Bearer xl-123"), ("", None)):
        monkeypatch.setenv("VLLM_API_KEY", key)
        keys.clear()
        with openai_server(lambda body: (200, REPLY if "max_tokens" in body else {"tokens": [1]})) as url:
            answer_all(url, tmp_path / f"a{key}")
            with pytest.raises(KeyError):  # of a reply without log-probabilities
                predictions.logprobs(url, "tuned", [{"id": "0", "messages": [], "prediction": "答"}])
        assert len(keys) > len(ASKED) and set(keys) == {sent}


@pytest.mark.parametrize("reply", [{}, {"choices": []}, [], {"choices": [{"message": None}], "usage": {}}])
def test_a_reply_that_is_no_chat_completion_is_one_line(tmp_path, capfd, reply):
    with openai_server(lambda body: (200, reply)) as url, pytest.raises(SystemExit):
        answer_all(url, tmp_path / "a", {"predictions.concurrency": 1})
    assert "error: tuned: sample 0: the server's reply is not a chat completion of OpenAI's" in capfd.readouterr().err


def test_an_answer_that_fills_the_model_is_not_scored_by_token():
    settings = params_with({"predictions.max_model_len": 300}).predictions
    full, short = ({"prompt_tokens": 100, "completion_tokens": n} for n in (200, 199))
    assert not predictions.has_room(full, settings) and predictions.has_room(short, settings)


def test_a_run_that_finds_all_answered_keeps_the_speed_that_was_measured(tmp_path):
    rows = {"base": [{"completion_tokens": 40}] * 4}
    first = predictions.measured(tmp_path, rows, 2.0, 4)
    assert first["samples_per_second"] == 2 and predictions.measured(tmp_path, rows, 0.1, 0) == first
    assert predictions.measured(tmp_path, rows, 1.0, 1)["samples_per_second"] == 1


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


def test_more_connections_than_a_shell_allows_are_allowed_or_refused_in_one_line(monkeypatch, capsys):
    async def begin():
        async with predictions.connect(["http://127.0.0.1:9"], 1024):
            return resource.getrlimit(resource.RLIMIT_NOFILE)

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, limits[1]))
        assert asyncio.run(begin())[0] > 1024
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 200))
    with pytest.raises(SystemExit):
        predictions.allow_files(1024)
    assert "predictions.concurrency: 1024 open files are needed, the system allows 200 (ulimit -Hn): set it lower" in capsys.readouterr().err


def test_a_server_that_cannot_be_reached_is_named_in_one_line(tmp_path, capsys):
    chosen = params_with({"predictions.base_url": "http://127.0.0.1:9/v1"}).predictions
    with pytest.raises(SystemExit), predictions.endpoints(chosen, ROOT, tmp_path, tmp_path, tmp_path) as urls:
        predictions.answer_all(urls, "tuned", ASKED, tmp_path / "a", chosen)
    assert "error: predictions.base_url: http://127.0.0.1:9/v1: Cannot connect to host" in capsys.readouterr().err


def test_base_url_is_used_as_it_is(tmp_path):
    chosen = params_with({"predictions.base_url": "http://10.0.0.1:8000/v1/"}).predictions
    with predictions.endpoints(chosen, ROOT, tmp_path, tmp_path, tmp_path) as urls:
        assert urls == ["http://10.0.0.1:8000"]
