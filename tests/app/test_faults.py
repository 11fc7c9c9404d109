"""What a client is told when the model's server breaks, hangs or answers something else, and that its place is free again."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.application import application, faulty_server
from tests.faulty_server import PLAIN, STREAMS
from tests.ports import quiet_port
from xinglin.serving.server import free_port

SILENCE, TOTAL, PLACES = 1, 3, 2
WHOLE = {"GOOD", "ODD", "CRLF", "NODONE", "NOFINISH"}  # streams that a client gets as an answer
LARGE = {"LONGLINE", "FLOOD"}  # answers too
BEGUN = {"CUT", "NOTJSON", "MIDERROR", "HANGMIDDLE"}  # what breaks off after its first event
HANGS = {"HANG", "HANGMIDDLE"}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with faulty_server(tmp_path_factory.mktemp("faulty"), free_port()) as url:
        yield url


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, faulty: str) -> Iterator[str]:
    limits = {"app.silence_seconds": SILENCE, "app.timeout_seconds": TOTAL, "app.concurrent_requests": PLACES}
    with application(tmp_path_factory.mktemp("app"), faulty, limits) as url:
        yield url


def body(fault: str, stream: bool, **more: object) -> dict:
    return {"model": "xinglin", "messages": [{"role": "user", "content": fault}], "stream": stream} | more


def ask(app: str, fault: str, stream: bool, **more: object) -> httpx.Response:
    return httpx.post(f"{app}/v1/chat/completions", json=body(fault, stream, **more), timeout=TOTAL + 2)


def events(text: str) -> list[dict | str]:
    found = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
    return [part if part == "[DONE]" else json.loads(part) for part in found]


def told(reply: httpx.Response) -> dict:
    """Return the error of a reply, by its status or at the end of its stream."""
    last = reply.json() if reply.status_code != 200 else events(reply.text)[-1]
    assert set(last) == {"error"} and set(last["error"]) == {"message", "type", "param", "code"}
    assert "/opt/" not in reply.text and "nginx" not in reply.text
    return last["error"]


@pytest.mark.parametrize("fault", sorted(STREAMS.keys() - WHOLE - LARGE) + sorted(PLAIN) + sorted(HANGS))
def test_a_stream_that_is_no_answer_ends_with_an_error_within_the_limits_and_frees_its_place(app, fault):
    start = time.monotonic()
    for _ in range(PLACES + 1):
        reply = ask(app, fault, stream=True)
        assert told(reply)["type"] == "server_error" and "[DONE]" not in reply.text
    assert time.monotonic() - start < (PLACES + 1) * (SILENCE + 1)
    assert reply.status_code == (200 if fault in BEGUN else 504 if fault == "HANG" else 502)


@pytest.mark.parametrize("fault", ["HANG", *PLAIN])
def test_an_answer_in_one_piece_that_is_none_is_an_error_too(app, fault):
    reply = ask(app, fault, stream=False)
    assert reply.status_code == (504 if fault == "HANG" else 502) and told(reply)["message"]


@pytest.mark.parametrize("fault", sorted(WHOLE))
def test_a_stream_that_is_odd_but_whole_comes_as_openai_would_send_it(app, fault):
    *found, done = events(ask(app, fault, stream=True, stream_options={"include_usage": fault == "ODD"}).text)
    assert done == "[DONE]" and {(event["id"], event["created"]) for event in found} == {("chatcmpl-7", 7)}
    choices = [event["choices"][0] for event in found if event["choices"]]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "多喝水"
    assert [choice["delta"]["role"] for choice in choices if "role" in choice["delta"]] == ["assistant"]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    assert [event["usage"]["total_tokens"] for event in found if not event["choices"]] == ([3] if fault == "ODD" else [])


def test_an_event_longer_than_128_kb_comes_whole(app):
    found = events(ask(app, "LONGLINE", stream=True).text)
    assert max(len(event["choices"][0]["delta"].get("content", "")) for event in found[:-1]) == 100_000


def test_an_answer_without_id_role_or_reason_is_completed(app):
    with openai.OpenAI(base_url=f"{app}/v1", api_key="none", max_retries=0) as client:
        done = client.chat.completions.create(**body("GOOD", False))
    assert done.id.startswith("chatcmpl-") and done.created and done.model == "xinglin" and done.object == "chat.completion"
    assert (done.choices[0].message.role, done.choices[0].finish_reason, done.choices[0].index) == ("assistant", "stop", 0)


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_give_up_before_the_first_byte_free_their_places_at_once(app, faulty, stream):
    for _ in range(PLACES * 4):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{app}/v1/chat/completions", json=body("HANG", stream), timeout=0.2)
        end = time.monotonic() + 0.5
        while httpx.get(f"{faulty}/state").json()["open"] and time.monotonic() < end:
            time.sleep(0.02)
        assert httpx.get(f"{faulty}/state").json()["open"] == 0
    assert ask(app, "GOOD", stream).status_code == 200


def test_a_client_that_never_reads_loses_its_place_when_the_time_is_over(app):
    host, port = app.removeprefix("http://").split(":")
    text = json.dumps(body("FLOOD", True)).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    places = [socket.socket() for _ in range(PLACES)]
    for place in places:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        place.connect((host, int(port)))
        place.sendall(f"{head}{len(text)}\r\n\r\n".encode() + text)
    time.sleep(0.5)
    busy = ask(app, "GOOD", True).status_code
    time.sleep(TOTAL)
    free = ask(app, "GOOD", True).status_code
    for place in places:
        place.close()
    assert (busy, free) == (429, 200)


def test_health_answers_within_a_second_while_the_models_server_hangs(tmp_path: Path):
    port = quiet_port()
    with application(tmp_path, f"http://127.0.0.1:{port}") as url, socket.create_server(("127.0.0.1", port)):
        for path, status in {"/healthz": 200, "/readyz": 503, "/v1/models": 200, "/v1/models/xinglin": 200}.items():
            start = time.monotonic()
            reply = httpx.get(url + path, timeout=5)
            assert reply.status_code == status and time.monotonic() - start < 1
