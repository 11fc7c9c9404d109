"""What changed between two revisions in the scores, with bootstrap intervals of the differences."""

from typing import NamedTuple

import numpy as np

from tools.revisions import Scores, Side, load_answers, load_metrics
from xinglin.scoring.intervals import interval
from xinglin.scoring.settings import Metrics


class Change(NamedTuple):
    """A score before and after, None where there is none, and the 95 % interval of the difference."""

    before: float | None
    after: float | None
    low: float | None = None
    high: float | None = None


Sides = tuple[Side, Side]  # before, after


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
