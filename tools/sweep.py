"""Try settings, each an experiment of DVC that is scored on the validation part; show which was best.

Usage: make sweep SET="adapter.learning_rate=1e-3,4e-3 adapter.lora_rank=4,8"   every combination
       make sweep SET="adapter.learning_rate=1e-3,2e-3,4e-3 adapter.lora_rank=4,8,16" RUNS=6   six of them, drawn by SEED
       make best                                                                the winner into params.yaml, then the test part

DVC queues the settings, runs JOBS at once and keeps params, metrics and model of each: `dvc exp show`. A setting that
has an experiment already is not run again, so an ended sweep can be taken up again.
"""

import argparse
import hashlib
import json
import os
import random
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tools.all_params import read_params
from tools.experiments import Experiment, find
from xinglin.cli import CommandError, run_command
from xinglin.scoring.intervals import interval
from xinglin.scoring.scores import MEANING, NAMES

DVC = f"{sys.prefix}/bin/dvc"
ENVIRONMENT = os.environ | {
    "PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}"
}  # the queue's workers call dvc by its name


def value(text: str) -> str | int | float | bool | None:
    """Return what YAML reads; a number like 1e-3 is one too."""
    try:
        return float(text) if "e" in text.lower() and text[0].isdigit() else YAML(typ="safe").load(text)
    except (ValueError, YAMLError):
        return text


def combinations(words: str) -> list[dict]:
    """Return the settings of `NAME=a,b,c NAME=d,e`: every combination of the values."""
    given = {}
    for word in words.split():
        name, _, values = word.partition("=")
        if not values or ":" in values:
            raise CommandError(f"SET={word}: expected NAME=a,b,c", 2)
        given[name] = [value(choice) for choice in values.split(",")]
    if not given:
        raise CommandError('SET=: what is to be tried? SET="adapter.learning_rate=1e-3,4e-3 adapter.lora_rank=4,8"', 2)
    return [dict(zip(given, chosen, strict=True)) for chosen in product(*given.values())]


def drawn(settings: list[dict], runs: int | None, seed: int) -> list[dict]:
    """Return `runs` of the settings, the same for the same seed; all where `runs` is None or more."""
    return settings if runs is None or runs >= len(settings) else random.Random(seed).sample(settings, runs)


def name_of(settings: dict) -> str:
    """Return the same name for the same settings, so that none is run twice."""
    return f"sweep-{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]}"


def written(given: object) -> str:
    return given if isinstance(given, str) else json.dumps(given)


def queue(settings: dict) -> None:
    """Have DVC queue the pipeline up to the metrics with these settings, on the validation part."""
    changes = [
        word for key, given in {**settings, "predictions.part": "val"}.items() for word in ("-S", f"{key}={written(given)}")
    ]
    if subprocess.run(
        [DVC, "exp", "run", "--queue", "--name", name_of(settings), *changes, "metrics"], env=ENVIRONMENT
    ).returncode:
        print(f"sweep: {name_of(settings)} was not queued: {settings}", file=sys.stderr)


def waiting() -> set[str]:
    """Return the names that a stopped sweep left in DVC's queue; what ended has its experiment, or may be tried again."""
    status = subprocess.run([DVC, "queue", "status"], capture_output=True, text=True).stdout
    return set(re.findall(r"\b(sweep-[0-9a-f]{8})\b.*\b(?:Queued|Running)\s*$", status, re.MULTILINE))


def search(settings: list[dict], jobs: int) -> None:
    """Run what has no experiment yet and waits for none."""
    known = {one.name for one in find("sweep-")} | waiting()
    for one in settings:
        if name_of(one) not in known:
            queue(one)
    subprocess.run([DVC, "exp", "run", "--run-all", "--jobs", str(jobs)], env=ENVIRONMENT)


def show(found: list[Experiment], metric: str) -> str:
    """Return the experiments as a table, the best first, each with the interval of how far it stands behind the best."""
    changed = sorted({key for one in found for key in one.settings if one.settings[key] != found[0].settings.get(key)})
    lines = [f"{'':16}{metric:>9}{'behind the best, 95 %':>26}{'gain, 95 %':>24}{'tokens':>10}  training      settings"]
    for one in found:
        gain = one.metrics["intervals"]["gain"][metric]
        span = f"{one.metrics['gain'][metric]:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]"
        settings = " ".join(f"{key}={one.settings[key]}" for key in changed)
        training = one.metrics["training"]
        lines.append(
            f"{one.name:16}{one.metrics['tuned'][metric]:9.2f}{behind(found[0], one, metric):>26}{span:>24}"
            f"{training['tokens']:10,}  {training['verdict']:12}  {settings}"
        )
    return "\n".join(lines)


def behind(best: Experiment, one: Experiment, metric: str) -> str:
    """Return the mean of best minus one over the same answers, with its interval; "noise" where that holds 0."""
    if one is best:
        return ""
    differences = np.array(
        [[best.answers[key][metric] - one.answers[key][metric]] for key in best.answers if key in one.answers]
    )
    if not len(differences):
        return "other answers"
    span = interval(differences, read_params().metrics)[0]
    return f"{differences.mean():.2f} [{span['low']:.2f}, {span['high']:.2f}]" + (
        " noise" if span["low"] <= 0 <= span["high"] else ""
    )


def ranked(metric: str) -> list[Experiment]:
    """Return this commit's sweep experiments, best first; stop if `metric` is no score with intervals, or one lacks it."""
    names = NAMES if read_params().metrics.embedding_model is None else (*NAMES, MEANING)
    if metric not in names:
        raise CommandError(f"METRIC={metric}: no such score, expected one of {', '.join(names)}", 2)
    found = [one for one in find("sweep-") if one.metrics["part"] == "val"]
    if lacking := [one.name for one in found if metric not in one.metrics["intervals"]["gain"]]:
        raise CommandError(f"METRIC={metric}: {lacking[0]} ran without it, expected a score that every run has", 2)
    return sorted(found, key=lambda one: -one.metrics["tuned"][metric])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--metric", default="rouge-l")
    args = parser.parse_args()
    settings = drawn(combinations(args.set), args.runs, args.seed)
    if not Path("dvc.lock").exists():
        raise CommandError(
            "dvc.lock: no such file: run 'dvc repro' once before a sweep, so that its runs share what does not change"
        )
    ranked(args.metric)  # so that a wrong METRIC ends it here, not after the trainings
    search(settings, args.jobs)
    found = ranked(args.metric)
    if not found:
        raise CommandError("sweep: no run came to its end: 'dvc queue logs NAME' has the reason")
    print(show(found, args.metric))


if __name__ == "__main__":
    run_command(main)
