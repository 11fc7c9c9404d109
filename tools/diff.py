"""Compare the parameters, scores, losses, rows and answers of two revisions, as Markdown for a review.

Usage: make diff REV=main        (python -m tools.diff REV [REV2] [--by rouge-l]; without REV2: the files that lie here)

Parameters, scores and curves are in git. Rows and answers are read by DVC, from its cache or a remote; where neither has
them, a line says so and the rest stands.
"""

import argparse
import csv
import html
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.common import fail
from stages.metrics import MODELS, interval
from stages.params import Metrics, read_params
from stages.scores import RATES
from tools.experiments import flat

PARTS = ("train", "val", "test")
EXAMPLES = 5  # answers that got better, and as many that got worse
SHOWN = 200  # characters of a text
POINTS = 20  # of a curve: more would not be legible
NONE = "–"
MARK = "<!-- tools.diff -->"  # by it the workflows find the comment that they wrote before


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
            print(f"{path} at {self.name}: {type(error).__name__}: {short(str(error))}", file=sys.stderr)
            return None

    def locked(self, path: str) -> dict[str, Any]:
        """Return what dvc.lock knows of an output: md5, size in bytes, number of files."""
        stages = (load_yaml(self, "dvc.lock").get("stages") or {}).values()
        return next((out for stage in stages for out in stage.get("outs", []) if out["path"] == path), {})


class Change(NamedTuple):
    """A score before and after, None where there is none, and the 95 % interval of the difference."""

    before: float | None
    after: float | None
    low: float | None = None
    high: float | None = None


Sides = tuple[Side, Side]  # before, after
Scores = dict[str, dict[str, float]]  # of one model: id of the question, metric, score


@cache
def dvc_files(commit: str | None):  # type: ignore[no-untyped-def]
    from dvc.api import DVCFileSystem  # type: ignore[import-untyped]  # takes a second to load

    return DVCFileSystem(rev=commit)


def revision(name: str) -> Side:
    command = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        fail(f"REV={name}: no such revision here, expected a branch, a tag or a commit", 2)
    return Side(name, found.stdout.strip())


def load_yaml(side: Side, path: str) -> dict:
    try:
        return YAML(typ="safe", pure=True).load(side.in_git(path) or b"") or {}
    except YAMLError as error:
        fail(f"{path} at {side.name}: not YAML: {short(str(error))}")


@cache
def load_metrics(side: Side) -> dict:
    text = side.in_git("metrics.json")
    if text is None:
        fail(f"{side.name}: no metrics.json there: run 'dvc repro' on it and commit what it made")
    try:
        found = orjson.loads(text)
        return found | {model: found[model] for model in MODELS}
    except (KeyError, TypeError, ValueError) as error:
        fail(f"metrics.json at {side.name}: not the scores of {' and '.join(MODELS)}: {error!r}")


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
        fail(f"plots/answers.csv at {side.name}: not a table of id, model and scores: {error!r}")
    return found


def load_curve(side: Side, name: str) -> dict[int, float]:
    """Return the loss by step."""
    return {int(row["step"]): float(row["loss"]) for row in load_csv(side, f"plots/loss/{name}.csv")}


def short(text: str) -> str:
    """Return a text in one line of SHOWN characters at the most, without those that nobody sees or that turn the line round."""
    text = "".join(filter(str.isprintable, " ".join(text.split())))
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def code(value: Any) -> str:
    """Return a value as a code span in a table: JSON, in which each backslash has its own, so that ours holds the | in."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = text[1:-1] if isinstance(value, str) and value else text
    return "`" + short(text).replace("`", "'").replace("|", "\\|") + "`"


def names(sides: Iterable[Side]) -> str:
    return " and ".join(code(side.name) for side in sides)


def quoted(text: str) -> str:
    """Return somebody's words as HTML that is text and nothing else.

    In <code> neither GitHub nor GitLab looks for mentions, references or links; the @ is parted from its name as well for
    what does, mail say.
    """
    return f"<code>{html.escape(short(text)).replace('@', '@&#8203;')}</code>"


def table(header: str, rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a Markdown table; in `header` the columns are parted by |, those that end with : are of numbers."""
    titles = header.split("|")
    rule = ["--:" if title.endswith(":") else "---" for title in titles]
    return [f"| {' | '.join(cells)} |" for cells in ([title.rstrip(":") for title in titles], rule, *rows)]


