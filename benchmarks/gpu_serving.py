"""benchmarks.gpu's serving: streams at once on vLLM as `make serve` starts it, and on LLaMA-Factory's own API."""

import asyncio
import itertools
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import yaml

from app.settings import Serve
from benchmarks.app import EVENTS, RAMP, Stream, load
from benchmarks.gpu_training import Rows
from xinglin.cli import CommandError
from xinglin.files import read_jsonl
from xinglin.serving import server

CLI = f"{sys.prefix}/bin/llamafactory-cli"
CLIENTS = (1, 16, 64, 256)


def api_of_llamafactory(folder: Path) -> server.Launch:
    """Return LLaMA-Factory's own API server, its Hugging Face engine."""
    port, run = server.free_port(), folder / "runs" / "api"
    run.mkdir(parents=True, exist_ok=True)
    config = {
        "model_name_or_path": str(folder / "base"),
        "template": "qwen",
        "do_sample": False,
        "infer_backend": "huggingface",
    }
    (run / "api.yaml").write_text(yaml.safe_dump(config))
    variables = os.environ | {"API_PORT": str(port), "API_HOST": "127.0.0.1", "API_MODEL_NAME": "xinglin"}
    return server.Launch(
        "LLaMA-Factory's API", [CLI, "api", str(run / "api.yaml")], variables, port, run / "log.txt", "/v1/models"
    )


def questions(file: Path) -> Iterator[list[dict]]:
    """Yield the conversations of `file` again and again, numbered at the start: the prefix cache holds only the system text."""
    for number, row in enumerate(itertools.cycle(read_jsonl(file)), 1):
        first, *others = row["messages"]
        yield [first | {"content": f"{number}、{first['content']}"}, *others]


def rate(streams: list[Stream], begin: float, end: float) -> float:
    """Return all streams' tokens a second between two times; each has `EVENTS` tokens, in pieces of text of like size."""
    return sum(EVENTS / len(stream.times) * sum(begin <= moment < end for moment in stream.times) for stream in streams) / (
        end - begin
    )


def loaded(url: str, clients: int, seconds: float, asked: Iterator[list[dict]]) -> dict:
    """Return what `clients` streams at once see: median seconds to first text, tokens a second in the `seconds` after RAMP."""
    begin = time.perf_counter() + RAMP
    streams = asyncio.run(load(url, clients, RAMP + seconds, asked))
    whole = [stream for stream in streams if stream.right]
    found = {"streams": len(whole), "broken": len(streams) - len(whole)}
    if whole:
        found |= {
            "first_text_seconds": statistics.median(stream.first for stream in whole),
            "tokens_per_second": rate(whole, begin, begin + seconds),
        }
    return found


def serve(profile: Serve, folder: Path, seconds: float) -> Rows:
    """Yield a number of clients and a function that returns what they see, on ours and on the peer."""
    ours = server.vllm(
        folder / "base",
        folder / "vllm.log",
        served_model_name="xinglin",
        max_model_len=profile.max_model_len,
        generation_config="vllm",
        **server.device_options(profile),
    )
    asked = questions(folder / "asked.jsonl")
    for name, launch, counts in (("ours", ours, CLIENTS), ("LLaMA-Factory's API", api_of_llamafactory(folder), CLIENTS[:2])):
        with (
            suppress(CommandError),
            server.serving(launch) as [url],
        ):  # one that does not start says why; the other is still worth its time
            loaded(url, 4, 1, asked)
            for clients in counts:
                yield f"{name}, {clients} clients", partial(loaded, url, clients, seconds, asked)
