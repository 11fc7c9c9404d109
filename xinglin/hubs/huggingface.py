"""Models and data sets from Hugging Face and ModelScope: what is read of them, checked against sizes and checksums; the sections `raw` and `base`.

Usage: from xinglin.hubs import fetch_data, fetch_model
"""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.file_download import are_symlinks_supported, get_hf_file_metadata, http_get, repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import WeakFileLock, build_hf_headers, filter_repo_objects, logging, parse_ratelimit_headers
from pydantic import model_validator

from xinglin.bases.folder import LOADED
from xinglin.cli import bearer, fail
from xinglin.files import file_sha256, remove, work_folder
from xinglin.params import Section

READ: dict[str, Any] = {
    "allow_patterns": [f"*{ending}" for ending in LOADED],
    "ignore_patterns": ["*/*", "consolidated*"],  # folders such as original/, Mistral's second copy: the same weights once more
}
NAMES = {"huggingface": "Hugging Face", "modelscope": "ModelScope"}
TOKENS = {"huggingface": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}
CACHES = {"huggingface": "HF_HOME", "modelscope": "MODELSCOPE_CACHE"}
ENDPOINTS = {"huggingface": "HF_ENDPOINT", "modelscope": "MODELSCOPE_ENDPOINT"}
UNREACHABLE = (httpx.TransportError, OfflineModeIsEnabled, RevisionResolutionError)
MAIN = (None, "master", "main")
BUSY = (408, 429, 500, 502, 503, 504)
WAITS = (1, 2, 4, 8)  # seconds before a busy hub is asked again
SIDE_BY_SIDE = 4  # downloads at once
POINTER = b"version https://git-lfs"
CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's SHA-1 of a file, or the SHA-256 of one in LFS


class Raw(Section):
    source: Literal["sample", "path", "huggingface", "modelscope"]
    path: str | None
    dataset: str
    file: str
    revision: str | None

    @model_validator(mode="after")
    def path_is_named(self) -> "Raw":
        if self.source == "path" and not self.path:
            raise ValueError("source is 'path', so raw.path must name a file")
        return self


class Base(Section):
    source: Literal["tiny", "path", "huggingface", "modelscope"]
    path: str | None
    model: str | None
    revision: str | None

    @model_validator(mode="after")
    def model_is_named(self) -> "Base":
        if self.source == "path" and not self.path:
            raise ValueError("source is 'path', so base.path must name a folder")
        if self.on_a_hub and not self.model:
            raise ValueError(f"source is '{self.source}', so base.model must name a model")
        return self

    @property
    def on_a_hub(self) -> bool:
        return self.source in ("huggingface", "modelscope")


class Absent(Exception):
    """The repository has no such file."""


class Changed(Exception):
    """A file has other bytes than its hub says."""


def fetch_model(base: Base) -> Path:
    """Return the folder of a hub's model in the cache of the hub's client; what is there and whole is not fetched again."""
    revision = named(base.revision)
    what = f"base.model: {base.model}: cannot fetch {at(revision)}"
    fetched = huggingface_model if base.source == "huggingface" else modelscope_model
    with one_line("base", what, base.source, "bring the folder by hand and set base.source: path, base.path: FOLDER"):
        return by_home(fetched(base.model or "", revision))


def fetch_data(raw: Raw) -> Path:
    """Return the file of a hub's data set, fetched unless it is here and whole."""
    revision = named(raw.revision)
    what = f"raw.dataset: {raw.dataset}: cannot fetch {raw.file} at {at(revision)}"
    fetched = huggingface_file if raw.source == "huggingface" else modelscope_file
    with one_line("raw", what, raw.source, "bring the file by hand and set raw.source: path, raw.path: FILE"):
        return fetched(raw.dataset, raw.file, revision)


def named(revision: str | None) -> str | None:
    """Return None for the main branch, whose name differs from hub to hub."""
    return None if revision in MAIN else revision


def at(revision: str | None) -> str:
    return f"revision {revision}" if revision else "its main branch"


def by_home(folder: Path) -> Path:
    """Return `folder` by the home folder's own name, where a client has followed a link to it."""
    home, real = Path.home(), Path.home().resolve()
    return home / folder.relative_to(real) if folder.is_relative_to(real) else folder


# Hugging Face


