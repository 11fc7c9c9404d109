"""llama: llama.cpp's OpenAI server on a GGUF file; its Python is that of .venv-export.

Usage: python -m stages.llama MODEL.gguf PORT TOKENS PENALTY

A conversation may have TOKENS tokens; PENALTY acts on all of them, as vLLM's does.
"""

import sys
import threading
from typing import Any

from stages.common import die_with_parent

SLOTS = 4  # conversations answered at once


def settings(params: Any, model: str, port: int, tokens: int, penalty: float) -> Any:
    """Return llama.cpp's `CommonParams`, filled in."""
    params.model.path = model
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * tokens
    params.sampling.penalty_repeat, params.sampling.penalty_last_n = penalty, tokens  # -1 would switch it off
    return params


def main() -> None:
    from xllamacpp import CommonParams, Server

    die_with_parent()
    model, port, tokens, penalty = sys.argv[1:]
    server = Server(settings(CommonParams(), model, int(port), int(tokens), float(penalty)))
    print(f"llama.cpp listens on {server.listening_address}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
