"""Compare the parameters, scores, losses, rows and answers of two revisions, as Markdown for a review.

Usage: make diff REV=main        (python -m tools.diff REV [REV2] [--by rouge-l]; without REV2: the files that lie here)

Parameters, scores and curves are in git. Rows and answers are read by DVC, from its cache or a remote; where neither has
them, a line says so and the rest stands.
"""

import argparse
import html
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from tools.changes import Change, Sides, compared, parts_answered
from tools.experiments import flat
from tools.revisions import PARTS, Side, hashes, load_answers, load_csv, load_curve, load_metrics, load_yaml, revision, texts
from xinglin.cli import CommandError, run_command
from xinglin.params import ParamsFile
from xinglin.scoring.scores import RATES
from xinglin.scoring.settings import Metrics

EXAMPLES = 5  # answers that got better, and as many that got worse
SHOWN = 200  # characters of a text
POINTS = 20  # of a curve: more would not be legible
NONE = "–"
MARK = "<!-- tools.diff -->"  # by it the workflows find the comment that they wrote before


class Params(ParamsFile):
    metrics: Metrics


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
        return (
            f"Paired bootstrap over the {shared} questions of the {one} part in common, of {len(before)} before and "
            f"{len(after)} after; so are the scores."
        )
    return (
        f"Unpaired bootstrap: the {len(before)} questions before and the {len(after)} after are "
        "others, and that is in the difference too."
    )


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
        raise CommandError(f"--by {by}: no such metric, expected one of {', '.join(changes)}", 2)
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
        for model in changes
        for name, change in changes[model].items()
        if model == "tuned" or change.before != change.after
    ]
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


def sizes(side: Side) -> str:
    """Return what git alone knows of the rows: their number by part, and the bytes of the folder."""
    turns = load_csv(side, "plots/data/turns.csv")
    rows = [f"{part} {sum(int(row[part]) for row in turns)}" for part in PARTS if turns]
    return ", ".join([*rows, f"{side.locked('data/split').get('size', NONE)} bytes"])


def absent(what: str, lacking: list[Side]) -> str:
    return (
        f"{what} of {names(lacking)} are in neither DVC's cache nor a remote: `dvc push` where they "
        "were made, or `dvc pull` here, shows them."
    )


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
        for key in before.keys() & after.keys()
        if by in before[key] and by in after[key]
    }
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
    print(review(sides, asked.by, Params.read().metrics))


if __name__ == "__main__":
    run_command(main)
