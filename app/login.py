"""Who comes in at the page: on this machine itself at once, elsewhere with a key; a cookie knows them again."""

import html
import json
import secrets

from fastapi import FastAPI, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from app.access import digest, is_local, key_of
from app.errors import APIError
from app.store import Store

PATH = "/chat"
EXPORT = "/export"
COOKIE = "xinglin"
YEAR_SECONDS = 365 * 86_400
LOGIN = (
    """<!doctype html><html lang="zh-CN"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>杏林</title><body style="font-family:system-ui,sans-serif;max-width:24rem;margin:15vh auto;padding:0 1rem">
<h1>杏林</h1><form method="post" action="/login"><label>访问密钥<br>
<input name="key" type="password" required autofocus autocomplete="current-password" """
    """style="width:100%;font-size:1rem;padding:.5rem"></label>
<p role="alert" style="color:#b00">{error}</p><button style="font-size:1rem;padding:.5rem 1.5rem">进入</button></form>"""
)


def user_of(connection: HTTPConnection, store: Store) -> str | None:
    """Return the id of the person whose cookie comes with a request, if whatever let them in still holds."""
    found = store.user(digest(connection.cookies.get(COOKIE, "")))
    if found is None:
        return None
    user, key = found
    if key is None:
        return user if is_local(connection) else None
    known = store.key(key)
    return user if known and known.valid else None


def install(app: FastAPI) -> None:
    """Add the way in, its form, and the way out with one's own words."""
    store: Store = app.state.store

    def let_in(request: Request, key: str | None) -> Response:
        token = secrets.token_urlsafe(32)
        store.add_user(digest(token), key)
        answer = RedirectResponse(f"{PATH}/", 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, token, max_age=YEAR_SECONDS, httponly=True, samesite="strict", secure=secure)
        return answer

    @app.get("/", include_in_schema=False)
    def enter(request: Request) -> Response:
        if user_of(request, store):
            return RedirectResponse(f"{PATH}/", 303)
        return let_in(request, None) if is_local(request) else form("")

    @app.post("/login", include_in_schema=False)
    def login(request: Request, key: str = Form("")) -> Response:
        try:
            return let_in(request, key_of(key.strip(), store))
        except APIError as error:
            return form(error.message, 401)

    @app.get(EXPORT, include_in_schema=False)
    def export(request: Request) -> Response:
        """Give a person's conversations as a file that is written nowhere here, or send them to the way in."""
        user = user_of(request, store)
        if user is None:
            return RedirectResponse("/", 303)
        text = json.dumps(store.export_user(user), ensure_ascii=False, indent=2)
        name = "attachment; filename=\"conversations.json\"; filename*=UTF-8''%E6%88%91%E7%9A%84%E5%AF%B9%E8%AF%9D.json"
        return Response(text, media_type="application/json", headers={"Content-Disposition": name})

    app.add_middleware(LoginRequired, store=store)


def form(error: str, status: int = 200) -> Response:
    policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    return HTMLResponse(LOGIN.format(error=html.escape(error)), status, {"Content-Security-Policy": policy})


class LoginRequired:
    """Sends whoever opens the page without being let in to where they are."""

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self.app, self.store = app, store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        opens = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] in (PATH, f"{PATH}/")
        if opens and not await run_in_threadpool(user_of, HTTPConnection(scope), self.store):
            await RedirectResponse("/", 303)(scope, receive, send)
        else:
            await self.app(scope, receive, send)
