"""raw: the source dialogues, byte for byte: the embedded sample, files, data sets of Hugging Face and ModelScope, or several.

Usage: stages/run raw --sample data/sample/dialogues.jsonl --out data/raw
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from xinglin.cli import CommandError, run_command, start
from xinglin.dialogues import licences
from xinglin.dialogues.kinds import suffixes
from xinglin.dialogues.sources import SAMPLES_LICENCE, File, Part, Sources, data_files, own_parts, parts_in, stem, write_sources
from xinglin.dialogues.sources import Source as Kept
from xinglin.files import atomic_path, file_sha256, need_space
from xinglin.hubs.fetch import fetch_data
from xinglin.hubs.settings import Raw, Source
from xinglin.params import ParamsFile


class Params(ParamsFile):
    raw: Raw


class Copy(NamedTuple):
    """A file of a source, and what it becomes in data/raw."""

    file: Path
    name: str
    part: Part | None


def files_of(source: Source, place: str, sample: Path) -> list[Path]:
    """Return the files of a source, fetched first if it is on a hub."""
    if source.source == "sample":
        return [sample]
    if source.source == "path":
        return data_files(source.path or [], place)
    return [fetch_data(source, place)]


def copies(source: Source, place: str, sample: Path, taken: set[str]) -> list[Copy]:
    """Return what becomes of a source's files: one is called as the source, several by their own names too."""
    files = files_of(source, place, sample)
    for file in files:
        if not file.is_file():
            raise CommandError(f"{place}.path: {file}: no such file")
        if not file.stat().st_size:
            raise CommandError(f"{place}.path: {file}: the file is empty")
    parts = [source.part] * len(files) if source.part else own_parts(files)
    names = [source.name if len(files) == 1 else f"{source.name}-{stem(file)}" for file in files]
    return [
        Copy(file, unique(name, "".join(suffixes(file)), taken), part)
        for file, name, part in zip(files, names, parts, strict=True)
    ]


def unique(name: str, ending: str, taken: set[str]) -> str:
    """Return a name that no other file has, and take it."""
    wanted, number = f"{name}{ending}", 1
    while wanted.lower() in taken:
        number += 1
        wanted = f"{name}-{number}{ending}"
    taken.add(wanted.lower())
    return wanted


def keep(source: Source, found: list[Copy], folder: Path) -> Kept:
    """Copy the files of a source into `folder` and return what sources.json says of it."""
    for copy in found:
        shutil.copyfile(copy.file, folder / copy.name)
    return Kept(
        name=source.name,
        source=source.source,
        dataset=source.dataset,
        licence=source.licence or (SAMPLES_LICENCE if source.source == "sample" else None),
        limit=source.limit,
        share=source.share,
        files=[File(file=copy.name, part=copy.part, sha256=file_sha256(folder / copy.name)) for copy in found],
    )


def aside(source: Source) -> Iterator[str]:
    """Yield what lies in a source's folders and is no data file, so that nobody thinks it was read."""
    for folder in (Path(path).expanduser() for path in source.path or []):
        if folder.is_dir():
            read = data_files([str(folder)], "")
            if rest := [entry.name for entry in sorted(folder.iterdir()) if entry not in read]:
                yield f"{folder}: not read, no data files of this folder itself: {', '.join(rest)}"


def undecided(source: Source, found: list[Copy]) -> Iterator[str]:
    """Yield which of several files are no part because their names say two."""
    for copy in found if len(found) > 1 and not source.part else ():
        if len(said := parts_in(copy.file)) > 1:
            yield (
                f"{copy.file}: its name says {' and '.join(sorted(said))}, so it is taken as no part and split: "
                f"to make it one, list it in raw.sources with 'part: {min(said)}'"
            )


def main() -> None:
    paths = start(__doc__, "sample", "out")
    params = Params.read()
    given, taken = params.raw.all_sources, set[str]()
    found = {place: copies(source, place, paths.sample, taken) for place, source in given.items()}
    size = sum(copy.file.stat().st_size for some in found.values() for copy in some)
    need_space(Path("."), 2 * size, "a copy of the source and its conversion")
    with atomic_path(paths.out) as folder:
        folder.mkdir()
        kept = [keep(source, found[place], folder) for place, source in given.items()]
        if params.raw.sources or params.raw.source != "sample" or params.raw.licence:
            write_sources(folder, Sources(seed=params.raw.seed, sources=kept))
        params.ensure_unchanged()
    for (place, source), one in zip(given.items(), kept, strict=True):
        for copy in found[place]:
            part = f", its own {copy.part} part" if copy.part else ""
            print(f"raw: {copy.file} -> {paths.out / copy.name}, {copy.file.stat().st_size / 1e6:.1f} MB{part}")
        for line in (*aside(source), *undecided(source, found[place])):
            print(f"raw: {line}", file=sys.stderr)
        if warning := licences.warning(one.licence):
            print(f"warning: {place}.licence: {one.licence}: {warning}", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
