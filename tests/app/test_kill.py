"""The gateway and the model's server killed under load: what was acknowledged is there, everybody hears of it, both return."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import aiohttp
import gradio_client
import httpx
import psutil
import pytest

from app.access import digest
from app.store import Store
from tests.application import application, model_server, wait_until_up
from xinglin.serving.server import free_port

pytestmark = pytest.mark.soak
PEOPLE = 24


async def stream(session: aiohttp.ClientSession, url: str) -> str:
    """Return how one stream ended: done, told (an error event or an error status) or torn."""
    body = {"model": "xinglin", "messages": [{"role": "user", "content": "LONG"}], "stream": True, "max_tokens": 60}
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
            if reply.status != 200:
                return "told" if "error" in await reply.json() else "torn"
            last = b""
            async for line in reply.content:
                last = line if line.strip() else last
            return "done" if b"[DONE]" in last else "told" if b'"error"' in last else "torn"
    except (aiohttp.ClientError, json.JSONDecodeError):
        return "torn"


def test_the_models_server_killed_under_load(tmp_path):
    port, log = free_port(), tmp_path / "model.log"

    def start() -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.model_server", str(port), "40"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until_up(f"http://127.0.0.1:{port}/state", process, log)
        return process

    log.touch()
    model = start()
    with application(tmp_path, f"http://127.0.0.1:{port}", {"app.concurrent_requests": 1000}) as url:

        async def load() -> list[str]:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                streams = [asyncio.create_task(stream(session, url)) for _ in range(100)]
                await asyncio.sleep(1)
                os.kill(model.pid, signal.SIGKILL)
                later = [asyncio.create_task(stream(session, url)) for _ in range(20)]
                return list(await asyncio.gather(*streams, *later))

        ended = asyncio.run(load())
        model.wait()
        assert ended.count("torn") == 0, ended
        print(
            f"\nmodel killed under 100 streams: {ended.count('done')} done, "
            f"{ended.count('told')} told of it, {ended.count('torn')} torn"
        )
        model = start()
        assert httpx.get(f"{url}/readyz").status_code == 200
    model.terminate()
    model.wait()


def test_the_gateway_killed_under_load(tmp_path):
    database = f"sqlite:///{tmp_path}/conversations.db"
    store = Store(database)
    people = [store.add_user(digest(f"token{number}"), None) for number in range(PEOPLE)]
    with model_server(tmp_path, free_port(), pace=60) as model:
        with application(tmp_path, model) as url:
            clients = [
                gradio_client.Client(f"{url}/chat/", headers={"Cookie": f"xinglin=token{number}"}, verbose=False)
                for number in range(PEOPLE)
            ]
            asked = next(index for index, fn in clients[0].endpoints.items() if fn.api_name == "/ask")
            texts = [
                f"第{number}个人{' LONG' * (number % 2)}" for number in range(PEOPLE)
            ]  # half are still answered when it is killed
            running = [(number, text, clients[number].submit(text, fn_index=asked)) for number, text in enumerate(texts)]
            end = time.monotonic() + 60
            while sum(job.done() for *_, job in running) < PEOPLE // 2 and time.monotonic() < end:
                time.sleep(0.05)
            acknowledged = [(number, text) for number, text, job in running if job.done() and not job.exception()]
            port = int(url.rsplit(":", 1)[1])
            for process in psutil.process_iter(["pid", "cmdline"]):
                if (
                    process.info["cmdline"]
                    and "app.main" in process.info["cmdline"]
                    and any(c.laddr.port == port for c in process.net_connections())
                ):
                    process.kill()
        kept = [[m.content for c, _ in store.conversations(user, None) for m in store.messages(user, c)] for user in people]
        lost = [
            number
            for number, text in acknowledged
            if len(kept[number]) != 2 or kept[number][0] != text or text not in kept[number][1]
        ]
        print(f"\ngateway killed: {len(acknowledged)} of {len(running)} answers were shown as done, {len(lost)} of these lost")
        assert acknowledged and not lost
        with application(tmp_path, model) as url:
            assert httpx.get(f"{url}/readyz").status_code == 200
    store.close()
