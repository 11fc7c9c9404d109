"""Requests to a server of OpenAI's API, many at once, each answer kept on disk as it comes."""

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import httpx
import orjson
from tqdm import tqdm

from xinglin.cli import CommandError, bearer

Client = TypeVar("Client")
Chat = Callable[[dict], Awaitable[tuple[int, str]]]
SECONDS = 3600  # an answer waits its turn behind `concurrency` others
TIMEOUT = aiohttp.ClientTimeout(total=SECONDS, sock_connect=10)
KEPT_OPEN = 2  # seconds that an idle connection is kept; vLLM closes its end after five
API_KEY = "VLLM_API_KEY"  # the environment variable whose key vLLM asks for
SPARE_FILES = 256  # open besides the connections


@asynccontextmanager
async def connect(urls: list[str], concurrency: int) -> AsyncIterator[Chat]:
    """Yield what puts a chat request to the server with the fewest open ones and returns status and body of its reply.

    At 256 requests at once httpx takes 22 ms of a core for each, aiohttp 0.3 (benchmarks.client).
    """
    allow_files(concurrency + SPARE_FILES)
    connector = aiohttp.TCPConnector(limit=concurrency, keepalive_timeout=KEPT_OPEN)
    waiting = dict.fromkeys(urls, 0)

    async def chat(request: dict) -> tuple[int, str]:
        url = min(urls, key=waiting.__getitem__)
        waiting[url] += 1
        try:
            async with session.post(f"{url}/v1/chat/completions", json=request) as reply:
                return reply.status, await reply.text()
        finally:
            waiting[url] -= 1

    async with aiohttp.ClientSession(connector=connector, headers=bearer(API_KEY), timeout=TIMEOUT) as session:
        yield chat


def allow_files(count: int) -> None:
    """Let this process open `count` files, connections included, if the system allows; many shells allow 1,024 until asked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise CommandError(
            f"predictions.concurrency: {count} open files are needed, the system allows {hard} (ulimit -Hn): set it lower"
        )
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def collect(
    client_of: Callable[[], AbstractAsyncContextManager[Client]],
    asked: list[dict],
    answer: Callable[[Client, dict], Awaitable[dict]],
    file: Path,
    concurrency: int,
    name: str,
) -> None:
    """Ask for each row whose id `file` does not hold, `concurrency` at once, and append each answer as it comes.

    The first error of an answer, a refusal say, is raised as it is.
    """
    done = answered(file)
    missing = [row for row in asked if row["id"] not in done]
    progress = tqdm(total=len(asked), initial=len(asked) - len(missing), desc=name, unit=" answers", disable=None)
    queue = iter(missing)

    async def worker(client: Client) -> None:
        for row in queue:
            output.write(orjson.dumps(await answer(client, row), option=orjson.OPT_APPEND_NEWLINE))
            output.flush()
            progress.update()

    async def work() -> None:
        async with client_of() as client, asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(missing))):
                group.create_task(worker(client))

    with file.open("ab") as output, progress:
        try:
            asyncio.run(work())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None


def answered(file: Path) -> dict[str, dict]:
    """Return the answers in `file` by id; a last line that a kill cut short is taken off."""
    if not file.is_file():
        return {}
    lines = file.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        file.write_bytes(b"".join(lines := lines[:-1]))
    return {row["id"]: row for row in map(orjson.loads, lines)}


def post(client: httpx.Client, path: str, body: dict) -> Any:
    reply = client.post(path, json=body)
    if not reply.is_success:
        raise CommandError(f"{client.base_url}{path}: the server says {reply.status_code}: {reply.text[:300]}")
    return reply.json()
