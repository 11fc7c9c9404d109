"""The application and the model's server as processes on loopback, for the tests of both."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from ruamel.yaml import YAML

from tests.conftest import ROOT, default_params, overlay
from xinglin.serving.server import free_port


def wait_until_up(url: str, process: subprocess.Popen, log: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(url, timeout=5).status_code < 500:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"no answer from {url}: {log.read_text()[-3000:]}")


@contextmanager
def process(command: list[str], url: str, folder: Path, name: str, **environment: str) -> Iterator[subprocess.Popen]:
    log = folder / f"{name}.log"
    known = {k: v for k, v in os.environ.items() if not k.startswith("XINGLIN_")} | {"PYTHONPATH": str(ROOT)} | environment
    with log.open("ab") as output:
        started = subprocess.Popen([sys.executable, *command], cwd=folder, env=known, stdout=output, stderr=output)
    try:
        wait_until_up(url, started, log)
        yield started
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextmanager
def model_server(folder: Path, port: int, pace: float = 200, context: int = 0) -> Iterator[str]:
    """Yield the URL of a stand-in for vLLM; one with a context of tokens counts them and is held to it."""
    url = f"http://127.0.0.1:{port}"
    with process(["-m", "tests.model_server", str(port), str(pace), str(context)], f"{url}/state", folder, "model"):
        yield url


@contextmanager
def faulty_server(folder: Path, port: int, fault: str = "") -> Iterator[str]:
    """Yield the URL of a server that does what the last message names; one with a fault of its own does nothing else."""
    url = f"http://127.0.0.1:{port}"
    with process(["-m", "tests.faulty_server", str(port), fault], f"{url}/state", folder, "faulty"):
        yield url


@contextmanager
def application(folder: Path, upstream: str, changes: dict | None = None, **environment: str) -> Iterator[str]:
    """Yield the URL of the application in `folder`, with parameters of its own."""
    port = (changes or {}).get("app.port") or free_port()
    values = {
        "app.port": port,
        "app.upstream": upstream,
        "app.database": f"sqlite:///{folder}/conversations.db",
        "app.requests_per_minute": 10_000,
    }
    folder.mkdir(parents=True, exist_ok=True)
    YAML().dump(overlay(default_params(), values | (changes or {})), folder / "params.yaml")
    with process(["-m", "app.main"], f"http://127.0.0.1:{port}/healthz", folder, "app", **environment):
        yield f"http://127.0.0.1:{port}"
