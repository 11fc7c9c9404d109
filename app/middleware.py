"""Around every request: its id, a log line without anybody's words, counts, security headers, and the limit of its size."""

import json
import logging
import re
import sys
import time
import uuid

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import prometheus
from app.errors import APIError

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
}
API_POLICY = "default-src 'none'; frame-ancestors 'none'"
TOO_LARGE = "请求超过 {} 字节。"
QUIET = ("/healthz", "/readyz", "/metrics", "/api/status", "other")
log = logging.getLogger("xinglin")


class JSONLines(logging.Formatter):
    """A log record as one line of JSON: time, level, event, and the fields that the call gave."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up_logging() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("httpx", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class RequestLog:
    """The middleware; plain ASGI, so that streams pass through untouched."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app, self.limit = app, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["id"] = request_id
        start, status, size = time.perf_counter(), 0, 0

        async def received() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.limit:
                raise HTTPException(413, TOO_LARGE.format(self.limit))
            return message

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out["X-Request-ID"] = request_id
                for name, value in HEADERS.items():
                    out.setdefault(name, value)
                out.setdefault("Content-Security-Policy", API_POLICY)
                out.setdefault("Cache-Control", "no-store")
            await send(message)

        prometheus.ACTIVE.inc()
        try:
            length = headers.get("content-length", "0")
            if length.isascii() and length.isdigit() and int(length) > self.limit:
                await APIError(413, TOO_LARGE.format(self.limit), "request_too_large").response()(scope, receive, sent)
            else:
                await self.app(scope, received, sent)
        except Exception:
            log.exception("request failed", extra={"fields": {"request_id": request_id}})
            if status:  # a reply has begun: it can only break off
                raise
            await APIError(500, "服务内部出错，已记录。", "internal_error").response()(scope, receive, sent)
        finally:
            prometheus.ACTIVE.dec()
            self.note(scope, request_id, status, time.perf_counter() - start)

    def note(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        """Count and log a request, by the pattern of its path: ids and searches are nobody's business."""
        route = getattr(scope.get("route"), "path", "other")
        prometheus.REQUESTS.labels(route, status).inc()
        prometheus.SECONDS.labels(route).observe(seconds)
        if route not in QUIET:
            fields = {
                "request_id": request_id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 1),
            }
            log.info("request", extra={"fields": fields})


class HeadAsGet:
    """Answers HEAD as GET; the server that runs the application leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = {**scope, "method": "GET"} if scope["type"] == "http" and scope["method"] == "HEAD" else scope
        await self.app(asked, receive, send)


class CrossOrigin:
    """Lets pages of `origins` call the API from a browser, with a key and without cookies; the rest stays closed to them."""

    def __init__(self, app: ASGIApp, origins: list[str]) -> None:
        self.app, self.api = app, app
        if origins:
            self.api = CORSMiddleware(
                app,
                allow_origins=origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
                expose_headers=["X-Request-ID", "X-Xinglin-Dropped-Messages", "Retry-After"],
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        of_api = scope["type"] == "http" and scope["path"].startswith("/v1/")
        await (self.api if of_api else self.app)(scope, receive, send)


def request_id_of(request: Request) -> str:
    return request.state.id