@dataclass(frozen=True)
class HubFile:
    """A file of a repository of Hugging Face at a commit, and its places in the cache of the client."""

    repo: str
    kind: str
    commit: str
    listed: RepoFile

    @property
    def checksum(self) -> str:
        found = self.listed.lfs.sha256 if self.listed.lfs else self.listed.blob_id
        if not CHECKSUM.fullmatch(found):  # it becomes a file's name
            raise ValueError(f"the hub's checksum of {self.listed.path} is {found[:80]!r}")
        return found

    @property
    def storage(self) -> Path:
        return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self.repo, repo_type=self.kind)

    @property
    def pointer(self) -> Path:
        return self.storage / "snapshots" / self.commit / self.listed.path

    @property
    def blob(self) -> Path:
        return self.storage / "blobs" / self.checksum

    @property
    def part(self) -> Path:
        return self.storage / "blobs" / f"{self.checksum}.incomplete"

    @property
    def lock(self) -> Path:
        return self.storage.parent / ".locks" / self.storage.name / f"{self.checksum}.lock"

    def right(self, path: Path) -> bool:
        """Return whether `path` holds this file's bytes."""
        return path.is_file() and path.stat().st_size == self.listed.size and digest(path, self.checksum) == self.checksum

    def reached(self) -> int:
        """Return how many of this file's bytes earlier downloads left."""
        return self.part.stat().st_size if self.part.exists() else 0


def huggingface_model(model: str, revision: str | None) -> Path:
    """Fetch what is read of a model; without a network, or with HF_HUB_OFFLINE, take it from the cache."""
    try:
        commit, files = listed(model, "model", revision)
    except UNREACHABLE as error:
        whole = {"revision": revision, "local_files_only": True} | READ
        folder = from_cache("huggingface", root(error), lambda: snapshot_download(model, **whole))
        untouched([file for file in folder.iterdir() if file.suffix in LOADED])
        return folder
    wanted = filter_repo_objects(files, key=lambda file: file.path, **READ)
    complete([HubFile(model, "model", commit.resolved, file) for file in wanted])
    return Path(patiently(lambda: snapshot_download(model, revision=commit, **READ)))


def huggingface_file(dataset: str, name: str, revision: str | None) -> Path:
    """Fetch one file of a data set; without a network, or with HF_HUB_OFFLINE, take it from the cache."""
    file: dict[str, Any] = {"repo_id": dataset, "filename": name, "repo_type": "dataset"}
    try:
        commit, files = listed(dataset, "dataset", revision, folder=name.rpartition("/")[0])
    except UNREACHABLE as error:
        path = from_cache("huggingface", root(error), lambda: hf_hub_download(**file, revision=revision, local_files_only=True))
        untouched([path])
        return path
    complete([HubFile(dataset, "dataset", commit.resolved, among(files, name))])
    return Path(hf_hub_download(**file, revision=commit))


def listed(repo: str, kind: str, revision: str | None, folder: str = "") -> tuple[Any, list[RepoFile]]:
    """Return the commit that a revision is, and the files that the hub lists in a folder of it, or in the uppermost."""
    bearer("HF_TOKEN")  # the client would show one that is none
    logging.set_verbosity_error()  # the client's warnings show signed addresses
    api = HfApi()
    commit = patiently(lambda: api.resolve_revision(repo, repo_type=kind, revision=revision))

    def tree(folder: str | None) -> list:
        return patiently(lambda: list(api.list_repo_tree(repo, folder, repo_type=kind, revision=commit.resolved)))

    try:
        found = tree(folder or None)
    except RemoteEntryNotFoundError:
        found = tree(None)
    return commit, [entry for entry in found if isinstance(entry, RepoFile)]


def among(files: list[Any], name: str) -> Any:
    """Return the file of that name."""
    found = {file.path: file for file in files}
    if name not in found:
        raise Absent(", ".join(sorted(found)[:8]) or "none")
    return found[name]


def complete(files: list[HubFile]) -> None:
    """Fetch those of `files` that the cache lacks or holds with other bytes, several side by side.

    Left to itself the client begins a file anew when a run was interrupted (huggingface/huggingface_hub#4196), goes past a
    mirror to the servers of Xet (#4475), and needs a header that company proxies leave out (#1796).
    """
    lacking = [file for file in files if not file.right(file.pointer)]
    if not lacking:
        return
    for folder in {path.parent for file in lacking for path in (file.blob, file.lock, file.pointer)}:
        folder.mkdir(parents=True, exist_ok=True)
    need = sum(file.listed.size - file.reached() for file in lacking if not file.blob.exists())
    free = shutil.disk_usage(constants.HF_HUB_CACHE).free
    if free < need:
        sizes = f"{need / 1e9:.1f} GB of disk are needed, {free / 1e9:.1f} GB are free"
        raise OSError(errno.ENOSPC, sizes, constants.HF_HUB_CACHE)
    with ThreadPool(SIDE_BY_SIDE) as pool:  # its threads end with this process, whatever they wait for
        for _ in pool.imap_unordered(fetch, lacking):
            pass


