"""`make serve-check` against stand-ins: what it calls right, what it finds wrong, and what it says that it could not check."""

import json
import random
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.conftest import ends, params_with
from tools import serve_check
from xinglin.serving.decoding import fields, generation_config

ANSWER = "多喝水，多休息，三天不好就去医院。" * 4
PROMPT, TOKENS = [5, 6, 7], list(range(20, 60))
KEPT = {"messages": [{"role": "user", "content": "感冒怎么办"}], "prediction": ANSWER, "completion_tokens": len(TOKENS)}
SEEN: list[tuple[str, dict]] = []


def vllm(path: str, body: dict) -> tuple[int, object]:
    """Answer as a vLLM would that serves what was scored."""
    if path == "/v1/completions":
        known = [None] * len(PROMPT) + [{str(token): {"logprob": -1.0}} for token in TOKENS]
        return 200, {"choices": [{"prompt_logprobs": known}]}
    if path == "/v1/chat/completions":
        return 200, {"choices": [{"message": {"content": ANSWER}, "finish_reason": "stop", "logprobs": {"content": []}}]}
    plain = {
        "/version": {"version": "0.32.0"},
        "/v1/models": {"data": [{"id": "xinglin", "max_model_len": 2048}]},
        "/tokenize": {"tokens": PROMPT},
    }
    return (200, plain[path]) if path in plain else (404, {})


