"""How near an answer comes to the reference, and what a set of answers is like, in n-grams and in meaning."""

import functools
import logging
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from xinglin.cli import CommandError
from xinglin.files import read_jsonl
from xinglin.processes import workers
from xinglin.scoring.settings import Metrics

NAMES = ("bleu-4", "rouge-1", "rouge-2", "rouge-l", "chrf")
RATES = ("truncated", "empty", "repetitive")


def words(text: str) -> list[str]:
    import jieba

    jieba.setLogLevel(logging.WARNING)
    return jieba.lcut(text)


def similarity(reference: str, prediction: str) -> dict[str, float]:
    """Return BLEU-4 on characters and ROUGE F1 on jieba's words, in percent, rounded to 4 decimals.

    The definition is LLaMA-Factory's ComputeSimilarity (src/llamafactory/train/sft/metric.py, 0.9.5): sentence BLEU
    with uniform weights to 4-grams and smoothing method 3 of Chen and Cherry (2014), ROUGE by rouge_chinese, where an
    empty side gives 0. Other tools call other things "BLEU-4": these numbers compare with LLaMA-Factory's only.
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from rouge_chinese import Rouge

    bleu = sentence_bleu([list(reference)], list(prediction), smoothing_function=SmoothingFunction().method3)
    found = {"bleu-4": round(float(bleu) * 100, 4)}
    cut = [" ".join(words(text)) for text in (prediction, reference)]
    if all(text.split() for text in cut):
        rouge = Rouge().get_scores(*cut)[0]
        return found | {name: round(rouge[name]["f"] * 100, 4) for name in ("rouge-1", "rouge-2", "rouge-l")}
    return found | dict.fromkeys(("rouge-1", "rouge-2", "rouge-l"), 0.0)


def chrf(reference: str, prediction: str) -> float:
    """Return chrF2 (Popović 2015: character 1- to 6-grams, recall counts twice) by sacrebleu, in percent."""
    return round(chrf_scorer().sentence_score(prediction, [reference]).score, 4)


@functools.cache
def chrf_scorer():  # type: ignore[no-untyped-def]
    from sacrebleu.metrics import CHRF

    return CHRF()


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
    found = similarity(row["reference"], row["prediction"]) | {"chrf": chrf(row["reference"], row["prediction"])}
    marks = flags(row)
    return [found[name] for name in NAMES] + [float(marks[name]) for name in RATES]


def table(rows: list[dict], name: str) -> np.ndarray:
    """Return an array [samples, NAMES + RATES], scored in parallel processes."""
    with workers() as pool:
        judged = pool.imap(judge, rows, chunksize=16)
        return np.array(list(tqdm(judged, total=len(rows), desc=name, unit=" answers", disable=None)))


def diversity(rows: list[dict]) -> dict[str, float]:
    """Return distinct-1 and distinct-2 (Li et al. 2016: the share of jieba's words, and of pairs of them, that are
    different over all answers), and the characters of the answers over those of the references; in percent.
    """
    cut = [words(row["prediction"]) for row in rows]
    found = {}
    for n in (1, 2):
        grams = [tuple(w[i : i + n]) for w in cut for i in range(len(w) - n + 1)]
        found[f"distinct-{n}"] = round(100 * len(set(grams)) / max(1, len(grams)), 2)
    length = sum(len(row["prediction"]) for row in rows) / max(1, sum(len(row["reference"]) for row in rows))
    return found | {"length-ratio": round(100 * length, 2)}


def meaning(rows: list[dict], model: str) -> np.ndarray:
    """Return the cosine of each answer's and its reference's embedding [samples], in percent; an empty answer has 0.

    `model` is a folder in sentence-transformers' layout, or one of transformers' (then the mean over tokens counts).
    """
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(Path(model).expanduser()), local_files_only=True)
    sides = [encoder.encode([row[key] for row in rows], normalize_embeddings=True) for key in ("prediction", "reference")]
    cosine = (sides[0].astype(np.float64) * sides[1]).sum(1)
    return np.round(100 * cosine * [bool(row["prediction"].strip()) for row in rows], 4)


MODELS = ("base", "tuned")
MEANING = "similarity"  # a column where metrics.embedding_model is set


def pairs(folder: Path) -> dict[str, list[dict]]:
    """Return both models' rows, checked to answer the same samples in the same order."""
    rows = {name: read_jsonl(folder / f"{name}.jsonl") for name in MODELS}
    if [row["id"] for row in rows["base"]] != [row["id"] for row in rows["tuned"]]:
        raise CommandError(
            f"{folder}: base.jsonl and tuned.jsonl do not answer the same samples: run 'dvc repro --force predictions'"
        )
    if not rows["base"]:
        raise CommandError(f"{folder}: no predictions to score")
    return rows


def scored(rows: list[dict], name: str, metrics: Metrics) -> np.ndarray:
    """Return an array [samples, names + RATES], with the cosine of meaning as the last name where a model for it is set."""
    found = table(rows, name)
    if metrics.embedding_model is None:
        return found
    return np.insert(found, len(NAMES), meaning(rows, metrics.embedding_model), axis=1)
