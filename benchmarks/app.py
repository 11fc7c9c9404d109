"""What the gateway adds: many streams at once through its two APIs and straight to the model's server, in one run.

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
from collections.abc import Awaitable, Callable, Iterator
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
        body = await request.json()
        name = body["messages"][-1]["content"]
        if not body.get("stream"):  # the question whether it is ready
            choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
            return web.json_response({"object": "chat.completion", "choices": [choice]})
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "xinglin"}
        for number in range(EVENTS + 1):
            over = number == EVENTS
            delta = {} if over else {"content": f"{name}:{number} "}
            choice = {"index": 0, "delta": delta, "finish_reason": "stop" if over else None}
            await reply.write(f"data: {json.dumps(head | {'choices': [choice]})}\n\n".encode())
            await asyncio.sleep(0 if over else 1 / PACE)
        await reply.write(b"data: [DONE]\n\n")
        return reply

    async def tokenize(request: web.Request) -> web.Response:
        return web.json_response({"count": 20, "max_model_len": 4096, "tokens": []})

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "xinglin", "max_model_len": 4096}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/tokenize", tokenize)
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


async def page_stream(session: aiohttp.ClientSession, url: str, messages: list[dict], numbered: bool) -> Stream:
    """Ask as the page does: keep the question, then follow its answer's events to the end."""
    start, said, times, ended = time.perf_counter(), "", [], False
    async with session.post(f"{url}/api/questions", json={"text": messages[-1]["content"]}) as reply:
        asked = await reply.json()
    if reply.status != 201:
        return Stream(0.0, time.perf_counter() - start, False, [])
    async with session.get(f"{url}/api/answers/{asked['answers'][0]['id']}/events") as reply:
        async for line in reply.content:
            if line.startswith(b"data: "):
                data = json.loads(line[6:])
                said += data.get("text", "")
                times.append(time.perf_counter())
                ended = "message" in data and data["message"]["state"] == "done" and data["message"]["content"] == said
    right = said == "".join(f"{messages[-1]['content']}:{n} " for n in range(EVENTS)) if numbered else bool(said)
    return Stream(times[0] - start if times else 0.0, time.perf_counter() - start, ended and right, times)


async def idle(url: str, pages: int, process: subprocess.Popen) -> float:
    """Open `pages` pages at once, each over a connection of its own that stays; return the gateway's memory then, in MB."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(pages):
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)))
            for path in ("/", "/api/session", "/api/conversations"):
                async with session.get(f"{url}{path}") as reply:
                    assert reply.status == 200, reply.status
                    await reply.read()
        return psutil.Process(process.pid).memory_info().rss / 1e6


Ask = Callable[[aiohttp.ClientSession, str, list[dict], bool], Awaitable[Stream]]


async def load(
    url: str, streams: int, seconds: float, asked: Iterator[list[dict]], numbered: bool = False, ask: Ask = stream
) -> list[Stream]:
    """Keep `streams` streams of what is `asked` open for `seconds`, begun one after the other; return what became of each."""
    results: list[Stream] = []
    end = time.perf_counter() + seconds
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300)) as session:

        async def worker(number: int) -> None:
            await asyncio.sleep(number * RAMP / streams)
            while time.perf_counter() < end:
                results.append(await ask(session, url, next(asked), numbered))

        await asyncio.gather(*(worker(number) for number in range(streams)))
    return results


@contextlib.contextmanager
def started(command: list[str], url: str, folder: Path) -> Iterator[subprocess.Popen]:
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
    parser.add_argument("--pages", type=int, default=1000, help="idle pages, opened before the streams")
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
        "red_flags_threshold": 1.0,  # looked for, but numbers are no emergencies
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
        opened = asyncio.run(idle(gateway, args.pages, process))
        runs = {}
        for name, url, ask in (("direct", direct, stream), ("gateway", gateway, stream), ("page", gateway, page_stream)):
            runs[name] = asyncio.run(load(url, args.streams, args.seconds, names(), args.upstream is None, ask))
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
    for name in ("gateway", "page"):
        added, share = medians[name][0] - medians["direct"][0], medians[name][1] / medians["direct"][1] - 1
        print(f"the {name} adds {added:.1f} ms to the first text and {share:.1%} to the whole")
    print(f"memory of the gateway with {args.pages} idle pages: {opened:.0f} MB")
    half = len(memory) // 2
    if half:
        print(
            f"memory of the gateway: {statistics.mean(memory[half : half + 5]):.0f} MB in "
            f"the middle, {memory[-1]:.0f} MB at the end"
        )


if __name__ == "__main__":
    run_command(main)
