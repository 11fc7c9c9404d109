"""The memory of the GPUs, or of the machine where there is none."""

import os
import shutil
import subprocess

import psutil

from xinglin.cli import CommandError


def need_memory(base: dict, factor: float, what: str) -> None:
    """Stop with one line if the GPU, or the machine where there is none, has less memory than `factor` × the weights."""
    weights = sum(file["bytes"] for name, file in base["files"].items() if name.endswith(".safetensors"))
    have, where = memory()
    if have < factor * weights:
        raise CommandError(
            f"{what}: {base['model']} needs at least {factor * weights / 1e9:.1f} GB of memory, {where} has {have / 1e9:.1f} GB"
        )


def memory(gpus: int | None = None) -> tuple[int, str]:
    """Return the bytes that a model can take, and of what.

    All GPUs together, the least of the first `gpus`, or the machine's free memory, shared by so many processes.
    """
    if found := cards():
        return (min(found[:gpus]), "the GPU") if gpus else (sum(found), "the GPU")
    return psutil.virtual_memory().available // (gpus or 1), "the machine"


def cards(which: str = "total") -> list[int]:
    """Return the bytes, in total or "free", of each GPU that CUDA_VISIBLE_DEVICES allows; none where nvidia-smi names none."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    query = ["nvidia-smi", f"--query-gpu=memory.{which}", "--format=csv,noheader,nounits", *([f"--id={seen}"] if seen else [])]
    if seen == "" or not shutil.which("nvidia-smi"):
        return []
    found = subprocess.run(query, capture_output=True, text=True)
    return [int(mib) << 20 for mib in found.stdout.split()] if found.returncode == 0 else []
