"""Try settings, each an experiment of DVC that is scored on the validation part; show which was best.

Usage: make sweep SET="adapter.learning_rate=1e-3,4e-3 adapter.lora_rank=4,8"             a grid of all combinations
       make sweep SET="adapter.learning_rate=5e-4:8e-3:log adapter.lora_rank=4,8,16" RUNS=6   a seeded random search
       make sweep SET=… RUNS=12 SAMPLER=tpe                                               each run learns from those before
       make best                                                                          the winner into params.yaml, then the test part

Optuna draws the settings (SEED); DVC queues them, runs JOBS at once and keeps params, metrics and model of each:
`dvc exp show`. A setting that has an experiment already is not run again, so an ended sweep can be taken up again.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tools.experiments import Experiment, find
from tools.params import read_params
from xinglin.cli import fail
from xinglin.scoring.intervals import interval
from xinglin.scoring.scores import MEANING, NAMES

DVC = f"{sys.prefix}/bin/dvc"
ENVIRONMENT = os.environ | {"PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}"}  # the queue's workers call dvc by its name
Space = dict[str, BaseDistribution]


def value(text: str) -> str | int | float | bool | None:
    """Return what YAML reads; a number like 1e-3 is one too."""
    try:
        return float(text) if "e" in text.lower() and text[0].isdigit() else YAML(typ="safe").load(text)
    except (ValueError, YAMLError):
        return text


def space(words: str) -> Space:
    """Return the distributions of `NAME=a,b,c` (one of these), `NAME=low:high` or `NAME=low:high:log` (between these)."""
    found: Space = {}
    for word in words.split():
        name, _, given = word.partition("=")
        bounds = given.split(":")
        if not given or len(bounds) > 3 or (len(bounds) == 3 and bounds[2] != "log"):
            fail(f"SET={word}: expected NAME=a,b,c or NAME=low:high or NAME=low:high:log", 2)
        if len(bounds) == 1:
            found[name] = CategoricalDistribution([value(choice) for choice in given.split(",")])
            continue
        low, high = (value(bound) for bound in bounds[:2])
        if not (isinstance(low, int | float) and isinstance(high, int | float) and low < high):
            fail(f"SET={word}: expected two numbers, the lower one first", 2)
        whole, log = isinstance(low, int) and isinstance(high, int), len(bounds) == 3
        found[name] = IntDistribution(int(low), int(high), log) if whole else FloatDistribution(low, high, log)
    if not found:
        fail('SET=: what is to be tried? SET="adapter.learning_rate=1e-3,4e-3 adapter.lora_rank=4,8"', 2)
    return found


def sampler(name: str, known: Space, seed: int) -> optuna.samplers.BaseSampler:
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    between = [key for key, given in known.items() if not isinstance(given, CategoricalDistribution)]
    if between:
        fail(f"SET={between[0]}=low:high: a grid needs values, a,b,c; or give RUNS= for a random search", 2)
    return optuna.samplers.GridSampler({key: given.choices for key, given in known.items()}, seed=seed)  # type: ignore[attr-defined]


def name_of(settings: dict) -> str:
    """Return the same name for the same settings, so that none is run twice."""
    return f"sweep-{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]}"


def written(given: object) -> str:
    return given if isinstance(given, str) else json.dumps(given)


def run(settings: dict, *options: str) -> None:
    """Have DVC run the pipeline up to the metrics with these settings, on the validation part."""
    changes = [word for key, given in {**settings, "predictions.part": "val"}.items() for word in ("-S", f"{key}={written(given)}")]
    if subprocess.run([DVC, "exp", "run", *options, "--name", name_of(settings), *changes, "metrics"], env=ENVIRONMENT).returncode:
        print(f"sweep: {name_of(settings)} did not end: {settings}", file=sys.stderr)


def waiting() -> set[str]:
    """Return the names of what a sweep that was stopped left in DVC's queue; what ended is told by its experiment, or may be tried again."""
    status = subprocess.run([DVC, "queue", "status"], capture_output=True, text=True).stdout
    return set(re.findall(r"\b(sweep-[0-9a-f]{8})\b.*\b(?:Queued|Running)\s*$", status, re.MULTILINE))


def search(known: Space, args: argparse.Namespace) -> None:
    """Draw `args.runs` settings and run them: all in DVC's queue, or, where each learns from the last, one by one."""
    study = optuna.create_study(direction="maximize", sampler=sampler(args.sampler, known, args.seed))
    done, drawn = {one.name for one in find("sweep-")} | waiting(), 0
    while drawn < args.runs:
        trial = study.ask(known)
        drawn += 1
        if name_of(trial.params) not in done:
            run(trial.params, *(("--temp",) if args.sampler == "tpe" else ("--queue",)))
            done.add(name_of(trial.params))
        if args.sampler == "tpe":
            one = next((one for one in find("sweep-") if one.name == name_of(trial.params)), None)
            study.tell(trial, one.metrics["tuned"][args.metric] if one else None, state=None if one else optuna.trial.TrialState.FAIL)
    if args.sampler != "tpe":
        subprocess.run([DVC, "exp", "run", "--run-all", "--jobs", str(args.jobs)], env=ENVIRONMENT)


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
    differences = np.array([[best.answers[key][metric] - one.answers[key][metric]] for key in best.answers if key in one.answers])
    if not len(differences):
        return "other answers"
    span = interval(differences, read_params().metrics)[0]
    return f"{differences.mean():.2f} [{span['low']:.2f}, {span['high']:.2f}]" + (" noise" if span["low"] <= 0 <= span["high"] else "")


def ranked(metric: str) -> list[Experiment]:
    """Return the sweep's experiments on this commit, the best first; stop if `metric` is no score with intervals, or one of them lacks it."""
    names = NAMES if read_params().metrics.embedding_model is None else (*NAMES, MEANING)
    if metric not in names:
        fail(f"METRIC={metric}: no such score, expected one of {', '.join(names)}", 2)
    found = [one for one in find("sweep-") if one.metrics["part"] == "val"]
    if lacking := [one.name for one in found if metric not in one.metrics["intervals"]["gain"]]:
        fail(f"METRIC={metric}: {lacking[0]} ran without it, expected a score that every run has", 2)
    return sorted(found, key=lambda one: -one.metrics["tuned"][metric])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--sampler", choices=("grid", "random", "tpe"))
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--metric", default="rouge-l")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = space(args.set)
    args.sampler = args.sampler or ("random" if args.runs else "grid")
    if args.sampler == "grid":
        args.runs = len(sampler("grid", known, args.seed)._all_grids)  # type: ignore[attr-defined]
    elif not args.runs:
        fail("RUNS=: how many settings are to be tried?", 2)
    if not Path("dvc.lock").exists():
        fail("dvc.lock: no such file: run 'dvc repro' once before a sweep, so that its runs share what does not change")
    ranked(args.metric)  # so that a wrong METRIC ends it here, not after the trainings
    search(known, args)
    found = ranked(args.metric)
    if not found:
        fail("sweep: no run came to its end: 'dvc queue logs NAME' has the reason")
    print(show(found, args.metric))


if __name__ == "__main__":
    main()
