"""The gateway and the model's server killed under load: what was acknowledged is there, everybody hears of it, both return."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys

import aiohttp
import httpx
import psutil
import pytest

from tests.application import application, model_server, wait_until_up
from tests.ports import quiet_port
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
    port, log = quiet_port(), tmp_path / "model.log"

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
    """Readers of half the answers have seen the end; the others' answers are made while it is killed."""
    with model_server(tmp_path, free_port(), pace=60) as model:
        with application(tmp_path, model, {"app.concurrent_requests": 1000}) as url:

            async def ask(session: aiohttp.ClientSession, number: int) -> dict:
                text = f"第{number}个人{' LONG' * (number % 2)}"
                async with session.post(f"{url}/api/questions", json={"text": text}) as reply:
                    asked = await reply.json()
                    assert reply.status == 201, asked
                return asked | {"text": text}

            async def read(session: aiohttp.ClientSession, asked: dict, seen: dict) -> None:
                identity = asked["answers"][0]["id"]
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{url}/api/answers/{identity}/events") as reply:
                        async for line in reply.content:
                            if line.startswith(b"data: ") and "message" in (data := json.loads(line[6:])):
                                seen[identity] = data["message"]["content"]

            async def load() -> tuple[list[dict], dict]:
                async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                    asked = list(await asyncio.gather(*(ask(session, number) for number in range(PEOPLE))))
                    seen: dict[str, str] = {}
                    readers = [asyncio.create_task(read(session, one, seen)) for one in asked]
                    while len(seen) < PEOPLE // 2:
                        await asyncio.sleep(0.05)
                    kill_listener(int(url.rsplit(":", 1)[1]))
                    await asyncio.gather(*readers)
                    return asked, seen

            asked, seen = asyncio.run(asyncio.wait_for(load(), 60))
        with application(tmp_path, model) as url:
            assert httpx.get(f"{url}/readyz").status_code == 200
            states = []
            for one in asked:
                question, answer = httpx.get(f"{url}/api/conversations/{one['conversation']['id']}").json()["messages"]
                assert question["content"] == one["text"] and answer["state"] in ("done", "lost")
                assert answer["content"] == seen.get(answer["id"], answer["content"])
                states.append(answer["state"])
    ends = f"{len(seen)} answers shown as done, {states.count('lost')} lost and told so"
    print(f"\ngateway killed: {len(asked)} questions kept, {ends}")
    assert states.count("lost") and states.count("done") >= len(seen) >= PEOPLE // 2


def kill_listener(port: int) -> None:
    """Kill the application that listens on a port."""
    for process in psutil.process_iter(["cmdline"]):
        if "app.main" in (process.info["cmdline"] or []) and any(c.laddr.port == port for c in process.net_connections()):
            process.kill()
