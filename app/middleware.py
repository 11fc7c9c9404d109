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
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
API_POLICY = "default-src 'none'; frame-ancestors 'none'"
PAGE_POLICY = (  # Gradio's page has scripts and styles in its HTML
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' "
    "data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
TOO_LARGE = "请求超过 {} 字节。"
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
    for noisy in ("httpx", "uvicorn.access", "gradio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class RequestLog:
    """The middleware; plain ASGI, so that streams pass through untouched."""

    def __init__(self, app: ASGIApp, max_body_bytes: int, page: str) -> None:
        self.app, self.limit, self.page = app, max_body_bytes, page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["id"] = request_id
        on_page = scope["path"].startswith(self.page)
        start, status, size = time.perf_counter(), 500, 0

        async def received() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.limit and not on_page:
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
                out.setdefault("Content-Security-Policy", PAGE_POLICY if on_page else API_POLICY)
                if not on_page:
                    out.setdefault("Cache-Control", "no-store")
            await send(message)

        prometheus.ACTIVE.inc()
        try:
            length = headers.get("content-length", "0")
            if length.isascii() and length.isdigit() and int(length) > self.limit and not on_page:
                await APIError(413, TOO_LARGE.format(self.limit), "request_too_large").response()(scope, receive, sent)
            else:
                await self.app(scope, received, sent)
        finally:
            prometheus.ACTIVE.dec()
            self.note(scope, request_id, status, time.perf_counter() - start)

    def note(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        """Count and log a request; the page's own traffic is not logged, it would say when somebody types."""
        found = scope.get("route")
        route = self.page if scope["path"].startswith(self.page) else getattr(found, "path", "other")
        prometheus.REQUESTS.labels(route, status).inc()
        prometheus.SECONDS.labels(route).observe(seconds)
        if route != self.page and route not in ("/healthz", "/readyz", "/metrics"):
            fields = {
                "request_id": request_id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 1),
            }
            log.info("request", extra={"fields": fields})


def request_id_of(request: Request) -> str:
    return request.state.id
