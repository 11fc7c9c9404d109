"""bench.gpu's serving: streams at once on vLLM as `make serve` starts it, and on LLaMA-Factory's own API."""

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import yaml

from bench.app import EVENTS, load
from bench.gpu_training import Rows
from stages import server
from stages.params import Serve

CLI = f"{sys.prefix}/bin/llamafactory-cli"
TEMPLATE = Path(__file__).parent.parent / "templates" / "chat" / "qwen.jinja"
CLIENTS = (1, 16, 64, 256)


@contextmanager
def api_of_llamafactory(folder: Path) -> Iterator[str]:
    """Yield the URL of LLaMA-Factory's own API server, its Hugging Face engine."""
    port, run = server.free_port(), folder / "runs" / "api"
    run.mkdir(parents=True, exist_ok=True)
    config = {"model_name_or_path": str(folder / "base"), "template": "qwen", "do_sample": False, "infer_backend": "huggingface"}
    (run / "api.yaml").write_text(yaml.safe_dump(config))
    with (run / "log.txt").open("wb") as output:
        process = subprocess.Popen(
            [CLI, "api", str(run / "api.yaml")], env=os.environ | {"API_PORT": str(port), "API_HOST": "127.0.0.1", "API_MODEL_NAME": "xinglin"},
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        for _ in range(300):
            try:
                httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=5)
                break
            except httpx.TransportError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def loaded(url: str, clients: int, seconds: float) -> dict:
    """Return what `clients` streams at once see: median seconds to the first text, tokens a second of all."""
    start = time.perf_counter()
    results = [r for r in asyncio.run(load(url, clients, seconds, False)) if r[2]]
    rate = len(results) * EVENTS / (time.perf_counter() - start)  # by the clock: where a server answers one by one, a stream waits for all before it
    return {"first_text_seconds": statistics.median(r[0] for r in results), "tokens_per_second": rate, "streams": len(results)}


def serve(profile: Serve, folder: Path, seconds: float) -> Rows:
    """Yield a number of clients and a function that returns what they see, on ours and on the peer."""
    ours = partial(
        server.running, folder / "base", folder / "vllm.log", served_model_name="xinglin", chat_template=str(TEMPLATE),
        max_model_len=profile.max_model_len, generation_config="vllm", **server.device_options(profile),
    )  # fmt: skip
    for name, start, counts in (("ours", ours, CLIENTS), ("LLaMA-Factory's API", partial(api_of_llamafactory, folder), CLIENTS[:2])):
        with suppress(SystemExit), start() as url:  # one that does not start says why; the other is still worth its time
            loaded(url, 4, 2)
            for clients in counts:
                yield f"{name}, {clients} clients", partial(loaded, url, clients, seconds)
