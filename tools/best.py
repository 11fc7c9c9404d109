"""Put the settings of the sweep's best experiment into params.yaml and score them, once, on the test part.

Usage: make best [METRIC=rouge-l]        (the experiments of this commit, chosen by the validation part)
"""

import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from tools.all_params import read_params
from tools.experiments import flat
from tools.profile import PARAMS, editor
from tools.sweep import DVC, ranked, show
from xinglin.cli import CommandError, run_command
from xinglin.files import atomic_path


def apply(settings: dict, file: Path) -> dict:
    """Set the winner's parameters in `file`, its comments kept; return what changed. The part stays the test part."""
    yaml = editor()
    params = yaml.load(file)
    now = flat(YAML(typ="safe").load(file))
    changed = {key: value for key, value in settings.items() if key != "predictions.part" and now.get(key) != value}
    for key, value in changed.items():
        *sections, last = key.split(".")
        block = params
        for section in sections:
            block = block[section]
        block[last] = value
    with atomic_path(file) as new:
        yaml.dump(params, new)
        read_params(new)
    return changed


def bring_back(name: str) -> bool:
    """Have DVC bring back an experiment, its model from the cache, but never params.yaml; return whether it came."""
    before = PARAMS.read_bytes()
    try:
        return not subprocess.run([DVC, "exp", "apply", "--quiet", name]).returncode
    finally:
        new = PARAMS.with_name(f".{PARAMS.name}.part")
        new.write_bytes(before)
        new.replace(PARAMS)


def main() -> None:
    metric = sys.argv[1] if len(sys.argv) > 1 and sys.argv[1] else "rouge-l"
    found = ranked(metric)
    if not found:
        raise CommandError(
            "best: no experiment of a sweep on this commit: run 'make sweep SET=…' first "
            "(results belong to the commit they ran on)"
        )
    print(show(found, metric))
    if not bring_back(found[0].name):
        sys.exit(1)
    changed = apply(found[0].settings, PARAMS)
    print(
        f"best: {found[0].name}: " + (", ".join(f"{k}={v}" for k, v in changed.items()) or "params.yaml holds it already"),
        flush=True,
    )
    sys.exit(subprocess.run([DVC, "repro"]).returncode)


if __name__ == "__main__":
    run_command(main)
