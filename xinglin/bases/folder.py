"""The base as every stage loads it: the user's weights, unchanged since the stage base, beside the tokenizer proven there.

The user's own folder is never written to. A view of it is a folder of links, below .work, with our tokenizer files.
"""

import json
import os
import shutil
from pathlib import Path

from xinglin.cli import CommandError
from xinglin.files import WORK, atomic_path, file_sha256, fingerprint, read_json, work_folder, write_json

LOADED = (".json", ".safetensors", ".jinja", ".txt", ".model")  # what transformers and vLLM read
CHECKSUMS = WORK / "checksums.json"  # of files by name, size and time, so that no weights are read twice
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def is_linked(name: str) -> bool:
    """Say whether a base's file of that name is part of a view: its configurations and weights, not its tokenizer."""
    return name in ("config.json", "generation_config.json", "model.safetensors.index.json") or name.endswith(".safetensors")


def link_base(folder: Path, tokenizer: Path, view: Path) -> None:
    """Make the folder `view`: links to the base's configurations and weights, copies of our tokenizer's files."""
    view.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if is_linked(file.name):
            (view / file.name).symlink_to(file.resolve())
    for name in TOKENIZER:
        shutil.copyfile(tokenizer / name, view / name)


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file, from the last time that it was read if neither size nor time has changed."""
    known = read_json(CHECKSUMS) if CHECKSUMS.is_file() else {}
    state = file.stat()
    key = f"{file.resolve()} {state.st_size} {state.st_mtime_ns} {state.st_ino}"
    if key not in known:
        known |= {key: file_sha256(file)}
        CHECKSUMS.parent.mkdir(exist_ok=True)
        own = CHECKSUMS.with_suffix(f".{os.getpid()}")  # two stages may run at once
        own.write_text(json.dumps(known, indent=2), encoding="utf-8")
        own.replace(CHECKSUMS)
    return known[key]


def recorded(record: dict) -> Path:
    """Return the folder that `models/base.json` names, checked to be there still."""
    folder = Path(os.path.expanduser(record["path"]))
    if not (folder / "config.json").is_file():
        raise CommandError(f"{folder}: the base model of models/base.json is not there: run 'dvc repro --force base'")
    return folder


def open_base(record: dict, tokenizer: Path, dtype: str | None = None) -> Path:
    """Return a folder with the base that `models/base.json` records and the tokenizer of `tokenizer`, its files unchanged.

    `dtype`: what transformers loads its weights as, if not as they are stored.
    """
    folder = recorded(record)
    for name, known in record["files"].items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != known["bytes"] or sha256(file) != known["sha256"]:
            raise CommandError(
                f"{file}: changed since models/base.json was made: run 'dvc repro --force base', or put the file back"
            )
    view = work_folder("base", fingerprint(record["files"], tokenizer)) / (dtype or "model")
    if not view.is_dir():
        with atomic_path(view) as temporary:
            link_base(folder, tokenizer, temporary)
            if dtype:
                config = read_json(folder / "config.json") | {"dtype": dtype, "torch_dtype": dtype}
                (temporary / "config.json").unlink()
                write_json(temporary / "config.json", config)
    return view
