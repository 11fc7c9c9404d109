"""Print what a bug report needs: versions, hardware, disk, and what is missing for the active parameters.

Usage: make doctor
"""

import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from tools.all_params import Params, read_params
from xinglin.cli import run_command
from xinglin.hardware import cards, memory
from xinglin.serving import server

MISSING = "missing: run 'make setup'"
PACKAGES = ("llamafactory", "dvc", "torch", "transformers", "modelscope", "datasets")


def vllm_version() -> str:
    python = Path(sys.prefix).parent / ".venv-vllm" / "bin" / "python"
    found = [folder.name for folder in python.parent.parent.glob("lib/python*/site-packages/vllm*.dist-info")]
    if not (python.exists() and found):
        return MISSING
    return f"{found[0].removesuffix('.dist-info')} ({'GPU' if server.on_gpu() else 'CPU'} build)"


def package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return MISSING


def gpu() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    if not shutil.which("nvidia-smi"):
        return "none"
    found = subprocess.run(query, capture_output=True, text=True)
    lines = found.stdout.strip().splitlines()
    if found.returncode or not lines:  # it gives the reason on either
        return f"none, nvidia-smi: {' '.join([*lines, *found.stderr.split()])}"
    return f"{'; '.join(lines)} (watch it: make gpu, which runs nvitop)"


def build() -> str:
    """Return the build of vLLM that `make setup` installs here, gpu or cpu, decided as the Makefile does."""
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True).stdout if shutil.which("nvidia-smi") else b""
    return "gpu" if listed.startswith(b"GPU") else "cpu"


def missing(params: Params) -> list[str]:
    """Return a line for each thing that the active parameters need and this machine lacks."""
    lacks = []
    for place, source in params.raw.all_sources.items():
        absent = [path for path in source.path or [] if not Path(path).expanduser().exists()]
        lacks += [f"{place}.path: {path}: no such file" for path in absent]
    if params.base.source == "path" and not Path(params.base.path or "").expanduser().is_dir():
        lacks.append(f"base.path: {params.base.path}: no such folder")
    if params.base.on_a_hub and not cards():
        lacks.append(f"base.model: {params.base.model}: a GPU, training on a CPU would take days")
    if vllm_version() == MISSING:
        lacks.append("vLLM's environment: run 'make setup'")
    elif server.on_gpu() != (build() == "gpu"):
        lacks.append("vLLM's build does not fit the hardware: run 'make setup'")
    return lacks


def main() -> None:
    free, where = memory()
    disk = shutil.disk_usage(".")
    rows = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}",
        **{name: package(name) for name in PACKAGES},
        "vllm": vllm_version(),
        "GPU": gpu(),
        "processors": f"{psutil.cpu_count()}",
        "memory": f"{psutil.virtual_memory().total / 1e9:.1f} GB, for a model {free / 1e9:.1f} GB ({where})",
        "disk": f"{disk.free / 1e9:.1f} GB free of {disk.total / 1e9:.1f} GB",
    }
    for name, value in rows.items():
        print(f"{name:14}{value}")
    params = read_params()
    base = params.base.model if params.base.on_a_hub else {"path": params.base.path}.get(params.base.source, params.base.source)
    raw = " + ".join(source.name for source in params.raw.sources) or params.raw.source
    print(f"{'active':14}raw {raw}, base {base}, {params.adapter.template}")
    for line in missing(params) or ["nothing"]:
        print(f"{'missing':14}{line}")


if __name__ == "__main__":
    run_command(main)