@contextmanager
def serving(answer):
    """Yield the URL of a server that answers each request with `answer(path, body)`, a status and a JSON value."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            SEEN.append((self.path, body))
            status, value = answer(self.path, body)
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST

        def log_message(self, *words):
            pass

    SEEN.clear()
    fake = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=fake.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{fake.server_port}"
    finally:
        fake.shutdown()
        fake.server_close()


@pytest.fixture
def checked(workplace, monkeypatch, capsys):
    """Give a function that runs the three checks of what was scored against a server and returns status and lines."""
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setattr(serve_check, "CHECKS", {name: serve_check.CHECKS[name] for name in ("prompts", "weights", "decoding")})

    def run(answer, keep=True, **changes):
        folder = workplace({f"decoding.{name}": value for name, value in changes.items()})
        for name in ("data/predictions", "models/merged"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        if keep:
            rows = [{"id": str(n)} | KEPT for n in range(4)]
            kept = [{"id": row["id"], "prompt": PROMPT, "answer": TOKENS, "logprobs": [-1.0] * len(TOKENS)} for row in rows]
            for file, lines in (("tuned", rows), ("logprobs", kept)):
                (folder / "data" / "predictions" / f"{file}.jsonl").write_text(
                    "".join(json.dumps(line) + "\n" for line in lines)
                )
            (folder / "models" / "merged" / "parity.json").write_text('{"tolerance": 0.06}')
            config = generation_config(
                params_with({f"decoding.{name}": value for name, value in changes.items()}).decoding, {}, {2}
            )
            (folder / "models" / "merged" / "generation_config.json").write_text(json.dumps(config))
        with serving(answer) as url, ends() as end:
            monkeypatch.setenv("URL", url)
            serve_check.main()
        return int(end.value.code or 0), {line[8:].split(": ")[0]: line for line in capsys.readouterr().out.splitlines()}

    return run


def test_a_server_of_what_was_scored_passes_and_the_texts_are_compared(checked):
    status, lines = checked(vllm)
    assert status == 0 and all(line.startswith("ok ") for line in lines.values())
    assert "4 kept prompts" in lines["prompts"] and "4 kept answers moved by 0.0000 nats" in lines["weights"]
    assert (
        "3 of 3 answers are the same unasked as greedy, repetition penalty 1.3; characters "
        f"as kept: {len(ANSWER)} of {len(ANSWER)}, " in lines["decoding"]
    )


def test_both_requests_of_a_question_meet_its_prompt_in_the_cache_and_differ_in_decoding_alone(checked):
    for changes in ({}, {"temperature": 0.7, "top_p": 0.8}):
        checked(vllm, **changes)
        warm, unasked, spelled = [body for path, body in SEEN if path == "/v1/chat/completions"][:3]
        chosen = fields(
            params_with({f"decoding.{name}": value for name, value in changes.items()} | {"decoding.seed": 0}).decoding
        )
        drawn = {"seed": 0} if changes else {}
        assert warm == {"model": "xinglin", "messages": KEPT["messages"], "max_tokens": 1}
        assert unasked == warm | {"max_tokens": len(TOKENS)} | drawn and spelled == unasked | chosen


def test_another_template_is_found_out(checked):
    status, lines = checked(lambda path, body: (200, {"tokens": [5, 6, 9, 7]}) if path == "/tokenize" else vllm(path, body))
    assert status == 1 and lines["prompts"].startswith("FAILED") and "sample 0: from token 2 on" in lines["prompts"]
    assert lines["weights"].startswith("ok ") and lines["decoding"].startswith("ok ")


def test_other_weights_are_found_out(checked):
    def other(path, body):
        status, value = vllm(path, body)
        if path == "/v1/completions":
            value["choices"][0]["prompt_logprobs"][-1][str(TOKENS[-1])]["logprob"] = -5.0  # 4 nats of 40 tokens
        return status, value

    status, lines = checked(other)
    assert (
        status == 1
        and lines["weights"].startswith("FAILED")
        and "moved by 0.1000 nats a token, 0.06 allowed" in lines["weights"]
    )
    assert lines["prompts"].startswith("ok ") and lines["decoding"].startswith("ok ")


@pytest.mark.parametrize("own", [{"temperature": 0.7}, {"repetition_penalty": 1.1}, {"temperature": 0.7, "top_k": 20}])
def test_a_server_that_decodes_otherwise_by_itself_is_found_out(checked, own):
    def samples(path, body):
        if path != "/v1/chat/completions":
            return vllm(path, body)
        used = {"temperature": 1.0, "repetition_penalty": 1.0} | own | body
        text = ANSWER[: round(30 * used["repetition_penalty"])] + (str(random.random()) if used["temperature"] else "")
        return 200, {"choices": [{"message": {"content": text}}]}

    status, lines = checked(samples)
    assert status == 1 and "none of 3 answers is the same unasked as greedy, repetition penalty 1.3" in lines["decoding"]
    assert lines["prompts"].startswith("ok ") and lines["weights"].startswith("ok ")


def test_one_answer_alike_of_three_is_enough_where_rounding_parts_the_others(checked):
    given = iter(["", "甲", "甲二", "", "甲", "甲三", "", ANSWER[:9] + "四", ANSWER[:9] + "四"])

    def rounds(path, body):
        return (
            (200, {"choices": [{"message": {"content": next(given)}}]}) if path == "/v1/chat/completions" else vllm(path, body)
        )

    status, lines = checked(rounds)
    assert (
        status == 0 and f"characters as kept: 0 of {len(ANSWER)}, 0 of {len(ANSWER)}, 9 of {len(ANSWER)}" in lines["decoding"]
    )


def test_of_a_server_that_is_no_vllm_the_decoding_alone_is_checked(checked):
    status, lines = checked(
        lambda path, body: (404, {}) if path in ("/version", "/tokenize", "/v1/completions") else vllm(path, body)
    )
    assert status == 0 and lines["decoding"].startswith("ok ")
    for name in ("prompts", "weights"):
        assert lines[name].startswith(f"skipped {name}: not checked: ") and "is no vLLM" in lines[name]


def test_without_the_kept_predictions_nothing_fails_and_the_lines_say_so(checked):
    status, lines = checked(vllm, keep=False)
    assert status == 0 and len(lines) == 3
    assert all(
        "not checked: data/predictions/tuned.jsonl is not here: 'dvc pull' or 'dvc repro'" in line for line in lines.values()
    )
    assert not SEEN


def test_answers_that_the_server_has_no_room_for_are_left_out(checked):
    def short(path, body):
        return (200, {"data": [{"id": "xinglin", "max_model_len": 40}]}) if path == "/v1/models" else vllm(path, body)

    status, lines = checked(short)
    assert status == 1 and all("no kept answer fits into the server's 40 tokens" in line for line in lines.values())
