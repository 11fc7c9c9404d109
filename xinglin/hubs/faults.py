"""What goes wrong at a hub: asked again while it may pass, then said in one line with its cure."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils import parse_ratelimit_headers

from xinglin.cli import CommandError

NAMES = {"huggingface": "Hugging Face", "modelscope": "ModelScope"}
TOKENS = {"huggingface": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}
CACHES = {"huggingface": "HF_HOME", "modelscope": "MODELSCOPE_CACHE"}
ENDPOINTS = {"huggingface": "HF_ENDPOINT", "modelscope": "MODELSCOPE_ENDPOINT"}
BUSY = (408, 429, 500, 502, 503, 504)
WAITS = (1, 2, 4, 8)  # seconds before a busy hub is asked again


class Absent(Exception):
    """The repository has no such file."""


class Changed(Exception):
    """A file has other bytes than its hub says."""


def among(files: list[Any], name: str) -> Any:
    """Return the file of that name."""
    found = {file.path: file for file in files}
    if name not in found:
        raise Absent(", ".join(sorted(found)[:8]) or "none")
    return found[name]


def from_cache(hub: str, reason: BaseException, look_up: Callable[[], str]) -> Path:
    """Return what a hub's client finds in its cache, or raise the reason why the hub was not asked."""
    try:
        path = Path(look_up())
    except Exception:  # of many kinds; each means that the cache lacks it, and the hub's own reason says more
        raise reason from None
    if not isinstance(reason, OfflineModeIsEnabled):
        print(f"{NAMES[hub]}: {said(reason)}; taken from the cache: {path}", file=sys.stderr)
    return path


@contextmanager
def one_line(section: str, what: str, hub: str, by_hand: str) -> Iterator[None]:
    """Turn what a hub's client raises into one line: what did not come, why, and the cure."""
    try:
        yield
    except CommandError:  # a full disk
        raise
    except Exception as error:  # the clients raise many kinds; each means that something did not come
        reason, cure = explained(root(error), section, hub)
        raise CommandError(f"{what} from {NAMES[hub]}: {reason}; {cure}, or {by_hand}")


def explained(error: BaseException, section: str, hub: str) -> tuple[str, str]:
    """Return the reason why something did not come, and its cure."""
    name, again = f"{section}.{'model' if section == 'base' else 'dataset'}", "run again to go on"
    answer, token, endpoint = status(error), TOKENS[hub], ENDPOINTS[hub]
    if isinstance(error, Absent):
        return f"it has no such file, but {error}", f"set {section}.file to one of those"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision", f"set {section}.revision to one of its branches, tags or commits, or to null"
    if isinstance(error, GatedRepoError):
        return f"it is gated ({answer})", f"accept its terms on its page and set {token} to a token of that account"
    if answer in (401, 403):
        return f"private, not there, or the token is wrong ({answer})", f"check {name} and {token}"
    if answer == 404:
        return "not there, or private (404)", f"check {name}, {section}.revision and {token}"
    if answer in BUSY:
        return said(error), f"wait some minutes and {again}"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set and the cache does not hold all of it", "unset HF_HUB_OFFLINE"
    if isinstance(error, OSError) and error.errno:
        return said(error), f"make room, or set {CACHES[hub]} to a folder with room that you may write to, and {again}"
    if isinstance(error, Changed) or getattr(error, "error_code", None) == "E2020":  # ModelScope's code of it
        return said(error), f"{again}, set {endpoint} to another mirror if this comes again"
    if isinstance(error, json.JSONDecodeError):
        return "a page answers instead of a hub", f"check the proxy, and that {endpoint} is the address of a hub"
    return said(error), f"check {name}, the network, the proxy and {endpoint}, and {again}"


def root(error: BaseException) -> BaseException:
    """Return the error that a client's more general one stands for."""
    if failed := getattr(error, "failed_files", None):  # ModelScope's list of what did not come
        return root(next(iter(failed.values())))
    general = isinstance(error, RevisionResolutionError | LocalEntryNotFoundError) or hasattr(error.__cause__, "status_code")
    return root(error.__cause__) if general and error.__cause__ else error


def status(error: BaseException) -> int | None:
    """Return the HTTP status that a hub answered with, if it answered."""
    return getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)


def said(error: BaseException) -> str:
    """Return an error's text in one line, without what a hub or a proxy is logged in to with."""
    text = " ".join(str(error).split()) or type(error).__name__
    if status(error):
        text = f"the hub answers {status(error)}: {getattr(error, 'server_message', None) or getattr(error, 'message', '')}"
    elif isinstance(error, OSError) and error.errno:
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    elif "[Errno" in text:
        text = text[text.rindex("[Errno") :].rstrip("\"') ")
    if isinstance(error, httpx.TransportError):
        with suppress(RuntimeError):  # it knows of no request
            text = f"{error.request.url.host} cannot be reached: {text}"
    return re.sub(r"(?<=://)[^/@\s]+@|(?<=Bearer )\S+|\?[^\s'\"]*", "", text)[:300]


def patiently(
    call: Callable[[], Any],
    reached: Callable[[], int] = lambda: 0,
    given_up: Callable[[], bool] = lambda: False,
    hub: str = "huggingface",
) -> Any:
    """Return `call()`, called again while the hub is busy or the connection breaks, four times at the most without progress.

    `given_up`: another thread has failed for good, so that nothing more is to be tried or said.
    """
    waits, before = iter(WAITS), reached()
    while True:
        try:
            return call()
        except errors_of(hub) as error:
            reason = root(error)
            if reached() > before:
                waits, before = iter(WAITS), reached()
            wait = next(waits, 0)
            if not wait or not passes(reason) or given_up():
                raise
            wait = max(wait, asked_wait(reason))
            print(f"{NAMES[hub]}: {said(reason)}; again in {wait} s", file=sys.stderr)
            time.sleep(wait)


def errors_of(hub: str) -> tuple[type[Exception], ...]:
    """Return what a hub's client raises where something did not come."""
    if hub == "huggingface":
        return HfHubHTTPError, RevisionResolutionError, httpx.TransportError
    from modelscope_hub.errors import HubError

    return (HubError,)


def passes(error: BaseException) -> bool:
    """Return whether an error may be gone in some seconds."""
    if isinstance(error, httpx.TransportError):
        return not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError)
    return status(error) in BUSY


def asked_wait(error: BaseException) -> int:
    """Return how many seconds a busy hub asks to wait."""
    limit = parse_ratelimit_headers(error.response.headers) if isinstance(error, HfHubHTTPError) else None
    return limit.reset_in_seconds + 1 if limit and not limit.remaining else 0
