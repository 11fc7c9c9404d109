"""Files: written whole or not at all, read with an error that says the cure; fingerprints; folders for unfinished work."""

import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from xinglin.cli import fail

WORK = Path(".work")  # unfinished work, outside DVC's outs, which it deletes before each run
CHECKS: dict[str, Callable[[], None]] = {}  # what must hold before an output is put in its place, by name


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


def need_space(path: Path, bytes_needed: int, what: str) -> None:
    """Stop with one line if the disk that holds `path` has less than `bytes_needed` free."""
    free = shutil.disk_usage(path).free
    if free < bytes_needed:
        fail(f"{path}: {what} needs {bytes_needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free")


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    with whole(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as output:
        writer = csv.writer(output, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
