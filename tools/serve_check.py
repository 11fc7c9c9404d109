"""Ask the running server what a client would, say what was checked, and end with status 1 if anything fails.

Usage: make serve-check        (VLLM_API_KEY=… where the server asks for a key; URL=http://… for another server)

What is served must be what was scored: the prompts of kept predictions must be the same token ids, the kept answers as
likely as the merge allows, and an answer to a request that says nothing of decoding the one to a request that says all.
"""

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np

from tools.all_params import read_params
from xinglin.cli import CommandError, bearer, run_command
from xinglin.files import read_json, read_jsonl
from xinglin.serving.answers import token_logprobs
from xinglin.serving.client import API_KEY
from xinglin.serving.decoding import described, fields, scored

QUESTION = "感冒了需要吃消炎药吗？"
FIRST_TURNS = (("我对青霉素过敏。", "好的，已经记下您对青霉素过敏。"), ("我怀孕三个月了。", "好的，已经记下您怀孕三个月。"))
MERGED, PREDICTIONS = Path("models/merged"), Path("data/predictions")
KEPT = (PREDICTIONS / "tuned.jsonl", PREDICTIONS / "logprobs.jsonl", MERGED / "parity.json", MERGED / "generation_config.json")
QUESTIONS = 3  # of the kept, that are answered anew
SECONDS = 600  # a long answer on a CPU


class Failed(Exception):
    """What a check found wrong."""


class Skipped(Exception):
    """Why a check could not be made."""


def expect(truth: object, what: str) -> None:
    if not truth:
        raise Failed(what)


def chat(client: httpx.Client, model: str, messages: list[dict], **options: object) -> dict:
    """Return the first choice of a greedy answer of at most 48 tokens."""
    return complete(client, {"model": model, "messages": messages, "max_tokens": 48, "temperature": 0, **options})


def complete(client: httpx.Client, body: dict) -> dict:
    """Return the first choice of the reply to a chat request."""
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


def kept(client: httpx.Client) -> list[dict]:
    """Return the tuned model's answers whose token ids and log-probabilities are kept, the longest first.

    Those that the server has no room for are left out.
    """
    if missing := [str(file) for file in KEPT if not file.is_file()]:
        raise Skipped(f"{missing[0]} is not here: 'dvc pull' or 'dvc repro' brings what was scored")
    rows = {row["id"]: row for row in read_jsonl(KEPT[0])}
    room = client.get("/v1/models").json()["data"][0].get("max_model_len", math.inf)  # of vLLM alone
    both = [rows[one["id"]] | one for one in read_jsonl(KEPT[1])]
    found = [row for row in both if len(row["prompt"]) + row["completion_tokens"] < room]
    expect(found, f"no kept answer fits into the server's {room} tokens")
    return sorted(found, key=lambda row: -row["completion_tokens"])


def need_vllm(client: httpx.Client) -> None:
    """Raise Skipped where the server is no vLLM, whose API tells token ids and log-probabilities of a prompt."""
    reply = client.get("/version")
    if not (reply.is_success and "version" in reply.text):
        raise Skipped(f"{client.base_url} is no vLLM, and others do not tell it")


def prompts(client: httpx.Client, model: str) -> str:
    """The messages of each kept answer must be the token ids that it was given for."""
    rows = kept(client)
    need_vllm(client)
    for row in rows:
        reply = client.post("/tokenize", json={"model": model, "messages": row["messages"]})
        expect(reply.is_success, f"/tokenize answers {reply.status_code}: {reply.text[:200]}")
        tokens = reply.json()["tokens"]
        same = common_start(tokens, row["prompt"])
        said = f"sample {row['id']}: from token {same} on not what was scored"
        expect(tokens == row["prompt"], f"{said}: another chat template or tokenizer")
    return f"{len(rows)} kept prompts are the token ids that were scored"


def weights(client: httpx.Client, model: str) -> str:
    """The kept answers must be as likely after their prompts as the merge allows."""
    rows, allowed = kept(client), read_json(KEPT[2])["tolerance"]
    need_vllm(client)
    moved = [np.subtract(token_logprobs(client, model, row["prompt"], row["answer"]), row["logprobs"]) for row in rows]
    mean = float(np.abs(np.concatenate(moved)).mean())
    said = f"log-probabilities of {len(rows)} kept answers moved by {mean:.4f} nats a token, {allowed:g} allowed"
    expect(mean <= allowed, f"{said}: other weights, or another precision, than were merged")
    return said


def decoding(client: httpx.Client, model: str) -> str:
    """Of three kept questions one at least must be answered alike, to the end, if a request says nothing of decoding or all.

    Both find their prompt in the server's cache, which a request before them filled: what is computed is the same.
    """
    rows, chosen = kept(client)[:QUESTIONS], scored(MERGED)
    spelled, same, parting = fields(chosen), 0, []
    seed = {"seed": spelled["seed"]} if "seed" in spelled else {}
    for row in rows:
        body = {"model": model, "messages": row["messages"], "max_tokens": row["completion_tokens"]}
        complete(client, body | {"max_tokens": 1})
        unsaid, said = (complete(client, body | more)["message"]["content"] for more in (seed, spelled))
        same += unsaid == said
        parting.append(common_start(said, row["prediction"]))
    wrong = "the server's own decoding is another"
    expect(same, f"none of {len(rows)} answers is the same unasked as {described(chosen)}: {wrong}")
    lengths = ", ".join(f"{n} of {len(row['prediction'])}" for n, row in zip(parting, rows, strict=True))
    return f"{same} of {len(rows)} answers are the same unasked as {described(chosen)}; characters as kept: {lengths}"


def common_start(one: list[int] | str, other: list[int] | str) -> int:
    """Return how many tokens or characters two sequences begin with in common."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


CHECKS: dict[str, Callable[[httpx.Client, str], str]] = {
    "health": health,
    "model list": model_list,
    "single turn": single_turn,
    "multi-turn": multi_turn,
    "streaming": streaming,
    "prompts": prompts,
    "weights": weights,
    "decoding": decoding,
}


def main() -> None:
    serve = read_params().serve
    url = os.environ.get("URL") or f"http://{serve.host}:{serve.port}"
    failed = False
    with httpx.Client(base_url=url, headers=bearer(API_KEY), timeout=SECONDS) as client:
        for name, check in CHECKS.items():
            try:
                print(f"ok      {name}: {check(client, serve.model_name)}")
            except Skipped as reason:
                print(f"skipped {name}: not checked: {reason}")
            except httpx.TransportError as error:
                raise CommandError(f"{url}: no server answers ({error}): start it with 'make serve'")
            except (Failed, KeyError, ValueError) as error:
                failed = True
                print(f"FAILED  {name}: {error}")
    sys.exit(failed)


if __name__ == "__main__":
    run_command(main)
