"""Check a base before it stands in params.yaml: its files, its tokenizer in both environments, the template's token ids.

Usage: make base-check MODEL=FOLDER
       (or a model of a hub: MODEL=Qwen/Qwen3-4B HUB=huggingface; TEMPLATE=… for another template)
"""

import os
import sys
import tempfile
from pathlib import Path

from tools.all_params import read_params
from xinglin.bases.check import Asked, file_problems, wanted
from xinglin.bases.proof import proof, summary
from xinglin.bases.record import locate, refuse
from xinglin.cli import CommandError, run_command
from xinglin.hubs.settings import Base


def named(model: str, known: Base, hub: str) -> Base:
    """Return the section `base` of params.yaml for a folder, or for a model of a hub."""
    if Path(model).expanduser().is_dir():
        return known.model_copy(update={"source": "path", "path": model, "model": None})
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise CommandError(f"MODEL={model}: no such folder, and no name of a hub's model such as Qwen/Qwen3-4B", 2)
    source = hub or (known.source if known.source in ("modelscope", "huggingface") else "modelscope")
    if source not in ("modelscope", "huggingface"):
        raise CommandError(f"HUB={source}: expected modelscope or huggingface", 2)
    return known.model_copy(update={"source": source, "path": None, "model": model, "revision": known.revision})


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else ""
    params = read_params()
    if not model:
        raise CommandError("MODEL=: which base? MODEL=FOLDER or MODEL=Qwen/Qwen3-4B", 2)
    want = wanted(Asked.read())
    if template := os.environ.get("TEMPLATE"):
        want = want._replace(template=template)
    folder = locate(named(model, params.base, os.environ.get("HUB", "")), Path("models/tiny"))
    refuse(model, file_problems(folder, want))
    with tempfile.TemporaryDirectory() as temporary:
        problems, seen = proof(folder, want, Path(temporary))
    refuse(model, problems)
    print(f"ok: {model}: {summary(seen)}")


if __name__ == "__main__":
    run_command(main)
