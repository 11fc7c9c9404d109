"""Ask the running server what a client would, say what was checked, and end with status 1 if anything fails.

Usage: make serve-check        (VLLM_API_KEY=… where the server asks for a key; URL=http://… for another server)
"""

import json
import os
import sys
from collections.abc import Callable

import httpx

from stages.asking import API_KEY
from stages.common import bearer, fail
from stages.params import read_params

QUESTION = "感冒了需要吃消炎药吗？"
FIRST_TURNS = (("我对青霉素过敏。", "好的，已经记下您对青霉素过敏。"), ("我怀孕三个月了。", "好的，已经记下您怀孕三个月。"))


class Failed(Exception):
    """What a check found wrong."""


def expect(truth: object, what: str) -> None:
    if not truth:
        raise Failed(what)


def chat(client: httpx.Client, model: str, messages: list[dict], **options: object) -> dict:
    """Return the first choice of a greedy answer of at most 48 tokens."""
    body = {"model": model, "messages": messages, "max_tokens": 48, "temperature": 0, **options}
    reply = client.post("/v1/chat/completions", json=body)
    expect(reply.is_success, f"/v1/chat/completions answers {reply.status_code}: {reply.text[:200]}")
    return reply.json()["choices"][0]


def ask(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def health(client: httpx.Client, model: str) -> str:
    expect(client.get("/health").is_success, "/health does not answer 200")
    return "/health answers 200"


def model_list(client: httpx.Client, model: str) -> str:
    served = [entry["id"] for entry in client.get("/v1/models").json()["data"]]
    expect(model in served, f"/v1/models lists {served}, not {model}")
    return f"/v1/models lists {model}"


def single_turn(client: httpx.Client, model: str) -> str:
    text = chat(client, model, ask(QUESTION))["message"]["content"]
    expect(text and text.strip(), "the answer is empty")
    return f"{QUESTION} -> {' '.join(text.split())[:40]}…"


def multi_turn(client: httpx.Client, model: str) -> str:
    """The log-probabilities of the second answer must move when only the first turn is another."""
    found = []
    for asked, answered in FIRST_TURNS:
        history = [*ask(asked), {"role": "assistant", "content": answered}, *ask(QUESTION)]
        tokens = chat(client, model, history, logprobs=True)["logprobs"]["content"]
        found.append([round(token["logprob"], 4) for token in tokens])
    expect(found[0] != found[1], "the second answer does not depend on the first turn")
    return "another first turn gives another second answer"


def streaming(client: httpx.Client, model: str) -> str:
    body = {"model": model, "messages": ask(QUESTION), "max_tokens": 48, "temperature": 0, "stream": True}
    pieces, finished, last = [], None, ""
    with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        expect(reply.is_success, f"a stream answers {reply.status_code}")
        for line in reply.iter_lines():
            if not line.startswith("data: "):
                continue
            last = line.removeprefix("data: ")
            if last != "[DONE]" and (choices := json.loads(last)["choices"]):
                pieces.append(choices[0]["delta"].get("content") or "")
                finished = choices[0]["finish_reason"] or finished
    expect(last == "[DONE]" and finished, "the stream does not end with a finish reason and [DONE]")
    expect(sum(map(bool, pieces)) > 1, "the stream comes in one piece")
    return f"{sum(map(bool, pieces))} pieces, finish reason {finished}, [DONE]"


CHECKS: dict[str, Callable[[httpx.Client, str], str]] = {
    "health": health,
    "model list": model_list,
    "single turn": single_turn,
    "multi-turn": multi_turn,
    "streaming": streaming,
}


def main() -> None:
    serve = read_params().serve
    url = os.environ.get("URL") or f"http://{serve.host}:{serve.port}"
    failed = False
    with httpx.Client(base_url=url, headers=bearer(API_KEY), timeout=120) as client:
        for name, check in CHECKS.items():
            try:
                print(f"ok      {name}: {check(client, serve.model_name)}")
            except httpx.TransportError as error:
                fail(f"{url}: no server answers ({error}): start it with 'make serve'")
            except (Failed, KeyError, ValueError) as error:
                failed = True
                print(f"FAILED  {name}: {error}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
