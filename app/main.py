"""The application: the gateway and the chat page in front of the served model.

Usage: make app        (python -m app.main; the parameters are the section `app` of params.yaml)
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from ruamel.yaml import YAML
from starlette.concurrency import run_in_threadpool

from app import admin, api, chat, errors, page, prometheus, red_flags
from app.access import Gate
from app.answers import Answers
from app.login import Logins
from app.middleware import CrossOrigin, HeadAsGet, RequestLog, log, set_up_logging
from app.settings import Params
from app.store import LOCAL, Held, Store
from app.upstream import Upstream
from xinglin.cli import CommandError, run_command

DAY_SECONDS = 86_400


class Health(BaseModel):
    status: str


def create(params: Params) -> FastAPI:
    """Return the application for these parameters; it opens its database at once and its client when it starts."""
    settings = params.app
    store = Store(os.environ.get("XINGLIN_DATABASE", settings.database))
    lost = store.lose_running()
    name, url = params.serve.model_name, settings.upstream or f"http://{params.serve.host}:{params.serve.port}"
    upstreams = {
        model: Upstream(place, model, settings.timeout_seconds, params.decoding, settings.silence_seconds)
        for model, place in {name: url, **settings.compared}.items()
    }

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for upstream in upstreams.values():
                await stack.enter_async_context(upstream)
            expiry = asyncio.create_task(expire_daily(store, settings.retention_days))
            yield
            expiry.cancel()
            await asyncio.gather(expiry, return_exceptions=True)
            await app.state.answers.close()
        store.close()

    app = FastAPI(
        title="Xinglin",
        version="0.1.0",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        description="OpenAI-compatible gateway to a medical question-answering model. It is not a doctor.",
    )
    state = app.state
    state.settings, state.store, state.gate, state.model = settings, store, Gate(settings, store), name
    state.upstreams, state.upstream = upstreams, upstreams[name]
    state.versions = {model: model_version() if model == name else "" for model in upstreams}
    state.local = store.person(LOCAL)
    state.answers, state.logins = Answers(state), Logins(store, settings.session_days)
    if lost:
        log.warning("answers lost", extra={"fields": {"answers": lost}})
    errors.install(app)
    for part in (chat, api, admin):
        app.include_router(part.router)
    add_health(app)
    page.mount(app)
    app.add_middleware(RequestLog, max_body_bytes=settings.max_body_bytes)
    app.add_middleware(CrossOrigin, origins=settings.cors_origins)
    app.add_middleware(HeadAsGet)
    return app


def add_health(app: FastAPI) -> None:
    @app.get("/healthz", tags=["Health"])
    async def healthz() -> Health:
        """Say that the gateway itself runs."""
        return Health(status="ok")

    @app.get("/readyz", tags=["Health"], responses={503: {"model": errors.Problem}})
    async def readyz(request: Request) -> Health:
        """Say whether the model is loaded and answers."""
        if not await request.app.state.upstream.ready():
            raise errors.APIError(503, "模型正在加载或没有运行。", "model_unavailable", retry_after=5)
        return Health(status="ok")

    @app.get(
        "/metrics",
        tags=["Health"],
        dependencies=[Depends(chat.caller_of)],
        responses=errors.responses(401),
        response_class=Response,
    )
    async def metrics() -> Response:
        """Give counts and times in Prometheus' format."""
        return Response(generate_latest(prometheus.REGISTRY), media_type=CONTENT_TYPE_LATEST)


async def expire_daily(store: Store, days: int) -> None:
    while True:
        try:
            count = await run_in_threadpool(store.expire, days)
            log.info("expired", extra={"fields": {"conversations": count}})
            prometheus.EXPIRY_HELD.set(0)
        except Held as error:
            cure = "if the clock is right: python -m app.retention --yes"
            log.error("expiry held", extra={"fields": {"conversations": str(error), "cure": cure}})
            prometheus.EXPIRY_HELD.set(1)
        except sa.exc.SQLAlchemyError:
            log.exception("expiry failed")
        await asyncio.sleep(DAY_SECONDS)


def model_version(lock: Path = Path("dvc.lock")) -> str:
    """Return the first digits of the hash by which DVC keeps the merged model, "" where the lock names none.

    Not the checkout's commit, which goes on while the model stays the same.
    """
    stages = (YAML(typ="safe").load(lock) or {}).get("stages", {}) if lock.is_file() else {}
    outs = stages.get("merged", {}).get("outs", [])
    return next((str(out["md5"])[:8] for out in outs if out["path"] == "models/merged"), "")


def main() -> None:
    params = Params.read()
    red_flags.check()
    settings = params.app
    set_up_logging()
    try:
        app = create(params)
    except sa.exc.OperationalError as error:
        raise CommandError(f"app.database: cannot be opened: {' '.join(str(error.orig).split())[:200]}")
    config: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "log_config": None,
        "access_log": False,
        "server_header": False,
    }
    print(
        f"app: http://{settings.host}:{settings.port} (page), http://{settings.host}:{settings.port}/v1 (API)",
        flush=True,
    )
    server = uvicorn.Server(uvicorn.Config(app, **config, loop="uvloop", http="httptools", timeout_graceful_shutdown=5))
    try:
        server.run()
    except SystemExit:
        logging.shutdown()
        raise CommandError(
            f"app.port: {settings.host}:{settings.port} cannot be listened on: change app.port or stop what is there"
        )
    sys.exit(0 if server.started else 1)


if __name__ == "__main__":
    run_command(main)
