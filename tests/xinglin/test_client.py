import asyncio
import json
import resource
import threading
import time

import aiohttp
import pytest

from tests.conftest import ends, params_with
from tests.openai_server import ASKED, REPLY, answer_all, openai_server
from xinglin.serving import answers
from xinglin.serving import client as asking


def test_only_what_is_missing_is_asked_and_a_torn_line_is_asked_again(tmp_path):
    file, bodies = tmp_path / "tuned.jsonl", []
    file.write_text(json.dumps(ASKED[0] | {"prediction": "早先"}) + "\n" + '{"id": "1", "pred')
    with openai_server(lambda body: (bodies.append(body), (200, REPLY))[1]) as url:
        answer_all(url, file)
    found = asking.answered(file)
    assert len(bodies) == 5 and set(found) == {row["id"] for row in ASKED}
    assert found["0"]["prediction"] == "早先" and found["1"]["prediction"] == "多喝水"


def test_what_was_answered_before_a_failure_is_kept(tmp_path):
    file, count = tmp_path / "tuned.jsonl", iter(range(100))
    with openai_server(lambda body: (200, REPLY) if next(count) < 3 else (500, {"error": "out of memory"})) as url, ends():
        answer_all(url, file, {"predictions.concurrency": 1})
    assert len(asking.answered(file)) == 3


def test_a_refusal_is_one_line_and_a_server_that_is_gone_is_seen_as_such(tmp_path, capfd):
    with openai_server(lambda body: (500, {"error": "out of memory"})) as url, ends():
        answer_all(url, tmp_path / "a", {"predictions.concurrency": 1})
    assert [line for line in capfd.readouterr().err.splitlines() if "error:" in line or "Traceback" in line] == [
        'error: tuned: sample 0: the server says 500: {"error": "out of memory"}'
    ]
    with pytest.raises(aiohttp.ClientConnectionError):  # not wrapped in a group: server.serving tells a death by it
        answer_all(url, tmp_path / "b")


def test_as_many_requests_are_open_at_once_as_asked_for(tmp_path):
    together = threading.Barrier(len(ASKED), timeout=10)  # nobody is answered before all have asked
    with openai_server(lambda body: (together.wait(), (200, REPLY))[1]) as url:
        answer_all(url, tmp_path / "a", {"predictions.concurrency": len(ASKED)})
    assert len(asking.answered(tmp_path / "a")) == len(ASKED)


def test_a_request_goes_to_the_server_with_the_fewest_open_ones(tmp_path):
    served = {"quick": 0, "slow": 0}

    def counted(name, seconds):
        def answer(body):
            served[name] += 1
            time.sleep(seconds)
            return 200, REPLY

        return answer

    asked = [row | {"id": f"{n}-{row['id']}"} for n in range(5) for row in ASKED]
    with openai_server(counted("quick", 0.01)) as quick, openai_server(counted("slow", 0.8)) as slow:
        answers.answer_all(
            [slow, quick],
            "tuned",
            asked,
            tmp_path / "a",
            params_with({"predictions.concurrency": 4}).predictions,
            params_with().decoding,
        )
    assert set(asking.answered(tmp_path / "a")) == {row["id"] for row in asked}
    assert served["quick"] > 2 * served["slow"] > 0 and sum(served.values()) == len(asked)


def test_more_connections_than_a_shell_allows_are_allowed_or_refused_in_one_line(monkeypatch, capsys):
    async def begin():
        async with asking.connect(["http://127.0.0.1:9"], 1024):
            return resource.getrlimit(resource.RLIMIT_NOFILE)

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, limits[1]))
        assert asyncio.run(begin())[0] > 1024
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 200))
    with ends():
        asking.allow_files(1024)
    assert (
        "predictions.concurrency: 1024 open files are needed, the system allows 200 (ulimit -Hn): set it lower"
        in capsys.readouterr().err
    )
