"""A repository whose branch `rank` asks to be merged into main, with the runs of both as the pipeline would leave them."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from tests.conftest import ROOT, default_params, overlay
from xinglin.scoring.scores import RATES

NEEDED = (
    "Makefile",
    *(f"tools/{name}.py" for name in ("changes", "diff", "experiments", "revisions")),
    *(f"xinglin/{name}.py" for name in ("cli", "dialogues/rows", "files", "params", "processes")),
    *(f"xinglin/scoring/{name}.py" for name in ("intervals", "scores", "settings")),
)
GRAPH = {"stages": {name: {"cmd": "true", "outs": [f"data/{name}"]} for name in ("split", "predictions")}}
HOSTILE = (
    "痛 @everyone <script>alert(1)</script></details>\n\n| a | b |\n\n# 大字 ```\n<img src=x "
    "onerror=alert(1)> [这里](http://evil) \u202e" + "长" * 300
)


def run(folder: Path, *command: str, expect: int | None = 0, **environment: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_", "MAKE"))}
    who = {f"GIT_{role}_{key}": "test@localhost" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=folder, env=clean | who | {"PATH": path} | environment, capture_output=True, text=True)
    assert expect is None or done.returncode == expect, done.stdout + done.stderr
    return done


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def answers_csv(tuned: dict[str, float]) -> str:
    """Return plots/answers.csv in which the tuned model's answers have these scores, rouge-1 moved by chance alone."""
    noise = np.random.default_rng(len(tuned) + round(sum(tuned.values()))).normal(0, 3, len(tuned))
    rows = [f"{key},base,9,9,0,0,0\n" for key in tuned]
    rows += [f"{key},tuned,{20 + noise[at]:.4f},{score},0,0,{at % 2}\n" for at, (key, score) in enumerate(tuned.items())]
    return "".join(["id,model,rouge-1,rouge-l,truncated,empty,repetitive\n", *rows])


def metrics_json(answers: str, part: str = "test", **training) -> str:
    """Return the metrics.json that belongs to these answers."""
    found: dict = {"part": part, "training": {"steps": 110, "verdict": "converged"} | training}
    rows = list(csv.DictReader(answers.splitlines()))
    for model in ("base", "tuned"):
        mine = [row for row in rows if row["model"] == model]
        found[model] = {
            name: round(float(np.mean([float(row[name]) for row in mine])) * (100 if name in RATES else 1), 4)
            for name in rows[0]
            if name not in ("id", "model")
        }
    return json.dumps(found)


def predictions(keys: list[str], word: str) -> str:
    question = [{"role": "user", "content": HOSTILE}]
    return lines(
        [{"id": key, "messages": question, "reference": HOSTILE, "prediction": f"{word} {key} {HOSTILE}"} for key in keys]
    )


def split_rows(train: range, val: range, test: range) -> dict[str, str]:
    parts = {"train": train, "val": val, "test": test}
    rows = {
        part: [{"instruction": f"问题{i}", "output": "答", "line": line} for line, i in enumerate(which)]
        for part, which in parts.items()
    }
    return {f"data/split/{part}.jsonl": lines(some) for part, some in rows.items()}


BEFORE = {f"q{i:02}": 12 + i % 7 for i in range(40)}
AFTER = {key: score + (-2 if i % 8 == 0 else 1.5 + i % 3) for i, (key, score) in enumerate(BEFORE.items())}


def before_files() -> dict[str, str]:
    scores = answers_csv(BEFORE)
    return {
        "plots/answers.csv": scores,
        "metrics.json": metrics_json(scores),
        "plots/loss/training.csv": "step,epoch,loss\n5,1,5.1\n110,2,4.7\n",
        "plots/loss/validation.csv": "step,epoch,loss\n55,1,4.9\n110,2,4.8\n",
        "plots/data/turns.csv": "questions,train,val,test\n1,20,6,30\n2,10,4,10\n",
        "data/predictions/tuned.jsonl": predictions(list(BEFORE), "旧"),
        **split_rows(range(30), range(30, 40), range(40, 80)),
    }


def after_files() -> dict[str, str]:
    scores = answers_csv(AFTER)
    return {
        "plots/answers.csv": scores,
        "metrics.json": metrics_json(scores, verdict="cut short", reason="validation still fell | by 2 %"),
        "plots/loss/validation.csv": "step,epoch,loss\n55,1,4.85\n110,2,4.7\n",
        "data/predictions/tuned.jsonl": predictions(list(AFTER), "新"),
        **split_rows(range(1, 36), range(36, 40), range(40, 80)),
    }


def commit(folder: Path, files: dict[str, str], changes: dict | None = None) -> None:
    """Write files and parameters, and commit them by hand, as a pipeline run would leave them."""
    write(folder, files)
    YAML().dump(overlay(default_params(), changes or {}), folder / "params.yaml")
    run(folder, "dvc", "commit", "--quiet", "--force")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "A run")


def make_server(place: Path) -> None:
    """Put into `place` origin.git with the two branches, author, the checkout that made them, and store, their DVC remote."""
    author = place / "author"
    run(place, "git", "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    run(place, "git", "clone", "--quiet", "origin.git", "author")
    run(author, "git", "checkout", "--quiet", "-b", "main")
    for name in NEEDED:
        (author / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, author / name)
    write(author, {"requirements/review.txt": "", ".gitignore": "/data/\n/.venv-review/\n__pycache__/\n"})
    YAML().dump(GRAPH, author / "dvc.yaml")
    run(author, "dvc", "init", "--quiet")
    run(author, "dvc", "remote", "add", "--local", "--default", "store", str(place / "store"))
    commit(author, before_files())
    run(author, "git", "push", "--quiet", "origin", "main")
    run(author, "git", "checkout", "--quiet", "-b", "rank")
    commit(author, after_files(), {"adapter.lora_rank": 16, "converted.system": "a | `b` <i> @all", "merged.gate.gains": {}})
    run(author, "dvc", "push", "--quiet", "--all-commits")
    run(author, "git", "push", "--quiet", "origin", "rank")
