"""OpenAI servers, mostly vLLM's, as a context manager: started on free ports, watched while they load, always stopped."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import aiohttp
import httpx

from xinglin.cli import CommandError, die_with_parent
from xinglin.files import need_space, read_json
from xinglin.hardware import cards
from xinglin.processes import tail
from xinglin.serving.settings import Engine

START_SECONDS = 1800  # a 7B model from a slow disk, kernels compiled for the first time
STOP_SECONDS = 20
SPARE_BYTES = 100_000_000  # for its log and sockets: a vLLM that cannot write them dies without a word
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes a weight
BFLOAT16 = 8.0  # the compute capability from which a GPU has it


def vllm_python() -> Path:
    """Return the Python of .venv-vllm, which stands beside the environment that runs this."""
    python = Path(sys.prefix).parent / ".venv-vllm" / "bin" / "python"
    if not python.exists():
        raise CommandError(f"{python}: no vLLM environment: run 'make setup' first")
    return python


def command(model: Path | str, **options: str | int | float | None) -> list[str]:
    """Return the command line of vLLM's OpenAI server; options are its own, with `_` for `-`, None left out."""
    line = [str(vllm_python()), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    for name, value in options.items():
        if value is not None:
            line += [f"--{name.replace('_', '-')}", *([] if value == "" else [str(value)])]
    return line


def environment(batch_invariant: bool = False) -> dict[str, str]:
    """Return the variables that vLLM runs with: no usage reports, and small defaults.

    FlashInfer's sampler is left out: vLLM has its own, and FlashInfer's is compiled at the first start, for a minute and
    more, by a compiler that need not be there. `batch_invariant`: a GPU's answers do not depend on what else is in the batch.
    """
    return {
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # every core, also where a container hides the NUMA nodes
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        **os.environ,
        "VLLM_NO_USAGE_STATS": "1",
        **({"VLLM_BATCH_INVARIANT": "1"} if batch_invariant and on_gpu() else {}),
        "HF_HUB_OFFLINE": "1",  # models are local paths
    }


def on_gpu() -> bool:
    """Return whether vLLM will run on a GPU, that is, whether its GPU build is the one installed."""
    return any(vllm_python().parent.parent.glob("lib/python*/site-packages/vllm-*.dist-info"))


def capability() -> float | None:
    """Return the least compute capability of the GPUs that this process may use, None where nvidia-smi tells of none."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader", *([f"--id={seen}"] if seen else [])]
    if seen == "" or not shutil.which("nvidia-smi"):
        return None
    found = subprocess.run(query, capture_output=True, text=True)
    return min(map(float, found.stdout.split()), default=None) if found.returncode == 0 else None


def half() -> str:
    """Return the 16-bit type that the device computes in."""
    return "float16" if on_gpu() and (capability() or BFLOAT16) < BFLOAT16 else "bfloat16"


def compute_dtype(setting: str, stored: str, place: str, lora: bool = False) -> str:
    """Return the precision that weights of type `stored` are computed in here; stop with one line where the device cannot.

    `auto` is float32 on a CPU, whose answers then repeat, and on a GPU the model's own 16 bit, or what the GPU has of them.
    `place` is the parameter; `lora`: an adapter is applied, which vLLM does in 16 bit only on a GPU (its lora_shrink_op).
    """
    if setting == "auto":
        return "float32" if not on_gpu() else "float16" if stored == "float16" else half()
    if on_gpu() and setting == "float32" and lora:
        raise CommandError(f"{place}: float32: on a GPU vLLM applies an adapter in 16 bit only: set it to auto", 2)
    if setting == "bfloat16" != half():
        raise CommandError(
            f"{place}: bfloat16: the GPU, of compute capability {capability()}, has none: set it to auto or float16", 2
        )
    return setting


def read_config(model: Path) -> dict:
    """Return what a model's config.json says, of its language model too where that has a block of its own."""
    config = read_json(model / "config.json")
    return (config.get("text_config") or {}) | config


def stored_dtype(model: Path) -> str:
    """Return the precision that a model's config.json states."""
    config = read_config(model)
    return config.get("dtype") or config.get("torch_dtype") or "float32"


def widened(model: Path, dtype: str) -> float:
    """Return how much larger the weights in `model` are once they are of type `dtype`."""
    return WIDTHS[dtype] / WIDTHS.get(stored_dtype(model), 2)


def check_gpus(engine: Engine, model: Path, section: str, replicas: int = 1) -> None:
    """Stop with one line where there are too few GPUs for `replicas` of the engine, or where the model cannot be cut so."""
    each, here = engine.tensor_parallel_size, len(cards())
    if not on_gpu() or each * replicas == 1:
        return
    if here and each > here:
        raise CommandError(f"{section}.tensor_parallel_size: {each} GPUs are asked for, {here} are here", 2)
    if here and each * replicas > here:
        raise CommandError(f"{section}.data_parallel_size: {replicas} × {each} GPUs are asked for, {here} are here", 2)
    heads = read_config(model).get("num_attention_heads", each)
    if heads % each:
        raise CommandError(
            f"{section}.tensor_parallel_size: the model's {heads} attention heads cannot be shared out to {each} GPUs", 2
        )


def device_options(engine: Engine, at_once: int = 256) -> dict[str, str | float | int]:
    """Return the options that depend on the device: on a CPU, compiling costs more than a small model gives back.

    On a GPU, graphs are kept for 1, 2, 4, … up to `at_once` sequences: vLLM's own list is five times as long to capture.
    """
    if not on_gpu():
        return {"enforce_eager": ""}
    sizes = [2**n for n in range(at_once.bit_length()) if 2**n < at_once] + [at_once]
    graphs = json.dumps({"cudagraph_capture_sizes": sizes})
    return engine.model_dump(include={"gpu_memory_utilization", "tensor_parallel_size"}) | {"compilation_config": graphs}


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def socket_folder() -> str:
    """Return a new folder for vLLM's sockets, which it leaves behind; their paths may have 107 characters at the most."""
    return tempfile.mkdtemp(prefix="xinglin-", dir=None if len(tempfile.gettempdir()) < 50 else "/tmp")


class Launch(NamedTuple):
    """A server to be started: its command line and variables, port, output file, and the page that answers once it is up."""

    name: str
    line: list[str]
    variables: dict[str, str]
    port: int
    log: Path
    ready: str = "/health"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def vllm(
    model: Path, log: Path, batch_invariant: bool = False, gpus: str = "", /, **options: str | int | float | None
) -> Launch:
    """Return vLLM's server of `model` on a free port; `gpus`: CUDA_VISIBLE_DEVICES, where it is not to see all of them."""
    port = free_port()
    variables = environment(batch_invariant) | ({"CUDA_VISIBLE_DEVICES": gpus} if gpus else {})
    return Launch("vLLM", command(model, host="127.0.0.1", port=port, **options), variables, port, log)


@contextmanager
def serving(*launches: Launch) -> Iterator[list[str]]:
    """Start servers side by side and yield the base URL of each once all are up; at the end, whatever it is, they are stopped.

    Raises CommandError with the end of a server's log if it does not start, or dies in the block.
    """
    processes: list[subprocess.Popen] = []
    folder = socket_folder()
    try:
        for launch in launches:
            need_space(launch.log.parent, SPARE_BYTES, f"{launch.name}'s log")
            with launch.log.open("wb") as output:
                processes.append(
                    subprocess.Popen(
                        launch.line,
                        env=launch.variables | {"TMPDIR": folder},
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        preexec_fn=partial(die_with_parent, os.getpid()),
                    )
                )
            print(f"{launch.name} loads on port {launch.port}, log in {launch.log} …", file=sys.stderr, flush=True)
        wait_until_up(launches, processes)
        yield [launch.url for launch in launches]
    except (httpx.TransportError, aiohttp.ClientError):
        time.sleep(1)  # a dying server closes its port before it is gone
        raise_if_ended(launches, processes, "died with")
        raise
    finally:
        for process in processes:
            stop(process)
        while Path(folder).exists():  # what was just killed may still have made a file
            shutil.rmtree(folder, ignore_errors=True)


def wait_until_up(launches: Sequence[Launch], processes: list[subprocess.Popen]) -> None:
    """Return when each server answers; raises CommandError if one ends or takes too long."""
    start, waiting = time.monotonic(), list(launches)
    while time.monotonic() - start < START_SECONDS:
        raise_if_ended(launches, processes, "did not start,")
        for launch in list(waiting):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(launch.url + launch.ready, timeout=5).is_success:
                    waiting.remove(launch)
                    print(f"{launch.name} is up after {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        if not waiting:
            return
        time.sleep(0.5)
    late = waiting[0]
    raise CommandError(f"{late.name} did not start within {START_SECONDS} s; the end of {late.log}:\n{tail(late.log)}")


def raise_if_ended(launches: Sequence[Launch], processes: list[subprocess.Popen], how: str) -> None:
    for launch, process in zip(launches, processes, strict=False):
        if process.poll() is not None:
            raise CommandError(f"{launch.name} {how} status {process.returncode}; the end of {launch.log}:\n{tail(launch.log)}")


def stop(process: subprocess.Popen) -> None:
    """End the server and every process of its session."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=STOP_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
