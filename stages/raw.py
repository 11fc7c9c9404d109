"""raw: the source dialogues, byte for byte, from the embedded sample, a file, Hugging Face or ModelScope.

Usage: stages/run raw --sample data/sample/dialogues.jsonl --out data/raw
"""

import shutil
from pathlib import Path

from xinglin.cli import arguments, fail
from xinglin.dialogues.reading import suffixes
from xinglin.files import need_space, whole
from xinglin.hubs import fetch_data
from xinglin.params import Raw, read_params


def source(raw: Raw, sample: Path) -> Path:
    """Return the file that `raw` names, fetched first if it is on a hub."""
    if raw.source == "sample":
        return sample
    if raw.source == "path":
        return Path(raw.path or "").expanduser()
    return fetch_data(raw)


def main() -> None:
    paths = arguments(__doc__, "sample", "out")
    raw = read_params().raw
    file = source(raw, paths.sample)
    if not file.is_file():
        fail(f"raw.path: {file}: no such file")
    ending = "".join(suffixes(file))
    size = file.stat().st_size
    if not size:
        fail(f"raw.path: {file}: the file is empty")
    need_space(Path("."), 2 * size, "a copy of the source and its conversion")
    with whole(paths.out) as folder:
        folder.mkdir()
        shutil.copyfile(file, folder / f"dialogues{ending}")
    print(f"raw: {file} -> {paths.out}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
