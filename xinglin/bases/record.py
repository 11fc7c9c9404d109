"""What models/base.json says of a base: where its files are, and their checksums; and the base proven as it is recorded."""

import os
from pathlib import Path

from tqdm import tqdm

from xinglin.bases.check import Asked, file_problems, wanted
from xinglin.bases.folder import LOADED, sha256
from xinglin.bases.proof import proof
from xinglin.cli import CommandError
from xinglin.hubs.fetch import fetch_model
from xinglin.hubs.settings import Base


def locate(base: Base, tiny: Path) -> Path:
    """Return the folder that `base` names, fetched first if it is on a hub."""
    if base.source == "tiny":
        return tiny
    if base.source == "path":
        return Path(base.path or "").expanduser()
    return fetch_model(base)


def portable(path: Path) -> str:
    """Return `path` with the home folder as `~`, so that two users of one cache get the same base.json."""
    home = os.path.expanduser("~")
    return str(path).replace(home, "~", 1) if str(path).startswith(home + os.sep) else str(path)


def record(base: Base, folder: Path) -> dict:
    """Return what base.json says of the model in `folder`."""
    files = sorted(file for file in folder.iterdir() if file.suffix in LOADED and file.is_file())
    found = {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in tqdm(files, desc="checksums", unit="file", disable=None)
    }
    return {
        "model": base.model or folder.name,
        "revision": base.revision if base.on_a_hub else None,
        "path": portable(folder),
        "files": found,
    }


def refuse(model: str, problems: list[str]) -> None:
    """End the program with a line for each problem, if there are any."""
    if problems:
        raise CommandError("\n".join(f"base: {model}: {problem}" for problem in problems))


def prove_base(base: Base, asked: Asked, tiny: Path, tokenizer: Path) -> tuple[dict, dict]:
    """Return what base.json says of the base, and what its proof saw; its tokenizer is written to the folder `tokenizer`."""
    folder, want = locate(base, tiny), wanted(asked)
    model = base.model or str(folder)
    refuse(model, file_problems(folder, want))
    found = record(base, folder)
    problems, seen = proof(folder, want, tokenizer)
    refuse(model, problems)
    return found, seen
