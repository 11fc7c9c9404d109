"""Which files data/raw holds, and what is made of each source: sources.json, which only the embedded sample goes without."""

import re
from pathlib import Path
from typing import Literal

from xinglin.cli import CommandError
from xinglin.dialogues.kinds import KINDS, kind_of, suffixes
from xinglin.files import read_json, write_json
from xinglin.params import Section

NAME = "sources.json"
SAMPLES_LICENCE = "Apache-2.0"
Part = Literal["train", "val", "test"]
PARTS: dict[str, Part] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    "test": "test",
}
WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")  # of a name: my_train, cMedQA2_train, test-v2, train-00000-of-00002
# What tells of a data set and lies beside its files.
ABOUT = re.compile(
    r"(?:readme|licen[cs]e|citation|dataset[_-]?infos?|dataset_dict|state|croissant|(?:.*[_.-])?(?:config|configuration|metadata))\.json[^.]*"
    r"|readme\..*",
    re.IGNORECASE,
)


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
    if not all(path.strip() for path in paths):
        raise CommandError(f"{place}.path: it is empty (''): name a file or a folder")
    found = []
    for path in (Path(path).expanduser() for path in paths):
        if path.is_dir():
            if not (files := [file for file in sorted(path.iterdir()) if is_data(file)]):
                below = sorted({str(file.parent) for depth in ("*/*", "*/*/*") for file in path.glob(depth) if is_data(file)})
                cure = f"; there are some in {', '.join(below[:5])}: name one of these" if below else ""
                raise CommandError(
                    f"{place}.path: {path}: no data file in this folder, expected one of {', '.join(KINDS)}{cure}"
                )
            found += files
        elif path.is_file():
            found.append(path)
        else:
            raise CommandError(f"{place}.path: {path}: no such file or folder: bring it there, or name another")
    return found


def is_data(file: Path) -> bool:
    """Say whether a file of a folder holds records, by its name."""
    return file.is_file() and not file.name.startswith(".") and bool(kind_of(file)[0]) and not ABOUT.fullmatch(file.name)


def own_parts(files: list[Path]) -> list[Part | None]:
    """Return which of several files are train, val or test by their names; one file alone is none: it is to be split."""
    if len(files) < 2:
        return [None] * len(files)
    return [next(iter(said)) if len(said := parts_in(file)) == 1 else None for file in files]


def parts_in(file: Path) -> set[Part]:
    """Return the parts that the words of a file's name are."""
    return {PARTS[word.lower()] for word in WORDS.findall(stem(file)) if word.lower() in PARTS}


def stem(file: Path) -> str:
    """Return the name of a file without what tells its kind and packing."""
    return file.name[: -len("".join(suffixes(file)))]
