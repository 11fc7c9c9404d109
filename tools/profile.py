"""Lay a profile over params.yaml, its comments kept, so that the switch is a diff to review.

Usage: make profile NAME=deepseek-r1-1.5b
"""

import sys
from pathlib import Path

from ruamel.yaml import YAML

from tools.all_params import read_params
from xinglin.cli import CommandError, run_command
from xinglin.files import atomic_path
from xinglin.params import load, overlay

PROFILES = Path("profiles")
PARAMS = Path("params.yaml")


def editor() -> YAML:
    """Return a YAML that writes params.yaml back as it was but for the values that were set."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 200, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    return yaml


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    names = sorted(file.stem for file in PROFILES.glob("*.yaml"))
    if name not in names:
        raise CommandError(f"NAME={name}: no such profile, expected one of {', '.join(names)}", 2)
    yaml = editor()
    params = yaml.load(PARAMS)
    overlay(load(PROFILES / f"{name}.yaml"), params, "profile")
    with atomic_path(PARAMS) as new:
        yaml.dump(params, new)
        read_params(new)  # a profile that does not fit leaves params.yaml as it was
    print(f"profile: {name} laid over {PARAMS}: see 'git diff {PARAMS}', then run 'dvc repro'")


if __name__ == "__main__":
    run_command(main)