def changed(before: dict, after: dict) -> list[str]:
    """Return a table of the values that differ."""
    other = [name for name in before | after if (name in before, before.get(name)) != (name in after, after.get(name))]
    rows = ([code(name), *(code(values[name]) if name in values else NONE for values in (before, after))] for name in other)
    return table("|before|after", rows) if other else ["None changed."]


def unpaired(before: np.ndarray, after: np.ndarray, metrics: Metrics) -> list[dict[str, float]]:
    """Return the 95 % bootstrap interval of the difference of the columns' means, the rows of the two apart from each other."""
    draws = np.random.default_rng(metrics.seed)
    counts = [draws.multinomial(len(v), np.full(len(v), 1 / len(v)), size=metrics.bootstrap) for v in (before, after)]
    means = [count @ v / len(v) for count, v in zip(counts, (before, after), strict=True)]
    low, high = np.percentile(means[1] - means[0], [2.5, 97.5], axis=0)
    return [{"low": round(a, 4), "high": round(b, 4)} for a, b in zip(low.tolist(), high.tolist(), strict=True)]


def differences(before: Scores, after: Scores, metrics: Metrics) -> dict[str, Change]:
    """Return the change of each metric that both have: over the questions in common, or if there are none over all."""
    shared = sorted(before.keys() & after.keys())
    paired = len(shared) > 1  # one answer has no spread
    if not paired and min(len(before), len(after)) < 2:
        return {}
    kept = [[rows[key] for key in (shared if paired else rows)] for rows in (before, after)]
    names = [name for name in kept[1][0] if name in kept[0][0]]
    old, new = (np.array([[row[name] for name in names] for row in rows]) for rows in kept)
    bounds = interval(new - old, metrics) if paired else unpaired(old, new, metrics)
    means = zip(old.mean(0).tolist(), new.mean(0).tolist(), strict=True)
    return {name: Change(*mean, **bound) for name, mean, bound in zip(names, means, bounds, strict=True)}


def parts_answered(sides: Sides) -> list[str]:
    return [load_metrics(side).get("part", "test") for side in sides]


def compared(sides: Sides, model: str, metrics: Metrics) -> dict[str, Change]:
    """Return the change of every number of a model, from its single answers where these can be compared."""
    old, new = (load_metrics(side)[model] for side in sides)
    before, after = (load_answers(side)[model] for side in sides)
    found = differences(before, after, metrics) if len(set(parts_answered(sides))) == 1 else {}
    numbers = {name: value for name, value in new.items() if isinstance(value, int | float)}
    return {name: found.get(name, Change(old.get(name), value)) for name, value in numbers.items()}


def basis(sides: Sides) -> str:
    """Return what the intervals are taken from."""
    before, after = (load_answers(side)["tuned"] for side in sides)
    one, other = parts_answered(sides)
    if one != other:
        return f"Scores of the {one} part and of the {other} part are not comparable."
    if lacking := [side for side in sides if not load_answers(side)["tuned"]]:
        return f"No `plots/answers.csv` at {names(lacking)}: nothing says whether a difference is noise."
    shared = len(before.keys() & after.keys())
    if shared == len(before) == len(after):
        return f"Paired bootstrap over the same {shared} questions of the {one} part."
    if shared > 1:
        return f"Paired bootstrap over the {shared} questions of the {one} part in common, of {len(before)} before and {len(after)} after; so are the scores."
    return f"Unpaired bootstrap: the {len(before)} questions before and the {len(after)} after are others, and that is in the difference too."


def verdict(name: str, change: Change) -> str:
    if change.low is None or change.high is None:
        return NONE
    if change.low <= 0 <= change.high:
        return "within noise"
    return "better" if (change.low > 0) != (name in RATES) else "worse"


def number(value: float | None, sign: str = "") -> str:
    return NONE if value is None else f"{value:{sign}z.2f}"


def columns(change: Change) -> list[str]:
    """Return before, after, difference and interval."""
    gain = None if change.before is None or change.after is None else change.after - change.before
    bounds = NONE if change.low is None else f"[{number(change.low, '+')}, {number(change.high, '+')}]"
    return [number(change.before), number(change.after), number(gain, "+"), bounds]


