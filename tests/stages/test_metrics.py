import csv
import json

import numpy as np
import pytest

from tests.conftest import params_with
from xinglin.scoring import intervals
from xinglin.scoring.scores import NAMES, RATES

METRICS = params_with().metrics
PATHS = {
    "predictions": "predictions",
    "training": "training.json",
    "out": "metrics.json",
    "answers": "answers.csv",
    "plots": "scores.csv",
}
TRAINING = {"steps": 1, "verdict": "converged", "reason": "it stood still"}


def test_the_interval_of_the_gain_is_of_pairs():
    draws = np.random.default_rng(0)
    base = np.hstack([draws.normal(50, 20, (300, len(NAMES))), np.zeros((300, len(RATES)))])
    tuned = base + 1 + draws.normal(0, 0.5, base.shape)
    found = intervals.summarise(base, tuned, METRICS)
    gain = found["intervals"]["gain"]["bleu-4"]
    assert 0.9 < gain["low"] < found["gain"]["bleu-4"] < gain["high"] < 1.1  # far narrower than the scores' own intervals
    assert found["intervals"]["base"]["bleu-4"]["high"] - found["intervals"]["base"]["bleu-4"]["low"] > 3


def test_the_interval_covers_the_true_mean_about_95_times_in_100():
    draws, hits = np.random.default_rng(3), 0
    for seed in range(200):
        sample = draws.exponential(10, (100, 1))
        found = intervals.interval(sample, METRICS.model_copy(update={"seed": seed, "bootstrap": 400}))[0]
        hits += found["low"] <= 10 <= found["high"]
    assert 178 <= hits <= 200


def predictions(folder, base, tuned):
    folder.mkdir()
    for name, texts in (("base", base), ("tuned", tuned)):
        rows = [
            {"id": str(i), "reference": "多喝温水，注意休息。", "prediction": t, "finish_reason": "stop"}
            for i, t in enumerate(texts)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_the_stage_writes_metrics_and_the_plot(workplace, stage):
    folder = workplace()
    predictions(folder / "predictions", ["喝水", "休息"], ["多喝温水。", "多喝温水，注意休息。"])
    (folder / "training.json").write_text(json.dumps(TRAINING))
    done = stage("metrics", **PATHS)
    assert done.status == 0, done.err
    found = json.loads((folder / "metrics.json").read_text())
    assert found["gain"]["bleu-4"] == pytest.approx(found["tuned"]["bleu-4"] - found["base"]["bleu-4"], abs=2e-4)
    assert found["samples"] == 2 and found["training"] == TRAINING and found["part"] == "test"
    assert "bleu-4" in done.out and "converged: it stood still" in done.out
    assert len((folder / "scores.csv").read_text().splitlines()) == 1 + 2 * len(NAMES)


def test_the_scores_of_every_answer_are_kept_and_their_means_are_the_metrics(workplace, stage):
    folder = workplace()
    predictions(folder / "predictions", ["喝水", "休息"], ["多喝温水。", "多喝温水，注意休息。"])
    (folder / "training.json").write_text(json.dumps(TRAINING))
    assert stage("metrics", **PATHS).status == 0
    rows = list(csv.DictReader((folder / "answers.csv").read_text().splitlines()))
    found = json.loads((folder / "metrics.json").read_text())
    assert [(row["id"], row["model"]) for row in rows] == [("0", "base"), ("1", "base"), ("0", "tuned"), ("1", "tuned")]
    for name in NAMES:
        mean = sum(float(row[name]) for row in rows if row["model"] == "tuned") / 2
        assert found["tuned"][name] == pytest.approx(mean, abs=1e-4)


def test_a_model_of_meaning_that_is_not_there_is_told_before_anything_is_scored(workplace, stage):
    workplace({"metrics.embedding_model": "/nowhere/bge"})
    done = stage("metrics", predictions="none", training="none", out="metrics.json", answers="a.csv", plots="b.csv")
    assert done.status == 2 and "metrics.embedding_model: /nowhere/bge: no such folder" in done.error


def test_predictions_that_do_not_pair_are_an_error(workplace, stage):
    folder = workplace()
    predictions(folder / "predictions", ["喝水"], ["多喝温水。", "休息"])
    done = stage("metrics", **PATHS)
    assert done.status == 1 and "same samples" in done.error and not (folder / "metrics.json").exists()
