"""metrics: BLEU-4 and ROUGE of base and tuned as LLaMA-Factory defines them, the gain, and 95 % intervals of each.

Usage: stages/run metrics --predictions data/predictions --adapter models/adapter --out metrics.json --plots plots/scores.csv
"""

import csv
import logging
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.common import arguments, fail, read_json, read_jsonl, whole, write_json
from stages.params import Metrics, read_params

NAMES = ("bleu-4", "rouge-1", "rouge-2", "rouge-l")
RATES = ("truncated", "empty", "repetitive")
MODELS = ("base", "tuned")


def scores(reference: str, prediction: str) -> dict[str, float]:
    """Return BLEU-4 on characters and ROUGE F1 on jieba's words, in percent, rounded to 4 decimals.

    The definition is LLaMA-Factory's ComputeSimilarity (src/llamafactory/train/sft/metric.py, 0.9.5): sentence BLEU
    with uniform weights to 4-grams and smoothing method 3 of Chen and Cherry (2014), ROUGE by rouge_chinese, where an
    empty side gives 0. Other tools call other things "BLEU-4": these numbers compare with LLaMA-Factory's only.
    """
    import jieba
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from rouge_chinese import Rouge

    jieba.setLogLevel(logging.WARNING)
    bleu = sentence_bleu([list(reference)], list(prediction), smoothing_function=SmoothingFunction().method3)
    found = {"bleu-4": round(float(bleu) * 100, 4)}
    words = [" ".join(jieba.cut(text)) for text in (prediction, reference)]
    if all(text.split() for text in words):
        rouge = Rouge().get_scores(*words)[0]
        return found | {name: round(rouge[name]["f"] * 100, 4) for name in NAMES[1:]}
    return found | dict.fromkeys(NAMES[1:], 0.0)


def flags(row: dict) -> dict[str, bool]:
    """Return whether an answer was cut at max_new_tokens, is empty, or repeats any 8 characters three times or more."""
    text = row["prediction"]
    grams = Counter(text[i : i + 8] for i in range(len(text) - 7))
    return {
        "truncated": row["finish_reason"] == "length",
        "empty": not text.strip(),
        "repetitive": max(grams.values(), default=0) >= 3,
    }


def judge(row: dict) -> list[float]:
    """Return one row's scores, then its flags, in the order of NAMES and RATES."""
    found, marks = scores(row["reference"], row["prediction"]), flags(row)
    return [found[name] for name in NAMES] + [float(marks[name]) for name in RATES]


def table(rows: list[dict], name: str) -> np.ndarray:
    """Return an array [samples, NAMES + RATES], scored in parallel processes."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        judged = pool.map(judge, rows, chunksize=16)
        return np.array(list(tqdm(judged, total=len(rows), desc=name, unit=" answers", disable=None)))


def interval(values: np.ndarray, metrics: Metrics) -> list[dict[str, float]]:
    """Return the 95 % percentile bootstrap interval of the mean of each column of `values` [samples, columns]."""
    draws = np.random.default_rng(metrics.seed)
    counts = draws.multinomial(len(values), np.full(len(values), 1 / len(values)), size=metrics.bootstrap)
    low, high = np.percentile(counts @ values / len(values), [2.5, 97.5], axis=0)
    return [{"low": round(a, 4), "high": round(b, 4)} for a, b in zip(low.tolist(), high.tolist(), strict=True)]


def summarise(base: np.ndarray, tuned: np.ndarray, metrics: Metrics) -> dict:
    """Return means, intervals and the paired gain; `base` and `tuned` are [samples, NAMES + RATES], row by row a pair."""
    width = len(NAMES)
    columns = {"base": base[:, :width], "tuned": tuned[:, :width], "gain": tuned[:, :width] - base[:, :width]}
    found: dict = {name: dict(zip(NAMES, np.round(v.mean(0), 4).tolist(), strict=True)) for name, v in columns.items()}
    for name, rates in (("base", base[:, width:]), ("tuned", tuned[:, width:])):
        found[name] |= dict(zip(RATES, np.round(100 * rates.mean(0), 2).tolist(), strict=True))
    found["intervals"] = {n: dict(zip(NAMES, interval(v, metrics), strict=True)) for n, v in columns.items()}
    return found | {"samples": len(base)}


def pairs(folder: Path) -> dict[str, list[dict]]:
    """Return both models' rows, checked to answer the same samples in the same order."""
    rows = {name: read_jsonl(folder / f"{name}.jsonl") for name in MODELS}
    if [row["id"] for row in rows["base"]] != [row["id"] for row in rows["tuned"]]:
        fail(f"{folder}: base.jsonl and tuned.jsonl do not answer the same samples: run 'dvc repro --force predictions'")
    if not rows["base"]:
        fail(f"{folder}: no predictions to score")
    return rows


def write_plot(found: dict, file: Path) -> None:
    """Write the scores as rows metric, model, score for `dvc plots`."""
    with whole(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as output:
        writer = csv.writer(output, lineterminator="\n")
        writer.writerow(["metric", "model", "score"])
        writer.writerows([name, model, found[model][name]] for name in NAMES for model in MODELS)


def show(found: dict) -> str:
    """Return the result as a table for the terminal."""
    lines = [f"{'':10}{'base':>10}{'tuned':>10}{'gain':>10}   95 % interval of the gain"]
    for name in NAMES:
        gain = found["intervals"]["gain"][name]
        row = "".join(f"{found[column][name]:10.2f}" for column in ("base", "tuned", "gain"))
        lines.append(f"{name:10}{row}   [{gain['low']:+.2f}, {gain['high']:+.2f}]")
    lines += [f"{name:10}{found['base'][name]:10.1f}{found['tuned'][name]:10.1f}   % of answers" for name in RATES]
    return "\n".join([*lines, f"{found['samples']} samples, percent; BLEU-4 and ROUGE as LLaMA-Factory defines them"])


def main() -> None:
    paths = arguments(__doc__, "predictions", "adapter", "out", "plots")
    metrics = read_params().metrics
    rows = pairs(paths.predictions)
    found = summarise(table(rows["base"], "base"), table(rows["tuned"], "tuned"), metrics)
    found["speed"] = read_json(paths.predictions / "speed.json")
    found["training"] = read_json(paths.adapter / "training.json")
    write_plot(found, paths.plots)
    write_json(paths.out, found)
    print(show(found))


if __name__ == "__main__":
    main()