def headline(sides: Sides, by: str, changes: dict[str, Change]) -> str:
    if by not in changes:
        fail(f"--by {by}: no such metric, expected one of {', '.join(changes)}", 2)
    one, other = parts_answered(sides)
    if one != other:
        return f"not comparable: the {one} part was answered before, the {other} part after"
    before, after, gain, bounds = columns(changes[by])
    end = "(no interval)" if bounds == NONE else f"{bounds}: {verdict(by, changes[by])}"
    return f"tuned {by} {before} → {after}, {gain} {end}"


def scores(sides: Sides, changes: dict[str, dict[str, Change]]) -> list[str]:
    """Return the scores of the tuned model, those of the base that changed, and what the intervals are taken from."""
    rows = [
        [f"{model} {name}", *columns(change), verdict(name, change)]
        for model in changes for name, change in changes[model].items()
        if model == "tuned" or change.before != change.after
    ]  # fmt: skip
    return [*table("|before:|after:|difference:|95 % interval:|", rows), "", basis(sides)]


def thinned(steps: list[int]) -> list[int]:
    return [*steps[: -1 : math.ceil(len(steps) / POINTS)], *steps[-1:]]


def curves(before: dict[int, float], after: dict[int, float]) -> list[str]:
    """Return the validation loss of both as a chart, or as a table if they were not looked at in the same steps."""
    steps = thinned(sorted(before.keys() | after.keys()))
    losses = [curve[step] for curve in (before, after) for step in steps if step in curve]
    if before.keys() != after.keys() or len(steps) < 2 or not all(map(math.isfinite, losses)):
        rows = ([str(step), *(f"{curve[step]:.4f}" if step in curve else NONE for curve in (before, after))] for step in steps)
        return table("step:|validation loss before:|after:", rows)
    room = max(max(losses) - min(losses), 0.01) / 10
    return [
        "```mermaid",
        '%%{init: {"themeVariables": {"xyChart": {"plotColorPalette": "#999999, #d9480f"}}}}%%',
        "xychart-beta",
        '    title "Validation loss, nats a token: before grey, after orange"',
        f'    x-axis "step" {steps}',
        f'    y-axis "loss" {min(losses) - room:.4f} --> {max(losses) + room:.4f}',
        *(f"    line {[curve[step] for step in steps]}" for curve in (before, after)),
        "```",
    ]


def facts(side: Side) -> dict[str, Any]:
    """Return what training said of itself, and the last training loss."""
    losses = load_curve(side, "training")
    return load_metrics(side).get("training", {}) | ({"last_training_loss": losses[max(losses)]} if losses else {})


def training(sides: Sides) -> list[str]:
    """Return what training said of itself, where that differs, and the curves."""
    before, after = (load_curve(side, "validation") for side in sides)
    return [*changed(*map(facts, sides)), *(["", *curves(before, after)] if before != after else [])]


def hashes(side: Side) -> dict[str, Counter[bytes]] | None:
    """Return how often each row stands in each part, by the hash of its content."""
    found = {}
    for part in PARTS:
        lines = side.in_dvc(f"data/split/{part}.jsonl")
        if lines is None:
            return None
        found[part] = Counter(blake2b(line, digest_size=16).digest() for line in lines)
    return found


def sizes(side: Side) -> str:
    """Return what git alone knows of the rows: their number by part, and the bytes of the folder."""
    turns = load_csv(side, "plots/data/turns.csv")
    rows = [f"{part} {sum(int(row[part]) for row in turns)}" for part in PARTS if turns]
    return ", ".join([*rows, f"{side.locked('data/split').get('size', NONE)} bytes"])


def absent(what: str, lacking: list[Side]) -> str:
    return f"{what} of {names(lacking)} are in neither DVC's cache nor a remote: `dvc push` where they were made, or `dvc pull` here, shows them."


