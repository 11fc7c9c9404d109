"""What a revision holds: parameters, scores and curves by git; rows and answers by DVC, from its cache or a remote."""

import csv
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from xinglin.cli import CommandError
from xinglin.dialogues.rows import row_id
from xinglin.scoring.scores import MODELS, RATES

PARTS = ("train", "val", "test")
Scores = dict[str, dict[str, float]]  # of one model: id of the question, metric, score


class Side(NamedTuple):
    """One of the two that are compared: its name, and its commit, None for the files that lie here."""

    name: str
    commit: str | None

    def in_git(self, path: str) -> bytes | None:
        """Return the content of a file that git keeps, None if it is not there."""
        if self.commit is None:
            return Path(path).read_bytes() if Path(path).is_file() else None
        shown = subprocess.run(["git", "show", f"{self.commit}:./{path}"], capture_output=True)
        return None if shown.returncode else shown.stdout

    def in_dvc(self, path: str) -> list[bytes] | None:
        """Return the lines of a file that DVC keeps, None if neither its cache nor a remote gives it."""
        try:
            return dvc_files(self.commit).read_bytes(path).splitlines()
        except Exception as error:  # each kind of remote raises its own, and a review goes on without
            print(f"{path} at {self.name}: {type(error).__name__}: {one_line(error)}", file=sys.stderr)
            return None

    def locked(self, path: str) -> dict[str, Any]:
        """Return what dvc.lock knows of an output: md5, size in bytes, number of files."""
        stages = (load_yaml(self, "dvc.lock").get("stages") or {}).values()
        return next((out for stage in stages for out in stage.get("outs", []) if out["path"] == path), {})


@cache
def dvc_files(commit: str | None):  # type: ignore[no-untyped-def]
    from dvc.api import DVCFileSystem  # type: ignore[import-untyped]  # takes a second to load

    return DVCFileSystem(rev=commit)


def revision(name: str) -> Side:
    command = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        raise CommandError(f"REV={name}: no such revision here, expected a branch, a tag or a commit", 2)
    return Side(name, found.stdout.strip())


def load_yaml(side: Side, path: str) -> dict:
    try:
        return YAML(typ="safe", pure=True).load(side.in_git(path) or b"") or {}
    except YAMLError as error:
        raise CommandError(f"{path} at {side.name}: not YAML: {one_line(error)}")


@cache
def load_metrics(side: Side) -> dict:
    text = side.in_git("metrics.json")
    if text is None:
        raise CommandError(f"{side.name}: no metrics.json there: run 'dvc repro' on it and commit what it made")
    try:
        found = orjson.loads(text)
        return found | {model: found[model] for model in MODELS}
    except (KeyError, TypeError, ValueError) as error:
        raise CommandError(f"metrics.json at {side.name}: not the scores of {' and '.join(MODELS)}: {error!r}")


def load_csv(side: Side, path: str) -> list[dict[str, str]]:
    """Return the rows of a table, none if it is not there."""
    return list(csv.DictReader((side.in_git(path) or b"").decode().splitlines()))


@cache
def load_answers(side: Side) -> dict[str, Scores]:
    """Return each model's scores, answer by answer, rates in percent; no answers if the file is not there."""
    found: dict[str, Scores] = {model: {} for model in MODELS}
    try:
        for row in load_csv(side, "plots/answers.csv"):
            place = found.setdefault(row.pop("model"), {}).setdefault(row.pop("id"), {})
            place |= {name: float(value) * (100 if name in RATES else 1) for name, value in row.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise CommandError(f"plots/answers.csv at {side.name}: not a table of id, model and scores: {error!r}")
    return found


def load_curve(side: Side, name: str) -> dict[int, float]:
    """Return the loss by step."""
    return {int(row["step"]): float(row["loss"]) for row in load_csv(side, f"plots/loss/{name}.csv")}


def hashes(side: Side) -> dict[str, Counter[str]] | None:
    """Return how often each row stands in each part, by the hash of its content."""
    found = {}
    for part in PARTS:
        lines = side.in_dvc(f"data/split/{part}.jsonl")
        if lines is None:
            return None
        found[part] = Counter(row_id(orjson.loads(line)) for line in lines)
    return found


def texts(side: Side, keys: set[str]) -> dict[str, dict] | None:
    """Return the rows of the tuned model's answers by id, None if any of `keys` is not among them."""
    rows = {row["id"]: row for row in map(orjson.loads, side.in_dvc("data/predictions/tuned.jsonl") or [])}
    return rows if keys <= rows.keys() else None


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
