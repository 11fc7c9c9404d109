"""Processes that end with the one that started them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.pool import Pool
from multiprocessing.process import BaseProcess
from pathlib import Path

from xinglin.cli import CommandError, die_with_parent

LOOK = 2  # seconds
END_SECONDS = 5  # that a pool may take to end
LOG_LINES = 15


@contextmanager
def workers() -> Iterator[Pool]:
    """Yield a process for each processor; they end with the block, however it is left, and with this process.

    Not a ProcessPoolExecutor: that waits for what was begun, for ever if a signal came between its locks. A Pool waits for
    ever for what a killed worker had begun, so that a worker's death ends this process.
    """
    before, left = multiprocessing.active_children(), threading.Event()
    pool = multiprocessing.Pool(os.cpu_count(), begin_worker, (os.getpid(),))
    begun = [process for process in multiprocessing.active_children() if process not in before]
    watch = threading.Thread(target=end_with, args=(begun, left), daemon=True)
    watch.start()
    try:
        yield pool
    finally:
        left.set()
        watch.join()
        ending = threading.Thread(
            target=pool.terminate, daemon=True
        )  # which waits for ever for a lock that a worker took along
        ending.start()
        ending.join(END_SECONDS)
        for process in begun:
            process.kill()


def end_with(processes: list[BaseProcess], left: threading.Event) -> None:
    """End this process when one of `processes` dies before `left` is set."""
    while not left.wait(1):
        if dead := next((process for process in processes if process.exitcode is not None), None):
            print(
                f"error: a worker ended with status {dead.exitcode}; -9 is most often the system, out of memory",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)  # the pool's own end would wait for a lock that died with the worker


def begin_worker(parent: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(parent)


def poll(process: subprocess.Popen) -> int | None:
    """Return the status of a process that ends within LOOK seconds, None if it goes on."""
    try:
        return process.wait(LOOK)
    except subprocess.TimeoutExpired:
        return None


def call(command: list[str], environment: dict[str, str], log: Path, watch: Callable[[], None] = lambda: None) -> None:
    """Run a program that ends when this process ends, its output in `log`, calling `watch` every few seconds.

    Where it fails, the end of the log is shown, and a last line says so.
    """
    path = f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}"  # LLaMA-Factory looks for torchrun there
    name = Path(command[0]).name
    log.parent.mkdir(exist_ok=True)
    print(f"{name}: log in {log} …", file=sys.stderr, flush=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | environment | {"PATH": path},
            stdout=output,
            stderr=output,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
        try:
            while (status := poll(process)) is None:
                watch()
        finally:
            process.terminate()
            process.wait()
    if status:
        print(tail(log), file=sys.stderr)
        raise CommandError(f"{name} {command[-1]} ended with status {status}: the reason stands above, and in {log}")


def tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:])
