"""The built page, as files: app/web is its source, `make page` builds it."""

import secrets
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

BUILT = Path(__file__).parent / "page"
NONCE = "__NONCE__"  # in index.html, in place of which each visit gets one of its own
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SHORT = "public, max-age=3600"
FOR_EVER = "public, max-age=31536000, immutable"  # their names hold their hashes


class Assets(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        found = await super().get_response(path, scope)
        found.headers["Cache-Control"] = FOR_EVER
        return found


def mount(app: FastAPI) -> None:
    """Serve the page at /."""
    html = (BUILT / "index.html").read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        nonce = secrets.token_urlsafe(16)
        headers = {"Content-Security-Policy": POLICY.format(nonce=nonce), "Cache-Control": "no-store"}
        return HTMLResponse(html.replace(NONCE, nonce), headers=headers)

    @app.get("/chat", include_in_schema=False)
    @app.get("/chat/", include_in_schema=False)
    def moved() -> Response:
        return RedirectResponse("/", 308)

    app.mount("/assets", GZipMiddleware(Assets(directory=BUILT / "assets"), minimum_size=1024, compresslevel=6))
    for file in BUILT.iterdir():
        if file.is_file() and file.name != "index.html":
            add_file(app, f"/{file.name}", file)
    add_file(app, "/favicon.ico", BUILT / "apricot.svg")


def add_file(app: FastAPI, path: str, file: Path) -> None:
    kind = "application/manifest+json" if file.suffix == ".webmanifest" else None

    @app.get(path, include_in_schema=False)
    def whole() -> Response:
        return FileResponse(file, media_type=kind, headers={"Cache-Control": SHORT})
