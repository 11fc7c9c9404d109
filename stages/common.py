"""What every stage shares: arguments, errors, whole-file writes, and folders for unfinished work."""

import argparse
import ctypes
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.pool import Pool
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import orjson
import psutil

WORK = Path(".work")  # unfinished work, outside DVC's outs, which it deletes before each run
CHECKS: dict[str, Callable[[], None]] = {}  # what must hold before an output is put in its place, by name


def fail(message: str, code: int = 1) -> NoReturn:
    """End the program with one line on stderr and exit status `code`."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def arguments(description: str | None, *names: str) -> argparse.Namespace:
    """Parse `--name PATH` for each of `names` (all required); from here on, SIGTERM and a dead parent end the stage.

    An error of the operating system, a full disk say, that nobody handles is one line, not a traceback.
    """
    signal.signal(signal.SIGTERM, end)
    die_with_parent()
    sys.excepthook = one_line
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in names:
        parser.add_argument(f"--{name}", type=Path, required=True)
    return parser.parse_args()


def end(*_: Any) -> NoReturn:
    """End as by an exception, so that servers are stopped; Linux may send the signal once for each thread of a dying parent."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an OSError with a file or an errno as one line, everything else as Python does."""
    if isinstance(error, OSError) and error.errno:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{os.strerror(error.errno)}; nothing was half-written, run it again when that is mended", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def die_with_parent(parent: int | None = None) -> None:
    """Ask Linux to end this process when its parent dies, so that a killed `dvc repro` leaves nothing running.

    `parent` is its process id, where this process was just forked: it may have died before the asking.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if parent and os.getppid() != parent:
        os._exit(143)


@contextmanager
def workers() -> Iterator[Pool]:
    """Yield a process for each processor; they end with the block, however it is left, and with this process.

    Not a ProcessPoolExecutor: that waits for what was begun, for ever if a signal came between its locks. A Pool waits for
    ever for what a killed worker had begun, so that a worker's death ends this process.
    """
    before, left = multiprocessing.active_children(), threading.Event()
    with multiprocessing.Pool(os.cpu_count(), begin_worker, (os.getpid(),)) as pool:
        begun = [process for process in multiprocessing.active_children() if process not in before]
        watch = threading.Thread(target=end_with, args=(begun, left), daemon=True)
        watch.start()
        try:
            yield pool
        finally:
            left.set()
            watch.join()


def end_with(processes: list[BaseProcess], left: threading.Event) -> None:
    """End this process when one of `processes` dies before `left` is set."""
    while not left.wait(1):
        if dead := next((process for process in processes if process.exitcode is not None), None):
            print(f"error: a worker ended with status {dead.exitcode}; -9 is most often the system, out of memory", file=sys.stderr, flush=True)
            os._exit(1)  # the pool's own end would wait for a lock that died with the worker


def begin_worker(parent: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(parent)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` for a file or folder, and rename it to `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old.part")
    remove(temporary)
    try:
        yield temporary
        for check in CHECKS.values():
            check()
        if path.is_dir() or temporary.is_dir():  # which no folder can replace in one step
            remove(old)
            if path.exists():
                path.rename(old)
            remove(path)
            temporary.rename(path)
        else:
            temporary.replace(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        remove(old)
        remove(temporary)


def remove(path: Path) -> None:
    """Delete a file or a folder with all in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Return what the JSON file at `path` holds."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        fail(f"{path}: no such file: run 'dvc repro' to make it")
    except ValueError as error:
        fail(f"{path}: not JSON: {error}")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, Chinese left readable."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read_jsonl(path: Path) -> list[dict]:
    """Return the rows of a JSON Lines file."""
    if not path.is_file():
        fail(f"{path}: no such file: run 'dvc repro' to make it")
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write one JSON object a line."""
    with whole(path) as temporary, temporary.open("wb") as file:
        file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def fingerprint(*things: Any) -> str:
    """Return 16 hex digits that change when a value, or the content of a file or folder (a `Path`), changes."""
    digest = hashlib.sha256()
    for thing in things:
        if isinstance(thing, Path):
            for file in sorted(f for f in [thing, *thing.rglob("*")] if f.is_file()):
                digest.update(str(file.relative_to(thing)).encode() + file_sha256(file).encode())
        else:
            digest.update(json.dumps(thing, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def work_folder(stage: str, key: str) -> Path:
    """Return `.work/STAGE/KEY`, where a killed run left what it had done; folders of other keys, now stale, go."""
    folder = WORK / stage / key
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.iterdir():
        if stale != folder:
            remove(stale)
    return folder


def bearer(variable: str) -> dict[str, str]:
    """Return the header that carries the API key of an environment variable, none where there is no key."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):  # a client would show it in its error
        fail(f"{variable}: the value of this environment variable is no API key")
    return {"Authorization": f"Bearer {key}"} if key else {}


def need_space(path: Path, bytes_needed: int, what: str) -> None:
    """Stop with one line if the disk that holds `path` has less than `bytes_needed` free."""
    free = shutil.disk_usage(path).free
    if free < bytes_needed:
        fail(f"{path}: {what} needs {bytes_needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free")


def call(command: list[str], environment: dict[str, str]) -> None:
    """Run a program that ends when this process ends; a failure of it is ours, in one line."""
    path = f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}"  # LLaMA-Factory looks for torchrun there
    process = subprocess.Popen(command, env=os.environ | environment | {"PATH": path}, preexec_fn=partial(die_with_parent, os.getpid()))
    try:
        status = process.wait()
    finally:
        process.terminate()
        process.wait()
    if status:
        fail(f"{Path(command[0]).name} {command[-1]} ended with status {status}: the reason stands above")


def need_memory(base: dict, factor: float, what: str) -> None:
    """Stop with one line if the GPU, or the machine where there is none, has less memory than `factor` × the weights."""
    weights = sum(file["bytes"] for name, file in base["files"].items() if name.endswith(".safetensors"))
    have, where = memory()
    if have < factor * weights:
        fail(f"{what}: {base['model']} needs at least {factor * weights / 1e9:.1f} GB of memory, {where} has {have / 1e9:.1f} GB")


def memory(gpus: int | None = None) -> tuple[int, str]:
    """Return the bytes that a model can take, and of what: all GPUs together, the least of the first `gpus`, or the machine's free memory, shared by so many processes."""
    if found := cards():
        return (min(found[:gpus]), "the GPU") if gpus else (sum(found), "the GPU")
    return psutil.virtual_memory().available // (gpus or 1), "the machine"


def cards(which: str = "total") -> list[int]:
    """Return the bytes, in total or "free", of each GPU that this process may use (CUDA_VISIBLE_DEVICES); none where nvidia-smi tells of none."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    query = ["nvidia-smi", f"--query-gpu=memory.{which}", "--format=csv,noheader,nounits", *([f"--id={seen}"] if seen else [])]
    if seen == "" or not shutil.which("nvidia-smi"):
        return []
    found = subprocess.run(query, capture_output=True, text=True)
    return [int(mib) << 20 for mib in found.stdout.split()] if found.returncode == 0 else []
