"""metrics: how near the answers of base and tuned come to the reference, the gain, and 95 % intervals of each.

Usage: stages/run metrics --predictions data/predictions --training plots/loss/training.json \
           --out metrics.json --answers plots/answers.csv --plots plots/scores.csv

xinglin/scoring/scores.py defines the scores. plots/answers.csv keeps those of every answer, so that two runs can be compared
answer by answer in a review.
"""

from pathlib import Path

from xinglin.cli import CommandError, run_command, start
from xinglin.files import read_json, write_csv, write_json
from xinglin.params import ParamsFile, Part
from xinglin.scoring.intervals import summarise
from xinglin.scoring.scores import MEANING, MODELS, NAMES, RATES, diversity, pairs, scored
from xinglin.scoring.settings import Metrics


class Scored(Part):
    part: str


class Params(ParamsFile):
    metrics: Metrics
    predictions: Scored


def show(found: dict) -> str:
    """Return the result as a table for the terminal."""
    lines = [f"{'':12}{'base':>10}{'tuned':>10}{'gain':>10}   95 % interval of the gain"]
    for name, gain in found["intervals"]["gain"].items():
        row = "".join(f"{found[column][name]:10.2f}" for column in ("base", "tuned", "gain"))
        lines.append(f"{name:12}{row}   [{gain['low']:+.2f}, {gain['high']:+.2f}]")
    lines += [f"{name:12}{found['base'][name]:10.1f}{found['tuned'][name]:10.1f}   % of answers" for name in RATES]
    for name, what in (
        ("distinct-1", "% of words"),
        ("distinct-2", "% of word pairs"),
        ("length-ratio", "% of the references' length"),
    ):
        lines.append(f"{name:12}{found['base'][name]:10.1f}{found['tuned'][name]:10.1f}   {what}")
    training = found["training"]
    return "\n".join(
        [
            *lines,
            f"{found['samples']} samples of the {found['part']} part, percent; BLEU-4 and ROUGE as LLaMA-Factory defines them",
            f"training {training['verdict']}: {training['reason']}",
        ]
    )


def main() -> None:
    paths = start(__doc__, "predictions", "training", "out", "answers", "plots")
    params = Params.read()
    if (model := params.metrics.embedding_model) and not Path(model).expanduser().is_dir():
        raise CommandError(f"metrics.embedding_model: {model}: no such folder", 2)
    rows = pairs(paths.predictions)
    values = {model: scored(rows[model], model, params.metrics) for model in MODELS}
    names = NAMES if params.metrics.embedding_model is None else (*NAMES, MEANING)
    found = summarise(values["base"], values["tuned"], params.metrics, names)
    for model in MODELS:
        found[model] |= diversity(rows[model])
    found |= {"part": params.predictions.part, "training": read_json(paths.training)}
    params.ensure_unchanged()
    write_csv(
        paths.answers,
        ["id", "model", *names, *RATES],
        (
            [row["id"], model, *(round(value, 4) for value in line[: len(names)]), *map(int, line[len(names) :])]
            for model in MODELS
            for row, line in zip(rows[model], values[model].tolist(), strict=True)
        ),
    )
    write_csv(
        paths.plots, ["metric", "model", "score"], ([name, model, found[model][name]] for name in names for model in MODELS)
    )
    write_json(paths.out, found)
    print(show(found))


if __name__ == "__main__":
    run_command(main)
