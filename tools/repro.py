"""Make what is not up to date by `dvc repro`, and see first whether raw.path and base.path hold what they held.

Usage: make repro

DVC watches these names, not what lies behind them.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from xinglin.bases.folder import sha256
from xinglin.cli import CommandError, run_command
from xinglin.dialogues.sources import NAME, data_files, own_parts, read_sources
from xinglin.files import read_json
from xinglin.hubs.settings import Base, Raw
from xinglin.params import ParamsFile

DVC = f"{sys.prefix}/bin/dvc"
RAW, BASE = Path("data/raw"), Path("models/base.json")


class Params(ParamsFile):
    raw: Raw
    base: Base


def other_files(raw: Raw) -> Iterator[bool]:
    """Yield for each source that lies here whether it has other files than were read: a new name for one changes nothing."""
    read = {source.name: source.files for source in read_sources(RAW).sources}
    for place, source in raw.all_sources.items():
        if source.source == "path" and source.name in read:
            try:
                files = data_files(source.path or [], place)
            except CommandError:  # it is not here now: what was read stands
                continue
            parts = [source.part] * len(files) if source.part else own_parts(files)
            now = {(sha256(file), part) for file, part in zip(files, parts, strict=True)}
            yield now != {(file.sha256, file.part) for file in read[source.name]}


def changed(params: Params) -> Iterator[str]:
    """Yield the stages whose source has another content than they read, as far as it is here."""
    if (RAW / NAME).is_file() and any(other_files(params.raw)):
        yield "raw"
    if params.base.source == "path" and BASE.is_file():
        folder = Path(params.base.path or "").expanduser()
        files = read_json(BASE)["files"]
        if folder.is_dir() and any(
            (folder / name).is_file() and sha256(folder / name) != file["sha256"] for name, file in files.items()
        ):
            yield "base"


def main() -> None:
    for stage in changed(Params.read()):
        print(f"repro: what {stage} read has changed", flush=True)
        if status := subprocess.run([DVC, "repro", "--force", "--single-item", stage]).returncode:
            sys.exit(status)
    os.execv(DVC, [DVC, "repro", *sys.argv[1:]])


if __name__ == "__main__":
    run_command(main)
