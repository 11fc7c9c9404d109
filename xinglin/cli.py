"""What every command shares: arguments, signals, and an error as one line."""

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn


class CommandError(Exception):
    """What ends a command: one line for who ran it, and the exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run `main` and end the program: with one line and a status other than 0 where it fails."""
    with errors_as_lines():
        main()
    sys.exit(0)


@contextmanager
def errors_as_lines() -> Iterator[None]:
    """End the program with one line on stderr at a CommandError, Ctrl+C or an operating system's error, a full disk say."""
    try:
        yield
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        print("error: interrupted; what was finished is kept, run it again to go on", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if not error.errno:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {where}{os.strerror(error.errno)}; nothing was half-written, run it again when that is mended",
            file=sys.stderr,
        )
        sys.exit(1)


def start(description: str | None, *names: str) -> argparse.Namespace:
    """Parse `--name PATH` for each of `names` (all required); from here on, SIGTERM and a dead parent end the stage."""
    signal.signal(signal.SIGTERM, end)
    die_with_parent()
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in names:
        parser.add_argument(f"--{name}", type=Path, required=True)
    return parser.parse_args()


def end(*_: Any) -> NoReturn:
    """End as by an exception, so that servers are stopped; Linux may send the signal once for each thread of a dying parent."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def bearer(variable: str) -> dict[str, str]:
    """Return the header that carries the API key of an environment variable, none where there is no key."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):  # a client would show it in its error
        raise CommandError(f"{variable}: the value of this environment variable is no API key")
    return {"Authorization": f"Bearer {key}"} if key else {}


def die_with_parent(parent: int | None = None) -> None:
    """Ask Linux to end this process when its parent dies, so that a killed `dvc repro` leaves nothing running.

    `parent` is its process id, where this process was just forked: it may have died before the asking.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if parent and os.getppid() != parent:
        os._exit(143)
