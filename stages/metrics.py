"""metrics: how near the answers of base and tuned come to the reference, the gain, and 95 % intervals of each.

Usage: stages/run metrics --predictions data/predictions --training plots/loss/training.json \
           --out metrics.json --answers plots/answers.csv --plots plots/scores.csv

stages/scores.py defines the scores. plots/answers.csv keeps those of every answer, so that two runs can be compared
answer by answer in a review.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stages.common import arguments, fail, read_json, read_jsonl, whole, write_json
from stages.params import Metrics, read_params
from stages.scores import NAMES, RATES, diversity, meaning, table

MODELS = ("base", "tuned")
MEANING = "similarity"  # a column where metrics.embedding_model is set


def interval(values: np.ndarray, metrics: Metrics) -> list[dict[str, float]]:
    """Return the 95 % percentile bootstrap interval of the mean of each column of `values` [samples, columns]."""
    draws = np.random.default_rng(metrics.seed)
    counts = draws.multinomial(len(values), np.full(len(values), 1 / len(values)), size=metrics.bootstrap)
    low, high = np.percentile(counts @ values / len(values), [2.5, 97.5], axis=0)
    return [{"low": round(a, 4), "high": round(b, 4)} for a, b in zip(low.tolist(), high.tolist(), strict=True)]


def summarise(base: np.ndarray, tuned: np.ndarray, metrics: Metrics, names: Sequence[str] = NAMES) -> dict:
    """Return means, intervals and the paired gain; `base` and `tuned` are [samples, names + RATES], row by row a pair."""
    width = len(names)
    columns = {"base": base[:, :width], "tuned": tuned[:, :width], "gain": tuned[:, :width] - base[:, :width]}
    found: dict = {name: dict(zip(names, np.round(v.mean(0), 4).tolist(), strict=True)) for name, v in columns.items()}
    for name, rates in (("base", base[:, width:]), ("tuned", tuned[:, width:])):
        found[name] |= dict(zip(RATES, np.round(100 * rates.mean(0), 2).tolist(), strict=True))
    found["intervals"] = {n: dict(zip(names, interval(v, metrics), strict=True)) for n, v in columns.items()}
    return found | {"samples": len(base)}


def pairs(folder: Path) -> dict[str, list[dict]]:
    """Return both models' rows, checked to answer the same samples in the same order."""
    rows = {name: read_jsonl(folder / f"{name}.jsonl") for name in MODELS}
    if [row["id"] for row in rows["base"]] != [row["id"] for row in rows["tuned"]]:
        fail(f"{folder}: base.jsonl and tuned.jsonl do not answer the same samples: run 'dvc repro --force predictions'")
    if not rows["base"]:
        fail(f"{folder}: no predictions to score")
    return rows


def scored(rows: list[dict], name: str, metrics: Metrics) -> np.ndarray:
    """Return an array [samples, names + RATES], with the cosine of meaning as the last name where a model for it is set."""
    found = table(rows, name)
    if metrics.embedding_model is None:
        return found
    return np.insert(found, len(NAMES), meaning(rows, metrics.embedding_model), axis=1)


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    with whole(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as output:
        writer = csv.writer(output, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def show(found: dict) -> str:
    """Return the result as a table for the terminal."""
    lines = [f"{'':12}{'base':>10}{'tuned':>10}{'gain':>10}   95 % interval of the gain"]
    for name, gain in found["intervals"]["gain"].items():
        row = "".join(f"{found[column][name]:10.2f}" for column in ("base", "tuned", "gain"))
        lines.append(f"{name:12}{row}   [{gain['low']:+.2f}, {gain['high']:+.2f}]")
    lines += [f"{name:12}{found['base'][name]:10.1f}{found['tuned'][name]:10.1f}   % of answers" for name in RATES]
    for name, what in (("distinct-1", "% of words"), ("distinct-2", "% of word pairs"), ("length-ratio", "% of the references' length")):
        lines.append(f"{name:12}{found['base'][name]:10.1f}{found['tuned'][name]:10.1f}   {what}")
    training = found["training"]
    return "\n".join([
        *lines,
        f"{found['samples']} samples of the {found['part']} part, percent; BLEU-4 and ROUGE as LLaMA-Factory defines them",
        f"training {training['verdict']}: {training['reason']}",
    ])  # fmt: skip


def main() -> None:
    paths = arguments(__doc__, "predictions", "training", "out", "answers", "plots")
    params = read_params()
    if (model := params.metrics.embedding_model) and not Path(model).expanduser().is_dir():
        fail(f"metrics.embedding_model: {model}: no such folder", 2)
    rows = pairs(paths.predictions)
    values = {model: scored(rows[model], model, params.metrics) for model in MODELS}
    names = NAMES if params.metrics.embedding_model is None else (*NAMES, MEANING)
    found = summarise(values["base"], values["tuned"], params.metrics, names)
    for model in MODELS:
        found[model] |= diversity(rows[model])
    found |= {"part": params.predictions.part, "speed": read_json(paths.predictions / "speed.json"), "training": read_json(paths.training)}
    write_csv(paths.answers, ["id", "model", *names, *RATES], (
        [row["id"], model, *(round(value, 4) for value in line[: len(names)]), *map(int, line[len(names) :])]
        for model in MODELS for row, line in zip(rows[model], values[model].tolist(), strict=True)
    ))  # fmt: skip
    write_csv(paths.plots, ["metric", "model", "score"], ([name, model, found[model][name]] for name in names for model in MODELS))
    write_json(paths.out, found)
    print(show(found))


if __name__ == "__main__":
    main()
