"""Replicas: several vLLM servers of one model that answer side by side, each on GPUs of its own or sharing one.

A vLLM engine decides in Python what each step computes, on one core: 15,000 to 25,000 tokens a second, while a small
model leaves the GPU half idle (docs/gpu.md). Engines that share a GPU divide that work among cores.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xinglin.bases.shape import sizes
from xinglin.files import read_json
from xinglin.hardware import cards
from xinglin.serving import server
from xinglin.serving.settings import Predictions

CONTEXT = 1.5e9  # bytes that CUDA and its libraries take
PREFILL = 8192  # tokens that vLLM computes at once, at the most
LOGITS = 14  # bytes by sequence and vocabulary entry while the next tokens are chosen


def gpu_assignments(engine: Predictions) -> list[str]:
    """Return the GPUs of each replica (its CUDA_VISIBLE_DEVICES), "" without a GPU; too few are shared."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(str(n) for n in range(len(cards()))))
    gpus, each = [gpu for gpu in seen.split(",") if gpu], engine.tensor_parallel_size
    numbers = range(engine.data_parallel_size)
    return [",".join(gpus[(replica * each + n) % len(gpus)] for n in range(each)) if gpus else "" for replica in numbers]


def at_once(engine: Predictions) -> int:
    """Return how many sequences one replica answers at once."""
    return -(-engine.concurrency // engine.data_parallel_size)


def fitting(engine: Predictions, model: Path) -> tuple[Predictions, dict[str, float | int]]:
    """Return `engine` with as many replicas as fit, and each one's options: on a shared GPU, what its KV cache may take.

    Given that, vLLM does not measure what is free while it starts, which the others' start would falsify.
    """
    for count in range(engine.data_parallel_size, 0, -1):
        chosen = engine.model_copy(update={"data_parallel_size": count})
        crowd = max(Counter(",".join(gpu_assignments(chosen)).split(",")).values())
        if crowd == 1 or not server.on_gpu():
            break
        share = engine.gpu_memory_utilization / crowd
        left = share * min(cards(), default=0) - needed(chosen, model)
        if left > 0:
            return chosen, {"gpu_memory_utilization": round(share, 4), "kv_cache_memory_bytes": int(left)}
        print(
            f"predictions.data_parallel_size: the GPU's memory does not hold {crowd} replicas: trying {count - 1}",
            file=sys.stderr,
        )
    return chosen, {}


def needed(engine: Predictions, model: Path) -> float:
    """Return the bytes on each GPU that a replica takes before its KV cache."""
    config = read_json(model / "config.json")
    both = (config.get("text_config") or {}) | config
    stored = both.get("dtype") or both.get("torch_dtype")
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors")) * (
        2 if engine.dtype == "float32" != stored else 1
    )
    size = sizes(config)
    widths = 3 * size.intermediate_size + 4 * size.hidden_size
    return weights / engine.tensor_parallel_size + CONTEXT + PREFILL * widths * 2 + at_once(engine) * size.vocab_size * LOGITS


@contextmanager
def replicas(engine: Predictions, model: Path, log: Path, **options: str | int | float | None) -> Iterator[list[str]]:
    """Yield the URLs of `engine.data_parallel_size` servers of `model`, started together; the second logs to LOG-2.log.

    `engine.dtype` is one that the device has, not auto (server.compute_dtype).
    """
    server.check_gpus(engine, model, "predictions")
    engine, share = fitting(engine, model)
    options = {"dtype": engine.dtype, "max_model_len": engine.max_model_len, "max_num_seqs": at_once(engine)} | options
    options |= server.device_options(engine, at_once(engine))
    options |= share
    with server.serving(
        *(
            server.vllm(
                model, log if number == 1 else log.with_stem(f"{log.stem}-{number}"), engine.batch_invariant, gpus, **options
            )
            for number, gpus in enumerate(gpu_assignments(engine), 1)
        )
    ) as urls:
        yield urls
