"""raw: the source dialogues, byte for byte, from the embedded sample, a file or ModelScope.

Usage: stages/run raw --sample data/sample/dialogues.jsonl --out data/raw
"""

import shutil
from pathlib import Path

from stages.common import arguments, fail, need_space, whole, work_folder
from stages.params import Raw, read_params
from stages.reading import suffixes


def source(raw: Raw, sample: Path) -> Path:
    """Return the file that `raw` names, downloaded first if it is on ModelScope."""
    if raw.source == "sample":
        return sample
    if raw.source == "path":
        return Path(raw.path or "").expanduser()
    return download(raw)


def download(raw: Raw) -> Path:
    """Fetch the file of a ModelScope data set, checked against the hub's size and SHA-256.

    ModelScope's client retries a few times, goes on where an interrupted download stopped, and shows a progress bar.
    """
    from modelscope_hub import HubApi

    folder = work_folder("raw", f"{raw.dataset.replace('/', '--')}@{raw.revision}")
    try:
        hub = HubApi()
        listed = {file.path: file for file in hub.list_repo_files(raw.dataset, "dataset", revision=raw.revision)}
        if raw.file in listed:
            file = listed[raw.file]
            checks = {"file_size": file.size, "expected_sha256": file.sha256}
            return Path(hub.download_file(raw.dataset, "dataset", raw.file, revision=raw.revision, local_dir=folder, **checks))
        reason = f"the data set has no such file, but {', '.join(sorted(listed)[:8])}"
    except Exception as error:  # the client raises many kinds; each means that the file did not come
        reason = " ".join(str(error).split())[:300] or type(error).__name__
    fail(
        f"raw.dataset: {raw.dataset}: cannot fetch {raw.file} at {raw.revision} from ModelScope: {reason}; "
        "run again to go on, or bring the file by hand and set raw.source: path, raw.path: FILE"
    )


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
