"""Hugging Face: each file is checked against the hub's checksum, and goes on where an earlier download stopped."""

import errno
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import OfflineModeIsEnabled, RemoteEntryNotFoundError, RevisionResolutionError
from huggingface_hub.file_download import are_symlinks_supported, get_hf_file_metadata, http_get, repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import WeakFileLock, build_hf_headers, filter_repo_objects, logging

from xinglin.bases.folder import LOADED
from xinglin.cli import bearer
from xinglin.files import file_sha256, remove
from xinglin.hubs.faults import Changed, among, from_cache, patiently, root
from xinglin.hubs.settings import READ

UNREACHABLE = (httpx.TransportError, OfflineModeIsEnabled, RevisionResolutionError)
SIDE_BY_SIDE = 4  # downloads at once
POINTER = b"version https://git-lfs"
CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's SHA-1 of a file, or the SHA-256 of one in LFS


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
    failed = threading.Event()
    with ThreadPool(SIDE_BY_SIDE) as pool:  # its threads end with this process, whatever they wait for
        try:
            for _ in pool.imap_unordered(lambda file: fetch(file, failed.is_set), lacking):
                pass
        except BaseException:
            failed.set()
            raise


def fetch(file: HubFile, given_up: Callable[[], bool]) -> None:
    """Put a file that came whole into the cache, behind a link where the disk has links, as the client does."""
    with WeakFileLock(file.lock):
        if file.right(file.pointer):  # another process was faster
            return
        remove(file.pointer)
        came = file.blob if file.right(file.blob) else whole_part(file, given_up)
        if are_symlinks_supported(constants.HF_HUB_CACHE):
            came.replace(file.blob)
            file.pointer.symlink_to(os.path.relpath(file.blob, file.pointer.parent))
        else:
            came.replace(file.pointer)


def whole_part(file: HubFile, given_up: Callable[[], bool]) -> Path:
    """Download a file's part, from where an earlier run stopped, and return it; if it is not the file then, once more."""
    for _ in range(2):
        patiently(lambda: download(file), file.reached, given_up)
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
