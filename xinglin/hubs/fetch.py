"""Models and data sets from Hugging Face and ModelScope: what is read of them, and where it lies then.

Usage: from xinglin.hubs.fetch import fetch_data, fetch_model
"""

from pathlib import Path

from xinglin.hubs.faults import one_line
from xinglin.hubs.huggingface import huggingface_file, huggingface_model
from xinglin.hubs.modelscope import modelscope_file, modelscope_model
from xinglin.hubs.settings import Base, Source

MAIN = (None, "master", "main")


def fetch_model(base: Base) -> Path:
    """Return the folder of a hub's model in the cache of the hub's client; what is there and whole is not fetched again."""
    revision = named(base.revision)
    what = f"base.model: {base.model}: cannot fetch {at(revision)}"
    fetched = huggingface_model if base.source == "huggingface" else modelscope_model
    with one_line("base", what, base.source, "bring the folder by hand and set base.source: path, base.path: FOLDER"):
        return by_home(fetched(base.model or "", revision))


def fetch_data(source: Source, place: str) -> Path:
    """Return the file of a hub's data set, fetched unless it is here and whole; `place` is where params.yaml names it."""
    dataset, file, revision = source.dataset or "", source.file or "", named(source.revision)
    what = f"{place}.dataset: {dataset}: cannot fetch {file} at {at(revision)}"
    fetched = huggingface_file if source.source == "huggingface" else modelscope_file
    with one_line(place, what, source.source, f"bring the file by hand and set {place}.source: path, {place}.path: FILE"):
        return fetched(dataset, file, revision)


def named(revision: str | None) -> str | None:
    """Return None for the main branch, whose name differs from hub to hub."""
    return None if revision in MAIN else revision


def at(revision: str | None) -> str:
    return f"revision {revision}" if revision else "its main branch"


def by_home(folder: Path) -> Path:
    """Return `folder` by the home folder's own name, where a client has followed a link to it."""
    home, real = Path.home(), Path.home().resolve()
    return home / folder.relative_to(real) if folder.is_relative_to(real) else folder
