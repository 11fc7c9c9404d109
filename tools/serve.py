"""Serve models/merged by vLLM's OpenAI server, as the section `serve` of params.yaml says, decoded as it was scored.

Usage: make serve        (VLLM_API_KEY=… asks clients for a key; an address other than loopback demands one)
"""

import ipaddress
import os
import socket
import sys
from pathlib import Path

from app.settings import Serve
from tools.all_params import read_params
from tools.stale import stale_stages
from xinglin.cli import CommandError, run_command
from xinglin.hardware import need_memory
from xinglin.serving import server
from xinglin.serving.answers import SERVING_BYTES
from xinglin.serving.decoding import Decoding, described, fields, scored

MODEL = Path("models/merged")


def check(serve: Serve) -> None:
    """Stop with one line if there is no model, the port is taken, or the address is open without a key."""
    if not (MODEL / "config.json").is_file():
        raise CommandError(f"{MODEL}: no merged model: run 'dvc repro' to make it")
    if not is_loopback(serve.host) and not os.environ.get("VLLM_API_KEY"):
        raise CommandError(f"serve.host: {serve.host} is open to other machines: set VLLM_API_KEY, or serve on 127.0.0.1", 2)
    try:
        with socket.create_server((serve.host, serve.port)):
            pass
    except OSError as error:
        raise CommandError(
            f"serve.port: {serve.host}:{serve.port} cannot be listened on: "
            f"{error.strerror}: change serve.port or stop what is there"
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def checked_dtype(serve: Serve) -> str:
    """Return the precision to compute in; stop with one line if that, the GPUs or the memory are not to be had here."""
    dtype = server.compute_dtype(serve.dtype, server.stored_dtype(MODEL), "serve.dtype")
    server.check_gpus(serve, MODEL, "serve", serve.data_parallel_size)
    files = {file.name: {"bytes": file.stat().st_size} for file in MODEL.glob("*.safetensors")}
    need_memory({"model": str(MODEL), "files": files}, SERVING_BYTES * server.widened(MODEL, dtype), "serve")
    return dtype


def checked_decoding(today: Decoding) -> Decoding:
    """Return the decoding that the model was scored with, which is served, with a warning if params.yaml has another by now."""
    found = scored(MODEL)
    if fields(found) != fields(today.model_copy(update={"seed": found.seed})):
        was = f"{MODEL} was scored {described(found)}, and is served so"
        print(f"serve: warning: {was}; params.yaml says {described(today)}: run 'dvc repro'", file=sys.stderr)
    return found


def warn_of_other_runs() -> None:
    """Say where the model that is to be served is not of the data and parameters that are here."""
    if stale_stages("merged"):
        print(
            f"serve: warning: {MODEL} is not of the parameters, data and code that are here: 'dvc status merged' says why",
            file=sys.stderr,
        )


def main() -> None:
    params = read_params()
    serve = params.serve
    check(serve)
    warn_of_other_runs()
    dtype, decoding = checked_dtype(serve), checked_decoding(params.decoding)
    options = server.device_options(serve) | ({"data_parallel_size": serve.data_parallel_size} if server.on_gpu() else {})
    line = server.command(
        MODEL,
        host=serve.host,
        port=serve.port,
        served_model_name=serve.model_name,
        generation_config=str(MODEL),
        dtype=dtype,
        max_model_len=serve.max_model_len,
        **options,
    )
    where = f"{serve.model_name} on http://{serve.host}:{serve.port}/v1, {described(decoding)}"
    print(f"serve: {where}, ready when vLLM says 'startup complete'", flush=True)
    os.execve(line[0], line, server.environment())


if __name__ == "__main__":
    run_command(main)
