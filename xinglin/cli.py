"""What every command shares: arguments, signals, and an error as one line."""

import argparse
import ctypes
import os
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn


def fail(message: str, code: int = 1) -> NoReturn:
    """End the program with one line on stderr and exit status `code`."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def start(description: str | None, *names: str) -> argparse.Namespace:
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
    """Print Ctrl+C, and an OSError with a file or an errno, as one line, everything else as Python does."""
    if isinstance(error, KeyboardInterrupt):
        print("error: interrupted; what was finished is kept, run it again to go on", file=sys.stderr)
    elif isinstance(error, OSError) and error.errno:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{os.strerror(error.errno)}; nothing was half-written, run it again when that is mended", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def bearer(variable: str) -> dict[str, str]:
    """Return the header that carries the API key of an environment variable, none where there is no key."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):  # a client would show it in its error
        fail(f"{variable}: the value of this environment variable is no API key")
    return {"Authorization": f"Bearer {key}"} if key else {}


def die_with_parent(parent: int | None = None) -> None:
    """Ask Linux to end this process when its parent dies, so that a killed `dvc repro` leaves nothing running.

    `parent` is its process id, where this process was just forked: it may have died before the asking.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if parent and os.getppid() != parent:
        os._exit(143)
