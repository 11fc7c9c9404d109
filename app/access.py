"""Who may ask, and how much: API keys, and limits for each of them."""

import hashlib
import hmac
import ipaddress
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import sqlalchemy as sa
from fastapi import Request
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from app.errors import APIError
from app.settings import App
from app.store import Key, Store

LOCAL_NAMES = {"localhost", "127.0.0.1", "[::1]"}
FORWARDING = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


class Caller(NamedTuple):
    """Whom a request counts for: the id of a key, or `local`."""

    id: str


def is_local(connection: HTTPConnection) -> bool:
    """Say whether a request comes from this machine itself: not through a proxy, and under a name of this machine.

    The name matters: a page elsewhere can make a browser here ask a name that resolves to 127.0.0.1 (DNS rebinding).
    """
    try:
        loopback = connection.client is not None and ipaddress.ip_address(connection.client.host).is_loopback
    except ValueError:
        loopback = False
    name = connection.headers.get("host", "").rsplit(":", 1)[0] if "]" not in connection.headers.get("host", "") else "[::1]"
    return loopback and name in LOCAL_NAMES and not any(header in connection.headers for header in FORWARDING)


def digest(secret: str) -> str:
    """Return what is kept of a key's secret, 256 random bits: a plain hash is as hard to undo as the key is to guess."""
    return hashlib.sha256(secret.encode()).hexdigest()


def key_of(text: str, store: Store) -> Key:
    """Return the key `xl-ID-SECRET`; raises APIError for one that is unknown, expired or revoked."""
    parts = text.split("-", 2)
    known = store.key(parts[1]) if len(parts) == 3 and parts[0] == "xl" else None
    expected = known.hash if known else digest("")
    right = hmac.compare_digest(digest(parts[-1]), expected)
    if not (known and right):
        raise APIError(401, "API 密钥不对。", "invalid_api_key")
    if not known.valid:
        raise APIError(401, "API 密钥已过期或已停用。", "expired_api_key")
    with suppress(sa.exc.SQLAlchemyError):  # a database that can't be written lets people in all the same
        store.key_used(known)
    return known


class Gate:
    """Lets callers in and counts what they do; state is of this process."""

    def __init__(self, settings: App, store: Store) -> None:
        self.settings, self.store = settings, store
        self.rate = RateLimitItemPerMinute(settings.requests_per_minute)
        self.limiter = MovingWindowRateLimiter(MemoryStorage())
        self.active: Counter[str] = Counter()

    async def caller(self, request: Request) -> Caller:
        """Return who asks, by `Authorization: Bearer KEY`; on this machine itself no key is needed."""
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and text.strip().startswith("xl-"):
            return Caller((await run_in_threadpool(key_of, text.strip(), self.store)).id)
        if is_local(request):
            return Caller("local")
        raise APIError(401, "需要 API 密钥：Authorization: Bearer xl-…", "missing_api_key")

    @asynccontextmanager
    async def turn(self, caller: Caller) -> AsyncIterator[None]:
        """Hold one of the caller's places while the block runs; raises APIError if the caller asks too much."""
        if self.active[caller.id] >= self.settings.concurrent_requests:
            raise APIError(
                429,
                f"同时进行的请求超过 {self.settings.concurrent_requests} 个。",
                "too_many_concurrent_requests",
                retry_after=1,
            )
        if not await self.limiter.hit(self.rate, caller.id):
            window = await self.limiter.get_window_stats(self.rate, caller.id)
            wait = max(1, round(window.reset_time - time.time()))
            raise APIError(
                429, f"每分钟最多 {self.settings.requests_per_minute} 个请求。", "rate_limit_exceeded", retry_after=wait
            )
        self.active[caller.id] += 1
        try:
            yield
        finally:
            self.active[caller.id] -= 1
