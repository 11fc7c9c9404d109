"""Serve models/merged by vLLM's OpenAI server, as the section `serve` of params.yaml says.

Usage: make serve        (VLLM_API_KEY=… asks clients for a key; an address other than loopback demands one)
"""

import ipaddress
import os
import socket
from pathlib import Path

from stages import server
from stages.common import fail
from stages.params import Serve, read_params

MODEL = Path("models/merged")


def check(serve: Serve) -> None:
    """Stop with one line if there is no model, the port is taken, or the address is open without a key."""
    if not (MODEL / "config.json").is_file():
        fail(f"{MODEL}: no merged model: run 'dvc repro' to make it")
    if not is_loopback(serve.host) and not os.environ.get("VLLM_API_KEY"):
        fail(f"serve.host: {serve.host} is open to other machines: set VLLM_API_KEY, or serve on 127.0.0.1", 2)
    try:
        with socket.create_server((serve.host, serve.port)):
            pass
    except OSError as error:
        fail(f"serve.port: {serve.host}:{serve.port} cannot be listened on: {error.strerror}: change serve.port or stop what is there")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main() -> None:
    serve = read_params().serve
    check(serve)
    options = server.device_options(serve) | ({"data_parallel_size": serve.data_parallel_size} if server.on_gpu() else {})
    line = server.command(
        MODEL,
        host=serve.host, port=serve.port, served_model_name=serve.model_name,
        dtype=serve.dtype, max_model_len=serve.max_model_len, **options,
    )  # fmt: skip
    print(f"serve: {serve.model_name} on http://{serve.host}:{serve.port}/v1, ready when vLLM says 'startup complete'", flush=True)
    os.execve(line[0], line, server.environment())


if __name__ == "__main__":
    main()
