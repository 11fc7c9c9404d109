"""Who asks at the page's API: on this machine itself the local person, elsewhere whoever a key has let in."""

import secrets
import time
from collections import defaultdict, deque
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from app.access import digest, is_local, key_of
from app.errors import APIError
from app.store import Person, Store

COOKIE = "xinglin"
WRONG_LOGINS = 10  # from one address …
WRONG_SECONDS = 60  # … in so long
ADDRESSES = 10_000  # that are remembered


async def person_of(request: Request) -> Person:
    """Return who asks; raises APIError for nobody, and for a request that a page elsewhere has made a browser send."""
    refuse_foreign(request)
    token = token_of(request)
    found = await run_in_threadpool(request.app.state.store.session, token) if token else None
    if found:
        return found
    if is_local(request):
        return request.app.state.local
    raise APIError(401, "请先登录。", "login_required")


async def admin_of(person: Annotated[Person, Depends(person_of)]) -> Person:
    if not person.admin:
        raise APIError(403, "需要管理员权限。", "not_admin")
    return person


Who = Annotated[Person, Depends(person_of)]
Admin = Annotated[Person, Depends(admin_of)]


def refuse_foreign(request: Request) -> None:
    """Raise APIError where something is to be changed by another site's page, or not as JSON (which a form can't send).

    A browser says itself where a request comes from, over HTTPS; else its origin must be the host that it asks.
    """
    if request.method in ("GET", "HEAD"):
        return
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host", "")
    if site not in ("same-origin", "none") if site else foreign:
        raise APIError(403, "请求来自别的网站。", "cross_origin")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    sized = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    if sized and kind != "application/json":
        raise APIError(415, "请求应为 JSON。", "not_json")


class Logins:
    """Lets people in by their keys; who errs too often waits."""

    def __init__(self, store: Store, days: int) -> None:
        self.store, self.days = store, days
        self.wrong: defaultdict[str, deque[float]] = defaultdict(deque)

    async def let_in(self, request: Request, key: str) -> Response:
        refuse_foreign(request)
        address = request.client.host if request.client else ""
        wait = self.wait(address)
        if wait > 0:
            raise APIError(429, "密钥错误次数太多，请稍后再试。", "too_many_logins", retry_after=round(wait) + 1)
        self.wrong[address].append(time.monotonic())  # until it is right
        known = await run_in_threadpool(key_of, key.replace("\0", "").strip(), self.store)
        self.wrong[address].pop()
        token = secrets.token_urlsafe(32)
        await run_in_threadpool(self.store.open_session, digest(token), known, self.days)
        answer = Response(status_code=204)
        secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
        answer.set_cookie(COOKIE, token, max_age=self.days * 86_400, httponly=True, samesite="lax", secure=secure)
        return answer

    def wait(self, address: str) -> float:
        """Return for how many seconds an address may not try."""
        if len(self.wrong) > ADDRESSES:
            self.wrong.clear()
        tried = self.wrong[address]
        while tried and tried[0] < time.monotonic() - WRONG_SECONDS:
            tried.popleft()
        return tried[0] + WRONG_SECONDS - time.monotonic() if len(tried) >= WRONG_LOGINS else 0.0


def token_of(request: Request) -> str | None:
    token = request.cookies.get(COOKIE)
    return digest(token) if token else None
