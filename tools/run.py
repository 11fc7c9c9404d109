"""Run a stage as dvc.yaml does: all of params.yaml is checked first, so that a typo costs seconds, not the hours before it.

Usage: python -m tools.run stages.raw --sample data/sample/dialogues.jsonl --out data/raw        (stages/run finds the Python)
"""

import sys
from importlib import import_module
from pathlib import Path

from xinglin.cli import run_command
from xinglin.files import WORK, file_sha256

PARAMS, CHECKED = Path("params.yaml"), WORK / "params.sha256"


def check_params() -> None:
    """Check every section, unless this very file was checked before: what the sections stand beside takes seconds to load."""
    if PARAMS.is_file() and CHECKED.is_file() and CHECKED.read_text() == file_sha256(PARAMS):
        return
    from tools.all_params import read_params

    read_params()
    WORK.mkdir(exist_ok=True)
    CHECKED.write_text(file_sha256(PARAMS))


def main() -> None:
    module = sys.argv.pop(1)
    check_params()
    import_module(module).main()


if __name__ == "__main__":
    run_command(main)
