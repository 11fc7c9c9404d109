"""What the gateway adds: many streams at once through it and straight to the model's server, in one run.

Usage: python -m benchmarks.app [--streams 200] [--seconds 60]              (a stand-in for vLLM streams at 15 events a second)
       python -m benchmarks.app --upstream http://127.0.0.1:8000 --streams 8   (a server that runs: real vLLM, say)

Every stream of the stand-in says its own number with each event, so that a lost, doubled or reordered one shows.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import psutil
from aiohttp import web
from ruamel.yaml import YAML

from xinglin.cli import run_command
from xinglin.serving.server import free_port

ROOT = Path(__file__).parent.parent
EVENTS, PACE = 60, 15.0  # of a stream, and a second
RAMP = EVENTS / PACE  # seconds in which the streams begin, one after the other


class Stream(NamedTuple):
    """A stream's seconds to the first text and to the end, whether it was whole and in order, and when each text came."""

    first: float
    whole: float
    right: bool
    times: list[float]


def stand_in(port: int) -> None:
    """Serve streams of numbered events in the shape of vLLM's."""

    async def chat(request: web.Request) -> web.StreamResponse:
        name = (await request.json())["messages"][-1]["content"]
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        for number in range(EVENTS):
            choice = {"index": 0, "delta": {"content": f"{name}:{number} "}, "finish_reason": None}
            event = {
                "id": "chatcmpl-1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "xinglin",
                "choices": [choice],
            }
            await reply.write(f"data: {json.dumps(event)}\n\n".encode())
            await asyncio.sleep(1 / PACE)
        await reply.write(b"data: [DONE]\n\n")
        return reply

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


def names() -> Iterator[list[dict]]:
    """Yield conversations of one short question, each another."""
    for number in itertools.count():
        yield [{"role": "user", "content": f"s{number}"}]


async def stream(session: aiohttp.ClientSession, url: str, messages: list[dict], numbered: bool) -> Stream:
    """Ask for `EVENTS` tokens. `numbered`: what comes back must be the stand-in's text, event by event."""
    body = {"model": "xinglin", "messages": messages, "stream": True, "max_tokens": EVENTS, "temperature": 0}
    start, said, times = time.perf_counter(), [], []
    async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
        done, ended = reply.status == 200, False
        async for line in reply.content:
            if line.startswith(b"data: {"):
                choice = json.loads(line[6:])["choices"][0]
                if text := choice["delta"].get("content"):
                    said.append(text)
                    times.append(time.perf_counter())
            ended |= line.startswith(b"data: [DONE]")
    right = "".join(said) == "".join(f"{messages[-1]['content']}:{n} " for n in range(EVENTS)) if numbered else bool(said)
    return Stream(times[0] - start if times else 0.0, time.perf_counter() - start, done and ended and right, times)


async def load(url: str, streams: int, seconds: float, asked: Iterator[list[dict]], numbered: bool = False) -> list[Stream]:
    """Keep `streams` streams of what is `asked` open for `seconds`, begun one after the other; return what became of each."""
    results: list[Stream] = []
    end = time.perf_counter() + seconds
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300)) as session:

        async def worker(number: int) -> None:
            await asyncio.sleep(number * RAMP / streams)
            while time.perf_counter() < end:
                results.append(await stream(session, url, next(asked), numbered))

        await asyncio.gather(*(worker(number) for number in range(streams)))
    return results


@contextlib.contextmanager
def started(command: list[str], url: str, folder: Path):
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(url, timeout=1)
                break
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait()


def watch(process: subprocess.Popen, found: list[float], stop: threading.Event) -> None:
    with contextlib.suppress(psutil.Error):
        while not stop.wait(1):
            found.append(psutil.Process(process.pid).memory_info().rss / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--upstream", help="a server that runs, instead of the stand-in")
    parser.add_argument("--stand-in", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stand_in:
        stand_in(args.stand_in)
        return
    folder, port, inner = Path(tempfile.mkdtemp(prefix="xinglin-bench-")), free_port(), free_port()
    direct, gateway = args.upstream or f"http://127.0.0.1:{inner}", f"http://127.0.0.1:{port}"
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    values["app"] |= {
        "port": port,
        "upstream": direct,
        "database": f"sqlite:///{folder}/c.db",
        "requests_per_minute": 10**6,
        "concurrent_requests": 10**4,
    }
    YAML().dump(values, folder / "params.yaml")
    model = (
        contextlib.nullcontext()
        if args.upstream
        else started([sys.executable, "-m", "benchmarks.app", "--stand-in", str(inner)], f"{direct}/", folder)
    )
    with model, started([sys.executable, "-m", "app.main"], f"{gateway}/healthz", folder) as process:
        memory: list[float] = []
        stop = threading.Event()
        watcher = threading.Thread(target=watch, args=(process, memory, stop))
        watcher.start()
        runs = {}
        for name, url in (("direct", direct), ("gateway", gateway)):
            runs[name] = asyncio.run(load(url, args.streams, args.seconds, names(), args.upstream is None))
        stop.set()
        watcher.join()
    print(
        f"{args.streams} streams at once for {args.seconds:.0f} s\n| | streams | broken | first text, median ms | p95 ms | "
        "whole, median s |\n|---|---|---|---|---|---|"
    )
    medians = {}
    for name, results in runs.items():
        first, whole = [1000 * r.first for r in results], [r.whole for r in results]
        medians[name] = statistics.median(first), statistics.median(whole)
        broken = sum(not r.right for r in results)
        print(
            f"| {name} | {len(results)} | {broken} | {medians[name][0]:.1f} | "
            f"{statistics.quantiles(first, n=20)[-1]:.1f} | {medians[name][1]:.3f} |"
        )
    added, share = medians["gateway"][0] - medians["direct"][0], medians["gateway"][1] / medians["direct"][1] - 1
    print(f"the gateway adds {added:.1f} ms to the first text and {share:.1%} to the whole")
    half = len(memory) // 2
    if half:
        print(
            f"memory of the gateway: {statistics.mean(memory[half : half + 5]):.0f} MB in "
            f"the middle, {memory[-1]:.0f} MB at the end"
        )


if __name__ == "__main__":
    run_command(main)
