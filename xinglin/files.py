"""Files: written whole or not at all, read with an error that says the cure; fingerprints; folders for unfinished work."""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from xinglin.cli import CommandError

KEPT = 2  # folders of unfinished work for each stage: the present one, and the one before, should its settings come back


def work_root(here: Path) -> Path:
    """Return the folder of unfinished work, outside DVC's outs, which it deletes before each run.

    The copies in which DVC runs experiments, below .dvc/tmp, have the checkout's, so that a killed one goes on there too.
    """
    checkout = next((folder.parent for folder in here.parents if folder.name == ".dvc"), None)
    return (checkout or Path()) / ".work"


WORK = work_root(Path.cwd())
SHARED = ("adapter", "predictions")  # what takes hours; the rest may name files of the copy that it stands in


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` for a file or folder, and rename it to `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old.part")
    remove(temporary)
    try:
        yield temporary
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
        raise CommandError(f"{path}: no such file: run 'dvc repro' to make it")
    except ValueError as error:
        raise CommandError(f"{path}: not JSON: {error}")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, Chinese left readable."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read_jsonl(path: Path) -> list[dict]:
    """Return the rows of a JSON Lines file."""
    if not path.is_file():
        raise CommandError(f"{path}: no such file: run 'dvc repro' to make it")
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write one JSON object a line."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
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
    """Return `.work/STAGE/KEY`, where a killed run left what it had done; of other keys the latest and those in use stay."""
    folder = (WORK if stage in SHARED else Path(".work")) / stage / key
    folder.mkdir(parents=True, exist_ok=True)
    owner(folder).write_text(str(os.getpid()))
    others = sorted(
        (other for other in folder.parent.iterdir() if other.is_dir() and other != folder),
        key=lambda other: -other.stat().st_mtime,
    )
    for stale in others[KEPT - 1 :]:
        if not in_use(stale):
            drop_work(stale)
    return folder


def drop_work(folder: Path) -> None:
    """Delete a folder of unfinished work that has served its purpose."""
    remove(folder)
    remove(owner(folder))


def owner(folder: Path) -> Path:
    """Return the file that names the process which asked for a folder of unfinished work."""
    return folder.with_name(f"{folder.name}.pid")


def in_use(folder: Path) -> bool:
    """Say whether the process that asked for a folder of unfinished work still runs."""
    try:
        os.kill(int(owner(folder).read_text()), 0)
    except (OSError, ValueError):
        return False
    return True


def need_space(path: Path, bytes_needed: int, what: str) -> None:
    """Stop with one line if the disk that holds `path` has less than `bytes_needed` free."""
    free = shutil.disk_usage(path).free
    if free < bytes_needed:
        raise CommandError(f"{path}: {what} needs {bytes_needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free")


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    with atomic_path(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as output:
        writer = csv.writer(output, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
