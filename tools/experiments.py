"""The experiments of DVC on this commit: settings, metrics and the scores of each answer, as git keeps them."""

import csv
import io
import json
import subprocess
from typing import Any, NamedTuple

from ruamel.yaml import YAML


class Experiment(NamedTuple):
    """One `dvc exp run`: its name, params ("section.key": value), metrics.json, and the tuned model's scores by answer."""

    name: str
    settings: dict[str, Any]
    metrics: dict
    answers: dict[str, dict[str, float]]


def git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout


def flat(values: dict, place: str = "") -> dict[str, Any]:
    """Return nested values under dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{place}{key}.") if isinstance(value, dict) and value else {f"{place}{key}": value}
    return found


def find(prefix: str) -> list[Experiment]:
    """Return the experiments based on the current commit whose names begin with `prefix`."""
    head = git("rev-parse", "HEAD").strip()
    refs = git("for-each-ref", "--format=%(refname)", f"refs/exps/{head[:2]}/{head[2:]}").splitlines()
    return [read(ref) for ref in refs if ref.rsplit("/", 1)[1].startswith(prefix)]


def read(ref: str) -> Experiment:
    rows = csv.DictReader(io.StringIO(git("show", f"{ref}:plots/answers.csv")))
    answers = {
        row["id"]: {key: float(row[key]) for key in row if key not in ("id", "model")}
        for row in rows
        if row["model"] == "tuned"
    }
    params = flat(YAML(typ="safe").load(git("show", f"{ref}:params.yaml")))
    return Experiment(ref.rsplit("/", 1)[1], params, json.loads(git("show", f"{ref}:metrics.json")), answers)