def data(sides: Sides) -> list[str]:
    """Return how many rows came into each part and went out of it."""
    before, after = (side.locked("data/split").get("md5") for side in sides)
    if before and before == after:
        return [f"The same rows in train, val and test (md5 `{after}`)."]
    old, new = map(hashes, sides)
    if old is None or new is None:
        lacking = [side for side, rows in zip(sides, (old, new), strict=True) if rows is None]
        return [f"{absent('The rows', lacking)} What git knows: {' → '.join(map(sizes, sides))}."]
    counts = ((part, old[part], new[part], new[part] - old[part], old[part] - new[part]) for part in PARTS)
    moved = sum((old[one] & new[other]).total() for one in PARTS for other in PARTS if one != other)
    return [
        *table("|rows before:|after:|in:|out:", ([part, *(str(rows.total()) for rows in kinds)] for part, *kinds in counts)),
        *(["", f"{moved} of them went from one part to another."] if moved else []),
    ]


def texts(side: Side, keys: set[str]) -> dict[str, dict] | None:
    """Return the rows of the tuned model's answers by id, None if any of `keys` is not among them."""
    rows = {row["id"]: row for row in map(orjson.loads, side.in_dvc("data/predictions/tuned.jsonl") or [])}
    return rows if keys <= rows.keys() else None


def example(title: str, before: dict, after: dict) -> list[str]:
    """Return an answer before and after as rows of an HTML table: texts would break a Markdown one."""
    words = {
        "question": before["messages"][-1]["content"],
        "reference": before["reference"],
        "before": before["prediction"],
        "after": after["prediction"],
    }
    head = f'<tr><th align="left" colspan="2">{title}</th></tr>'
    return [head, *(f"<tr><td>{name}</td><td>{quoted(text)}</td></tr>" for name, text in words.items())]


def answers(sides: Sides, by: str) -> list[str]:
    """Return the tuned model's answers whose score by `by` rose and fell most."""
    before, after = (load_answers(side)["tuned"] for side in sides)
    sign = -1 if by in RATES else 1
    gains = {
        key: sign * (after[key][by] - before[key][by])
        for key in before.keys() & after.keys() if by in before[key] and by in after[key]
    }  # fmt: skip
    if not gains:
        return [f"No question in common has {by} at both: there are no answers to set side by side."]
    ranked = sorted(gains, key=lambda key: (-gains[key], key))
    better = [key for key in ranked if gains[key] > 0]
    worse = [key for key in reversed(ranked) if gains[key] < 0]
    lines = [f"By {by}, {len(better)} answers got better, {len(worse)} worse, {len(gains) - len(better) - len(worse)} stayed."]
    if not better and not worse:
        return lines
    old, new = (texts(side, {*better[:EXAMPLES], *worse[:EXAMPLES]}) for side in sides)
    if old is None or new is None:
        return [*lines, absent("The answers", [side for side, rows in zip(sides, (old, new), strict=True) if rows is None])]
    for word, keys in (("better", better[:EXAMPLES]), ("worse", worse[:EXAMPLES])):
        if keys:
            lines += ["", f"<details><summary>{len(keys)} that got {word}</summary>", "<table>"]
            for key in keys:
                lines += example(f"{by} {before[key][by]:.2f} → {after[key][by]:.2f}", old[key], new[key])
            lines += ["</table>", "</details>"]
    return lines


def review(sides: Sides, by: str, metrics: Metrics) -> str:
    """Return the whole comparison."""
    changes = {model: compared(sides, model, metrics) for model in ("tuned", "base")}
    before, after = (f"{names([side])}" + (f" ({side.commit[:7]})" if side.commit else "") for side in sides)
    sections = {
        "Parameters": changed(*(flat(load_yaml(side, "params.yaml")) for side in sides)),
        "Scores": scores(sides, changes),
        "Training": training(sides),
        "Data": data(sides),
        "Answers": answers(sides, by),
    }
    lines = [headline(sides, by, changes["tuned"]), "", f"Before: {before}, after: {after}.", ""]
    for title, section in sections.items():
        lines += [f"### {title}", "", *section, ""]
    return "\n".join([*lines, MARK])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", metavar="REV")
    parser.add_argument("after", metavar="REV2", nargs="?")
    parser.add_argument("--by", default="rouge-l", help="the metric of the first line and of the answers that are shown")
    asked = parser.parse_args()
    sides = revision(asked.before), revision(asked.after) if asked.after else Side("workspace", None)
    print(review(sides, asked.by, read_params().metrics))


if __name__ == "__main__":
    main()
