"""raw: the source dialogues, byte for byte, from the embedded sample, a file, Hugging Face or ModelScope.

Usage: stages/run raw --sample data/sample/dialogues.jsonl --out data/raw
"""

import shutil
from pathlib import Path

from xinglin.cli import CommandError, run_command, start
from xinglin.dialogues.reading import suffixes
from xinglin.files import atomic_path, need_space
from xinglin.hubs.fetch import fetch_data
from xinglin.hubs.settings import Raw
from xinglin.params import ParamsFile


class Params(ParamsFile):
    raw: Raw


def source(raw: Raw, sample: Path) -> Path:
    """Return the file that `raw` names, fetched first if it is on a hub."""
    if raw.source == "sample":
        return sample
    if raw.source == "path":
        return Path(raw.path or "").expanduser()
    return fetch_data(raw)


def main() -> None:
    paths = start(__doc__, "sample", "out")
    params = Params.read()
    raw = params.raw
    file = source(raw, paths.sample)
    if not file.is_file():
        raise CommandError(f"raw.path: {file}: no such file")
    ending = "".join(suffixes(file))
    size = file.stat().st_size
    if not size:
        raise CommandError(f"raw.path: {file}: the file is empty")
    need_space(Path("."), 2 * size, "a copy of the source and its conversion")
    with atomic_path(paths.out) as folder:
        folder.mkdir()
        shutil.copyfile(file, folder / f"dialogues{ending}")
        params.ensure_unchanged()
    print(f"raw: {file} -> {paths.out}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_command(main)
