"""base: where the base model's files are, with their revision and checksums; the weights stay there.

Usage: stages/run base --tiny models/tiny --out models/base.json
"""

import os
from pathlib import Path

from tqdm import tqdm

from stages.common import arguments, fail, file_sha256, read_json, write_json
from stages.params import Base, read_params

LOADED = (".json", ".safetensors", ".jinja", ".txt", ".model")  # what transformers and vLLM read


def locate(base: Base, tiny: Path) -> Path:
    """Return the folder that `base` names, downloaded first if it is on ModelScope."""
    if base.source == "tiny":
        return tiny
    if base.source == "path":
        return Path(base.path or "").expanduser()
    return download(base)


def download(base: Base) -> Path:
    """Fetch a model into ModelScope's own cache; files already there are not fetched again."""
    from modelscope import snapshot_download

    try:
        return Path(snapshot_download(base.model, revision=base.revision))
    except Exception as error:  # the SDK raises many kinds; each means that the model did not come
        reason = " ".join(str(error).split()) or type(error).__name__
        fail(
            f"base.model: {base.model}: cannot fetch revision {base.revision} from ModelScope: {reason[:300]}; "
            "run again to go on, or bring the folder by hand and set base.source: path, base.path: FOLDER"
        )


def checked(folder: Path) -> list[Path]:
    """Return the model's files, or stop and say which of the needed ones is missing."""
    if not folder.is_dir():
        fail(f"base.path: {folder}: no such folder")
    for needed in ("config.json", "tokenizer.json"):
        if not (folder / needed).is_file():
            fail(f"base.path: {folder}: no {needed}, so this is not a model that transformers can load")
    index = folder / "model.safetensors.index.json"
    shards = set(read_json(index)["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    missing = sorted(shard for shard in shards if not (folder / shard).is_file())
    if missing:
        fail(f"base.path: {folder}: no {missing[0]}: the download is incomplete, or the weights are not safetensors")
    return sorted(file for file in folder.iterdir() if file.suffix in LOADED and file.is_file())


def portable(path: Path) -> str:
    """Return `path` with the home folder as `~`, so that two users of one cache get the same base.json."""
    home = os.path.expanduser("~")
    return str(path).replace(home, "~", 1) if str(path).startswith(home + os.sep) else str(path)


def record(base: Base, folder: Path) -> dict:
    """Return what base.json says of the model in `folder`."""
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
        for file in tqdm(checked(folder), desc="checksums", unit="file", disable=None)
    }
    return {"model": base.model or str(folder), "revision": base.revision, "path": portable(folder), "files": files}


def main() -> None:
    paths = arguments(__doc__, "tiny", "out")
    base = read_params().base
    folder = locate(base, paths.tiny)
    found = record(base, folder)
    write_json(paths.out, found)
    print(f"base: {folder}, {sum(f['bytes'] for f in found['files'].values()) / 1e6:.1f} MB in {len(found['files'])} files")


if __name__ == "__main__":
    main()
