"""Which files data/raw holds, and what is made of each source: sources.json, which only the embedded sample goes without."""

import re
from pathlib import Path
from typing import Literal

from xinglin.cli import CommandError
from xinglin.dialogues.reading import KINDS, kind_of, suffixes
from xinglin.files import read_json, write_json
from xinglin.params import Section

NAME = "sources.json"
SAMPLES_LICENCE = "Apache-2.0"
Part = Literal["train", "val", "test"]
PARTS: dict[str, Part] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
SHARD = re.compile(r"-\d+-of-\d+$")  # as Hugging Face names the pieces of a part: train-00000-of-00002.parquet


class File(Section):
    file: str  # its name in data/raw
    part: Part | None = None
    sha256: str = ""


class Source(Section):
    name: str
    source: str
    dataset: str | None = None
    licence: str | None = None
    limit: int | None = None
    share: float = 1.0
    files: list[File]


class Sources(Section):
    seed: int
    sources: list[Source]


def write_sources(folder: Path, sources: Sources) -> None:
    write_json(folder / NAME, sources.model_dump())


def read_sources(folder: Path) -> Sources:
    """Return what `folder` holds; without a sources.json it is the embedded sample."""
    if (folder / NAME).is_file():
        return Sources.model_validate(read_json(folder / NAME))
    file = next(iter(sorted(folder.glob("dialogues.*"))), None)
    if file is None:
        raise CommandError(f"{folder}: no dialogues: run 'dvc repro raw' to fetch them")
    sample = Source(name="dialogues", source="sample", licence=SAMPLES_LICENCE, files=[File(file=file.name)])
    return Sources(seed=0, sources=[sample])


def data_files(paths: list[str], place: str) -> list[Path]:
    """Return the files that `paths` name: files as they are, folders as the data files in them, in the order of their names."""
    found = []
    for path in (Path(path).expanduser() for path in paths):
        if path.is_dir():
            inside = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
            if not (files := [file for file in inside if kind_of(file)[0]]):
                raise CommandError(f"{place}.path: {path}: no data file in this folder, expected one of {', '.join(KINDS)}")
            found += files
        elif path.is_file():
            found.append(path)
        else:
            raise CommandError(f"{place}.path: {path}: no such file or folder: bring it there, or name another")
    return found


def own_parts(files: list[Path]) -> list[Part | None]:
    """Return which of several files are train, val or test by their names; one file alone is none: it is to be split."""
    if len(files) < 2:
        return [None] * len(files)
    return [PARTS.get(SHARD.sub("", stem(file).lower())) for file in files]


def stem(file: Path) -> str:
    """Return the name of a file without what tells its kind and packing."""
    return file.name[: -len("".join(suffixes(file)))]
