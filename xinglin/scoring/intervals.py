"""Means, 95 % bootstrap intervals and the paired gain."""

from collections.abc import Sequence

import numpy as np

from xinglin.scoring.scores import NAMES, RATES
from xinglin.scoring.settings import Metrics


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
