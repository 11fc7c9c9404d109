"""The client of the model's server, vLLM or any other that speaks OpenAI's API."""

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import orjson
from pydantic import BaseModel, ValidationError

from app.errors import APIError
from app.faults import faults, refusal, unreadable
from app.replies import read
from xinglin.cli import bearer
from xinglin.serving.client import API_KEY
from xinglin.serving.decoding import Decoding, filled

FRESH_SECONDS = 10  # how long an answered probe counts
LATE_SECONDS = 30  # how long it counts while the next one is under way: a busy server answers late
PROBE_SECONDS = 10  # how long a probe may take …
WAIT_SECONDS = 0.5  # … and how long who asks waits for it
QUICK = aiohttp.ClientTimeout(total=5, sock_connect=3)  # for a count of tokens
LIST = aiohttp.ClientTimeout(total=0.5)  # for the list of models
KNOWN_SECONDS = 60  # how long it counts what the server said of itself
AGAIN_SECONDS = 5  # when it is asked again if it did not
COUNTS = 1024  # conversations whose size is remembered, by a hash
FAULTS = (aiohttp.ClientError, OSError, ValidationError, APIError)  # a TimeoutError is an OSError


class Size(NamedTuple):
    """How many tokens a conversation has, and how many the model can read, its answer included."""

    tokens: int
    limit: int


class Counted(BaseModel):
    """vLLM's reply at /tokenize."""

    count: int
    max_model_len: int


class Card(BaseModel):
    id: str
    max_model_len: int | None = None  # of vLLM and those who follow it


class Cards(BaseModel):
    data: list[Card]


class Upstream:
    """A client of the server at `url`; use it as an async context manager.

    An answer may take `timeout` seconds, and between two events of a stream may pass `silence` seconds.
    """

    def __init__(self, url: str, model: str, timeout: float, decoding: Decoding, silence: float) -> None:
        self.url, self.model, self.decoding = url.rstrip("/").removesuffix("/v1"), model, decoding
        self.whole = aiohttp.ClientTimeout(total=timeout, sock_connect=3)
        self.streamed = aiohttp.ClientTimeout(total=timeout, sock_connect=3, sock_read=silence)
        self.answered = -math.inf  # when it last answered a probe
        self.probe: asyncio.Task[None] | None = None
        self.sizes: dict[bytes, Size] = {}
        self.limit: int | None = None
        self.listing = asyncio.Lock()
        self.forget()

    def forget(self) -> None:
        """Let nothing count that the server said of itself."""
        self.sizes.clear()
        self.no_tokenizer_until = self.listed_until = -math.inf

    async def __aenter__(self) -> "Upstream":
        connector = aiohttp.TCPConnector(limit=0)  # limits are the gate's
        self.session = aiohttp.ClientSession(connector=connector, headers=bearer(API_KEY), read_bufsize=1 << 16)
        return self

    async def __aexit__(self, *error: object) -> None:
        if self.probe:
            self.probe.cancel()
        await self.session.close()

    @asynccontextmanager
    async def chat(self, payload: dict[str, Any], request_id: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield the server's reply once it has begun to answer; raises APIError if it does not.

        What the payload leaves out of decoding is as it was scored, so that the server's own defaults never answer.
        """
        options: dict[str, Any] = {
            "json": filled(self.decoding, payload),
            "headers": {"X-Request-ID": request_id},
            "timeout": self.streamed if payload.get("stream") else self.whole,
        }
        with faults():
            async with self.session.post(f"{self.url}/v1/chat/completions", **options) as reply:
                if reply.status != 200:
                    raise refusal(reply.status, await read(reply))
                yield reply

    async def tokenized(self, messages: list[dict[str, str]]) -> Size | None:
        """Return a conversation's size as vLLM's chat template and tokenizer have it, None where the server does not say."""
        if time.monotonic() < self.no_tokenizer_until:
            return None
        key = hashlib.sha256(orjson.dumps(messages)).digest()
        if key in self.sizes:
            return self.sizes[key]
        body = {"model": self.model, "messages": messages, "add_generation_prompt": True}
        try:
            async with self.session.post(f"{self.url}/tokenize", json=body, timeout=QUICK) as reply:
                if reply.status in (404, 405, 501):
                    self.no_tokenizer_until = time.monotonic() + KNOWN_SECONDS
                found = Counted.model_validate_json(await read(reply))
        except FAULTS:
            return None
        if len(self.sizes) >= COUNTS:
            self.sizes.pop(next(iter(self.sizes)))
        self.sizes[key] = Size(found.count, found.max_model_len)
        return self.sizes[key]

    async def max_model_len(self) -> int | None:
        """Return how many tokens the model can read, None where the server does not say; within a second."""
        async with self.listing:
            if time.monotonic() >= self.listed_until:
                self.listed_until = time.monotonic() + KNOWN_SECONDS
                try:
                    async with self.session.get(f"{self.url}/v1/models", timeout=LIST) as reply:
                        cards = Cards.model_validate_json(await read(reply)).data
                    self.limit = next((card.max_model_len for card in cards if card.id == self.model), None)
                except FAULTS:
                    self.listed_until = time.monotonic() + AGAIN_SECONDS
            return self.limit

    async def ready(self) -> bool:
        """Say whether the model is loaded and answers, within a second whatever the server does.

        It is asked for one token beside the caller, by one probe at a time, unless it answered a moment ago.
        """
        if time.monotonic() - self.answered < FRESH_SECONDS:
            return True
        if self.probe is None or self.probe.done():
            self.probe = asyncio.create_task(self.ask_for_a_token())
        await asyncio.wait([self.probe], timeout=WAIT_SECONDS)
        since = time.monotonic() - self.answered
        return since < FRESH_SECONDS if self.probe.done() else since < LATE_SECONDS

    async def ask_for_a_token(self) -> None:
        """Note that the model answers; where it does not, what was known of the server no longer counts."""
        payload = {"model": self.model, "messages": [{"role": "user", "content": "你好"}], "max_tokens": 1}
        try:
            async with asyncio.timeout(PROBE_SECONDS), self.chat(payload, "probe") as reply:
                if not orjson.loads(await read(reply)).get("choices"):
                    raise unreadable()
            self.answered = time.monotonic()
        except (APIError, TimeoutError, ValueError, AttributeError):
            self.forget()
