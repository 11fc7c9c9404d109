"""The client of `predictions` beside httpx: many requests at once to a stand-in that answers after a second.

Usage: python -m benchmarks.client [--requests 1024] [--concurrency 256]
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import httpx
from aiohttp import web

from xinglin.cli import run_command
from xinglin.serving.client import Chat, collect, connect
from xinglin.serving.server import free_port

REPLY = {
    "choices": [{"message": {"content": "多喝水，多休息。" * 30}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 60, "completion_tokens": 256},
}
REQUEST = {"model": "m", "messages": [{"role": "user", "content": "感冒应该怎么治疗？" * 6}], "max_tokens": 256}


def stand_in(port: int) -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.json()
        await asyncio.sleep(1)
        return web.json_response(REPLY)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_get("/", lambda request: web.Response())
    web.run_app(app, host="127.0.0.1", port=port, print=None)


async def by_aiohttp(chat: Chat, row: dict) -> dict:
    _, text = await chat(REQUEST)
    return {"id": row["id"]} | json.loads(text)


async def by_httpx(client: httpx.AsyncClient, row: dict) -> dict:
    return {"id": row["id"]} | (await client.post("/v1/chat/completions", json=REQUEST)).json()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1024)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--stand-in", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stand_in:
        stand_in(args.stand_in)
        return
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.client", "--stand-in", str(port)])
    try:
        for _ in range(100):
            try:
                httpx.get(url)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        limits = httpx.Limits(max_connections=args.concurrency)
        clients = {
            "httpx": (
                partial(httpx.AsyncClient, base_url=url, timeout=httpx.Timeout(3600, connect=10), limits=limits),
                by_httpx,
            ),
            "predictions": (partial(connect, [url], args.concurrency), by_aiohttp),
        }
        asked = [{"id": str(n)} for n in range(args.requests)]
        print(
            f"{args.requests} requests, {args.concurrency} at once\n| | requests a second | ms of a core each |\n|---|---|---|"
        )
        for name, (client, ask) in clients.items():
            with tempfile.TemporaryDirectory() as folder:
                start, used = time.perf_counter(), time.process_time()
                try:
                    collect(client, asked, ask, Path(folder) / "a", args.concurrency, name)
                except httpx.TransportError as error:
                    print(f"| {name} | {type(error).__name__} | |")
                    continue
                seconds, used = time.perf_counter() - start, time.process_time() - used
            print(f"| {name} | {args.requests / seconds:.0f} | {1000 * used / args.requests:.2f} |")
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    run_command(main)
