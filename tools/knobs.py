"""What runs again: for every parameter and every module, the stages that depend on it, as Markdown.

Usage: python -m tools.knobs        (docs/knobs.md is its output; a test compares them)
"""

from collections import defaultdict
from pathlib import Path

from ruamel.yaml import YAML

from xinglin.cli import run_command

NOTHING = "none"


def load(file: str) -> dict:
    return dict(YAML(typ="safe").load(Path(file)))


def stages() -> dict[str, dict]:
    """Return the stages of the pipeline, then those of the evaluations."""
    return load("dvc.yaml")["stages"] | load("evaluations/dvc.yaml")["stages"]


def keys() -> list[str]:
    """Return every parameter as section.key."""
    found = []
    for section, values in load("params.yaml").items():
        found += [f"{section}.{key}" for key in values] if isinstance(values, dict) else [section]
    return found


def covers(known: str, key: str) -> bool:
    """Say whether a change of `key` changes `known`: one of the two is, or lies in, the other."""
    return f"{key}.".startswith(f"{known}.") or f"{known}.".startswith(f"{key}.")


def by_parameter() -> dict[str, list[str]]:
    """Return the stages that each parameter makes stale."""
    graph = stages()
    return {
        key: [name for name, stage in graph.items() if any(covers(known, key) for known in stage.get("params", []))]
        for key in keys()
    }


def by_module() -> dict[str, list[str]]:
    """Return the stages that each module makes stale."""
    graph = stages()
    rooms = ("xinglin", "stages", "evaluations", "tools", "app")
    files = sorted(str(f) for room in rooms for f in Path(room).rglob("*.py") if "node_modules" not in f.parts)
    return {file: [name for name, stage in graph.items() if file in stage["deps"]] for file in files}


def table(title: str, found: dict[str, list[str]]) -> list[str]:
    """Return rows of what has the same effect, what changes nothing last."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name, stale in found.items():
        alike[", ".join(f"`{stage}`" for stage in stale) or NOTHING].append(f"`{name}`")
    rows = sorted(alike.items(), key=lambda row: row[0] == NOTHING)
    head = [f"| {title} | runs again, and what follows from it if its output changed |", "|---|---|"]
    return head + [f"| {', '.join(names)} | {stale} |" for stale, names in rows]


def main() -> None:
    lines = ["# What runs again", "", "Written by `python -m tools.knobs`, held by a test.", ""]
    print("\n".join([*lines, *table("parameter", by_parameter()), "", *table("module", by_module())]))


if __name__ == "__main__":
    run_command(main)
