"""The model's server, vLLM or any other that speaks OpenAI's API, and its faults as errors that a client can act on."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from app.errors import APIError
from xinglin.cli import bearer
from xinglin.serving.client import API_KEY
from xinglin.serving.decoding import Decoding, filled

RETRY_SECONDS = 5  # what a client is told to wait while the server restarts
PROBE_SECONDS = 10  # how long an answered probe counts


def unavailable() -> APIError:
    return APIError(503, "模型暂时不可用，可能正在加载或重启，请稍后再试。", "model_unavailable", retry_after=RETRY_SECONDS)


class Upstream:
    """A client of the server at `url`; use it as an async context manager."""

    def __init__(self, url: str, model: str, timeout: float, decoding: Decoding) -> None:
        self.url, self.model, self.decoding = url.rstrip("/").removesuffix("/v1"), model, decoding
        self.timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=3)
        self.probed = 0.0

    async def __aenter__(self) -> "Upstream":
        connector = aiohttp.TCPConnector(limit=0)  # limits are the gate's
        self.session = aiohttp.ClientSession(
            timeout=self.timeout, connector=connector, headers=bearer(API_KEY), read_bufsize=1 << 16
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.session.close()

    @asynccontextmanager
    async def chat(self, payload: dict[str, Any], request_id: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield the server's reply once it has begun to answer; raises APIError if it does not.

        What the payload leaves out of decoding is as it was scored, so that the server's own defaults never answer.
        """
        sent = filled(self.decoding, payload)
        with faults():
            async with self.session.post(
                f"{self.url}/v1/chat/completions", json=sent, headers={"X-Request-ID": request_id}
            ) as reply:
                if reply.status != 200:
                    raise refusal(reply.status, await reply.read())
                yield reply

    async def ready(self) -> bool:
        """Say whether the model is loaded and answers: it is asked for one token, unless it answered a moment ago."""
        if time.monotonic() - self.probed < PROBE_SECONDS:
            return True
        payload = {"model": self.model, "messages": [{"role": "user", "content": "你好"}], "max_tokens": 1}
        try:
            async with self.chat(payload, "probe") as reply:
                await reply.read()
        except APIError:
            return False
        self.probed = time.monotonic()
        return True


class faults:
    """Turn what goes wrong on the way to the server into an APIError."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
            raise APIError(504, "模型没有在限定时间内答完，请缩短问题或稍后再试。", "timeout") from error
        if isinstance(error, aiohttp.ClientError | TimeoutError | OSError):
            raise unavailable() from error


def refusal(status: int, body: bytes) -> APIError:
    """Return the error for a reply that is none; what the server says of its inside stays here."""
    try:
        said = json.loads(body)
        text = str(said.get("error", said).get("message", "")) if isinstance(said, dict) else ""
    except (ValueError, AttributeError):
        text = ""
    if status in (400, 422) and "context length" in text:
        return APIError(400, "对话太长，超过了模型能读的长度，请新建对话或缩短内容。", "context_length_exceeded", "messages")
    if status == 404 or (status in (400, 422) and "model" in text and "exist" in text):
        return unavailable()  # another model is being served
    if status in (400, 422):
        return APIError(400, "模型服务不接受这个请求。", "invalid_request")
    if status in (401, 403):
        return APIError(502, "网关没有模型服务的权限。", "upstream_refused")
    return unavailable()