def fetch(file: HubFile) -> None:
    """Put a file that came whole into the cache, behind a link where the disk has links, as the client does."""
    with WeakFileLock(file.lock):
        if file.right(file.pointer):  # another process was faster
            return
        remove(file.pointer)
        came = file.blob if file.right(file.blob) else whole_part(file)
        if are_symlinks_supported(constants.HF_HUB_CACHE):
            came.replace(file.blob)
            file.pointer.symlink_to(os.path.relpath(file.blob, file.pointer.parent))
        else:
            came.replace(file.pointer)


def whole_part(file: HubFile) -> Path:
    """Download a file's part, from where an earlier run stopped, and return it; if it is not the file then, once more."""
    for _ in range(2):
        patiently(lambda: download(file), file.reached)
        if file.right(file.part):
            return file.part
        start = file.part.read_bytes()[: len(POINTER)] if file.reached() < 1000 else b""
        remove(file.part)
    came = "as a Git LFS pointer, not as the file" if start == POINTER else "with other bytes than the hub's checksum says"
    raise Changed(f"{file.listed.path} came twice {came}")


def download(file: HubFile) -> None:
    """Append to a file's part what is still missing of it."""
    if file.reached() >= file.listed.size > 0:
        return
    constants.DOWNLOAD_CHUNK_SIZE = 1 << 20  # a cut loses so much; where a proxy cuts early, the client's own 10 MB never come
    address = hf_hub_url(file.repo, file.listed.path, repo_type=file.kind, revision=file.commit)
    location = get_hf_file_metadata(address).location
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if urlsplit(location).hostname not in {urlsplit(address).hostname, *constants.HF_URL_HOSTS}:
        headers.pop("authorization", None)  # the token is for the hub alone
    with file.part.open("ab") as part:
        http_get(location, part, resume_size=part.tell(), headers=headers, displayed_filename=file.listed.path)


def digest(path: Path, checksum: str) -> str:
    """Return a file's SHA-256, or git's SHA-1 of it if `checksum` is one."""
    if len(checksum) == 64:
        return file_sha256(path)
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def untouched(files: list[Path]) -> None:
    """Check files of the cache against the checksums that are their blobs' names, where the cache has links to blobs."""
    for file in files:
        name = file.resolve().name
        if CHECKSUM.fullmatch(name) and digest(file, name) != name:
            raise Changed(f"{file.name} in the cache has other bytes than the hub's checksum says, and the hub is not asked")


def patiently(call: Callable[[], Any], reached: Callable[[], int] = lambda: 0, hub: str = "huggingface") -> Any:
    """Return `call()`, called again while the hub is busy or the connection breaks, four times at the most without progress."""
    waits, before = iter(WAITS), reached()
    while True:
        try:
            return call()
        except errors_of(hub) as error:
            reason = root(error)
            if reached() > before:
                waits, before = iter(WAITS), reached()
            wait = next(waits, 0)
            if not wait or not passes(reason):
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


# ModelScope: its client goes on where it stopped and checks what came


def modelscope_model(model: str, revision: str | None) -> Path:
    """Fetch what is read of a model; without a network take it from the cache."""
    from modelscope_hub.compat import snapshot_download
    from modelscope_hub.errors import NetworkError

    bearer("MODELSCOPE_API_TOKEN")
    try:
        return Path(patiently(lambda: snapshot_download(model, revision=revision, **READ), hub="modelscope"))
    except NetworkError as error:  # of the listing: files that did not come are another error
        return from_cache("modelscope", error, lambda: snapshot_download(model, revision=revision, local_files_only=True))


def modelscope_file(dataset: str, name: str, revision: str | None) -> Path:
    """Fetch one file of a data set into the folder for unfinished work."""
    from modelscope_hub import HubApi

    bearer("MODELSCOPE_API_TOKEN")
    hub = HubApi()
    file = among(patiently(lambda: hub.list_repo_files(dataset, "dataset", revision=revision), hub="modelscope"), name)
    folder = work_folder("raw", f"{dataset.replace('/', '--')}@{revision or 'master'}")
    checks = {"file_size": file.size, "expected_sha256": file.sha256}
    fetched = patiently(lambda: hub.download_file(dataset, "dataset", name, revision=revision, local_dir=folder, **checks), hub="modelscope")
    return Path(fetched)


# Both


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
    except Exception as error:  # the clients raise many kinds; each means that something did not come
        reason, cure = explained(root(error), section, hub)
        fail(f"{what} from {NAMES[hub]}: {reason}; {cure}, or {by_hand}")


def explained(error: BaseException, section: str, hub: str) -> tuple[str, str]:
    """Return the reason why something did not come, and its cure."""
    name, again = {"base": "base.model", "raw": "raw.dataset"}[section], "run again to go on"
    answer, token, endpoint = status(error), TOKENS[hub], ENDPOINTS[hub]
    if isinstance(error, Absent):
        return f"it has no such file, but {error}", "set raw.file to one of those"
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
