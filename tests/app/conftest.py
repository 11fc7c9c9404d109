"""What the application's tests share: a PostgreSQL server, the application before a model's server, a person's browser."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from app.store import Store
from tests.app.chat_page import enter
from tests.application import application, model_server
from xinglin.serving.server import free_port


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server of our own, from Debian's packages, on a free port of loopback."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("PostgreSQL is not installed (tests/install.sh installs it as root where apt is)")
    programs, port = found[-1], free_port()
    as_whom = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="xinglin-", dir="/tmp") as folder:  # pytest's own folders are closed to other users
        if as_whom:
            shutil.chown(folder, "postgres")
        data = f"{folder}/data"
        subprocess.run([*as_whom, programs / "initdb", "-D", data, "-A", "trust", "-U", "xinglin", "-E", "UTF8"], check=True)
        options = ["-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
        server = subprocess.Popen(
            [*as_whom, programs / "postgres", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            for _ in range(100):
                if (
                    subprocess.run(
                        [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port)], capture_output=True
                    ).returncode
                    == 0
                ):
                    break
                time.sleep(0.1)
            yield f"postgresql+psycopg://xinglin@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("app")


@pytest.fixture(scope="module")
def model(folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a model's server that sends 60 pieces of text a second, or a module's PACE."""
    with model_server(folder, free_port(), pace=getattr(request.module, "PACE", 60)) as url:
        yield url


@pytest.fixture(scope="module")
def app(folder: Path, model: str) -> Iterator[str]:
    with application(folder, model) as url:
        yield url


@pytest.fixture
def store(folder: Path, app: str) -> Iterator[Store]:
    opened = Store(f"sqlite:///{folder}/conversations.db")
    yield opened
    opened.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Makes browser contexts: a person's browser each, closed after the test."""
    opened = []

    def make(**options: object) -> BrowserContext:
        context = browser.new_context(**({"viewport": {"width": 1200, "height": 800}, "locale": "zh-CN"} | options))
        context.set_default_timeout(15_000)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        opened.append(context)
        return context

    yield make
    for context in opened:
        context.close()


@pytest.fixture
def page(visit: Callable[..., BrowserContext], app: str) -> Page:
    """A page on this machine itself, where nobody has asked anything yet."""
    httpx.delete(f"{app}/api/conversations")
    return enter(visit(), app)
