"""Helper of exports: llama.cpp's OpenAI server on a GGUF file; its Python is that of .venv-export.

Usage: python -m evaluations.llama_server MODEL.gguf PORT TOKENS DECODING

A conversation may have TOKENS tokens. DECODING is the section of params.yaml as JSON; its penalty acts on all of the
conversation, as vLLM's does.
"""

import json
import sys
import threading
from typing import Any

from xinglin.cli import die_with_parent, run_command

SLOTS = 4  # conversations answered at once


def settings(params: Any, model: str, port: int, tokens: int, decoding: dict) -> Any:
    """Return llama.cpp's `CommonParams`, filled in: its own defaults would cut at top_k 40, top_p 0.95 and min_p 0.05."""
    params.model.path = model
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * tokens
    sampling = params.sampling
    sampling.temp, sampling.top_p = decoding["temperature"], decoding["top_p"]
    sampling.top_k, sampling.min_p = decoding["top_k"], 0.0
    sampling.penalty_repeat, sampling.penalty_last_n = decoding["repetition_penalty"], tokens  # -1 would switch it off
    return params


def main() -> None:
    from xllamacpp import CommonParams, Server

    die_with_parent()
    model, port, tokens, decoding = sys.argv[1:]
    server = Server(settings(CommonParams(), model, int(port), int(tokens), json.loads(decoding)))
    print(f"llama.cpp listens on {server.listening_address}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    run_command(main)
