"""Answers of base and tuned by a vLLM server, each written as it comes, and the log-probabilities of their tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import aiohttp
import httpx
import orjson
from tqdm import tqdm

from xinglin.cli import CommandError, bearer
from xinglin.dialogues.rows import messages, row_id
from xinglin.files import read_json, read_jsonl, write_json
from xinglin.hardware import need_memory
from xinglin.serving import server
from xinglin.serving.client import API_KEY, SECONDS, Chat, collect, connect, post
from xinglin.serving.decoding import Decoding, fields
from xinglin.serving.replicas import replicas
from xinglin.serving.settings import Predictions

MODELS = ("base", "tuned")
SERVING_BYTES = 1.2  # memory that vLLM takes at the least, in multiples of the weights' size


def samples(part: Path, most: int | None) -> list[dict]:
    """Return what is asked, each dialogue once: id (of the row's content), messages, and the reference answer."""
    rows = {row_id(row): row for row in read_jsonl(part)}
    asked = [{"id": name, "messages": messages(row), "reference": row["output"]} for name, row in rows.items()]
    return asked[:most]


def server_groups(params: Predictions, adapter: Path) -> list[tuple[str, ...]]:
    """Return which models each server holds, one server after the other: only a LoRA adapter can share the base's."""
    together = params.base_url or (adapter / "adapter_config.json").is_file()
    return [MODELS] if together else [(model,) for model in MODELS]


@contextmanager
def endpoints(
    params: Predictions, base: Path, adapter: Path | None, log: Path, models: tuple[str, ...] = MODELS
) -> Iterator[list[str]]:
    """Yield the URLs of servers that each hold `models`, or without adapter `base` alone: the one named, or our own replicas.

    `base` and a model tuned in every weight carry tokenizer and chat template in their folders.
    """
    if params.base_url:
        try:
            yield [params.base_url.rstrip("/").removesuffix("/v1")]
        except (aiohttp.ClientError, httpx.TransportError, TimeoutError) as error:
            raise CommandError(
                f"predictions.base_url: {params.base_url}: {error or type(error).__name__}; the answers given so far are kept"
            )
        return
    options: dict[str, str | int] = {"served_model_name": models[0], "generation_config": "vllm"}  # not the base's own sampling
    params = params.model_copy(update={"dtype": precision(params, base, bool(adapter) and models == MODELS)})
    if adapter and models == MODELS:
        rank = lora_rank(read_json(adapter / "adapter_config.json")["r"])
        options |= {"enable_lora": "", "lora_modules": f"tuned={adapter}", "max_lora_rank": rank}
    with replicas(params, adapter if adapter and models == ("tuned",) else base, log, **options) as urls:
        yield urls


def precision(params: Predictions, base: Path, lora: bool) -> str:
    """Return what base and tuned are computed in, both in the same; `lora`: the server applies an adapter."""
    if params.base_url:
        return params.dtype  # that server has its own
    return server.compute_dtype(params.dtype, server.stored_dtype(base), "predictions.dtype", lora)


def need_room(record: dict, base: Path, dtype: str, what: str) -> None:
    """Stop with one line if there is too little memory to serve the base, computed in `dtype`."""
    need_memory(record, SERVING_BYTES * server.widened(base, dtype), what)


def lora_rank(rank: int) -> int:
    """Return the least rank that vLLM can be set to and that holds `rank`."""
    return next(n for n in (8, 16, 32, 64, 128, 256, 320, 512) if n >= rank)


async def ask(chat: Chat, sample: dict, model: str, params: Predictions, decoding: Decoding) -> dict:
    """Return one line of the predictions file.

    Where a dialogue is too long for the model, its oldest question and answer are left out of `messages` until it fits.
    """
    turns = sample["messages"]
    while True:
        request = {"model": model, "messages": turns, "max_tokens": params.max_new_tokens}
        status, text = await chat(request | fields(decoding))
        if status == 200:
            break
        first = 1 if turns[0]["role"] == "system" else 0
        if status != 400 or "context" not in text or len(turns) <= first + 1:
            raise CommandError(f"{model}: sample {sample['id']}: the server says {status}: {text[:300]}")
        turns = turns[:first] + turns[first + 2 :]
    try:
        reply = orjson.loads(text)
        answer, usage = reply["choices"][0], reply["usage"]
        return sample | {
            "messages": turns,
            "prediction": answer["message"]["content"] or "",
            "finish_reason": answer["finish_reason"],
            "prompt_tokens": usage["prompt_tokens"],
            "completion_tokens": usage["completion_tokens"],
        }
    except (ValueError, LookupError, TypeError) as error:
        raise CommandError(
            f"{model}: sample {sample['id']}: the server's reply is not a chat completion of OpenAI's: {text[:300]}"
        ) from error


def answer_all(urls: list[str], model: str, asked: list[dict], file: Path, params: Predictions, decoding: Decoding) -> None:
    """Ask what `file` does not yet hold, `concurrency` at once, and append each answer as it comes."""
    answer = partial(ask, model=model, params=params, decoding=decoding)
    collect(partial(connect, urls, params.concurrency), asked, answer, file, params.concurrency, model)


def has_room(row: dict, params: Predictions) -> bool:
    """Say whether an answer and its prompt leave room for one more token, without which vLLM scores neither."""
    return row["prompt_tokens"] + row["completion_tokens"] < params.max_model_len


def logprobs(url: str, model: str, rows: list[dict]) -> list[dict]:
    """Return, for each answer, its token ids and the log-probability (nats) of each given the prompt before it.

    The prompt goes through the served chat template, by vLLM's /tokenize.
    """
    found = []
    with httpx.Client(base_url=url, headers=bearer(API_KEY), timeout=SECONDS) as client:
        for row in tqdm(rows, desc="log-probabilities", unit=" answers", disable=None):
            prompt = post(client, "/tokenize", {"model": model, "messages": row["messages"]})["tokens"]
            text = {"model": model, "prompt": row["prediction"], "add_special_tokens": False}
            answer = post(client, "/tokenize", text)["tokens"]
            values = token_logprobs(client, model, prompt, answer)
            found.append({"id": row["id"], "prompt": prompt, "answer": answer, "logprobs": values})
    return found


def token_logprobs(client: httpx.Client, model: str, prompt: list[int], answer: list[int]) -> list[float]:
    """Return the log-probability (nats) of each token of `answer` after the tokens of `prompt`, by vLLM's prompt_logprobs."""
    request = {"model": model, "prompt": prompt + answer, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    scored = post(client, "/v1/completions", request)["choices"][0]["prompt_logprobs"][len(prompt) :]
    return [entry[str(token)]["logprob"] for token, entry in zip(answer, scored, strict=True)]


def throughput(rows: dict[str, list[dict]], seconds: float, fresh: int) -> dict:
    """Return what the answers took: `samples_per_second` and `tokens_per_second` count this run's answers only."""
    tokens = sum(row["completion_tokens"] for model in rows.values() for row in model)
    share = fresh / sum(map(len, rows.values()))
    return {
        "samples": sum(map(len, rows.values())),
        "completion_tokens": tokens,
        "seconds": round(seconds, 2),
        "samples_per_second": round(fresh / seconds, 2),
        "tokens_per_second": round(tokens * share / seconds, 1),
    }


def measured(work: Path, rows: dict[str, list[dict]], seconds: float, fresh: int) -> dict:
    """Return what the answers took when they were asked: a run that finds all answered keeps what stands in `work`."""
    file = work / "speed.json"
    if fresh or not file.exists():
        write_json(file, throughput(rows, seconds, fresh))
    return read_json(file)


def what_counts(params: Predictions, decoding: Decoding, dtype: str) -> dict:
    """Return what answers depend on, besides the questions: parameters, and the precision computed in."""
    others = {"part", "concurrency", "data_parallel_size", "gpu_memory_utilization", "parity_samples"}
    return params.model_dump(exclude=others) | {"dtype": dtype} | fields(decoding)
