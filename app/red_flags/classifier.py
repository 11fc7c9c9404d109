"""The learned part: how likely a conversation is each kind of emergency or of look-alike, by its character n-grams.

A multinomial logistic regression over TF-IDF of 1- to 3-grams, trained by tools/red_flags.py on the phrases of data/red_flags.
The look-alikes are kinds too (fiction, prevention, a mild cough), so what an emergency is need not be one side of a plane.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

FILE = Path(__file__).parent / "classifier.npz"
GRAMS = (1, 3)  # characters
LONG, STEP = 100, 50  # characters: the phrases are shorter, so a longer text is also read through a window of LONG
SPACES = re.compile(r"\s+")
WORDS = 3  # n-grams that an explanation names


class Model(NamedTuple):
    """Which n-gram has which place, its inverse document frequency, and each kind's weights."""

    places: dict[str, int]
    idf: np.ndarray  # [n-grams]
    weights: np.ndarray  # [n-grams, kinds]
    bias: np.ndarray  # [kinds]
    kinds: list[str]  # look-alikes begin with "-"
    urgent: np.ndarray  # [kinds] of bool


@cache
def model(file: Path = FILE) -> Model:
    with np.load(file) as kept:
        kinds, grams = kept["kinds"].tolist(), kept["grams"].item().split("\t")
        return Model(
            dict(zip(grams, range(len(grams)), strict=True)),
            kept["idf"].astype(np.float32),
            kept["weights"].astype(np.float32) * kept["scale"].astype(np.float32),
            kept["bias"].astype(np.float32),
            kinds,
            np.array([not kind.startswith("-") for kind in kinds]),
        )


def plain(messages: Sequence[str]) -> str:
    """Return a conversation as the classifier reads it: one text, compatible forms and spaces made one, lower case."""
    return " ".join(SPACES.sub(" ", unicodedata.normalize("NFKC", message).lower()).strip() for message in messages)


def grams_of(text: str) -> list[str]:
    """Return all n-grams of a text, as scikit-learn's `analyzer="char"` does."""
    text = SPACES.sub(" ", text)
    return [text[i : i + size] for size in range(GRAMS[0], GRAMS[1] + 1) for i in range(len(text) - size + 1)]


def features(text: str, known: Model) -> tuple[np.ndarray, np.ndarray]:
    """Return places and TF-IDF values [n] of the known n-grams of a text: logarithmic counts, of length one together."""
    found = [known.places[gram] for gram in grams_of(text) if gram in known.places]
    places, counts = np.unique(np.array(found, np.int64), return_counts=True)
    values = (1 + np.log(counts)) * known.idf[places]
    return places, values / max(1e-12, float(np.sqrt((values**2).sum())))


def probabilities(text: str, known: Model) -> np.ndarray:
    """Return how likely a text is of each kind [kinds]."""
    places, values = features(text, known)
    scores = values @ known.weights[places] + known.bias
    scores = np.exp(scores - scores.max())
    return scores / scores.sum()


def windows(text: str) -> list[str]:
    """Return a text, and where it is long its parts, each LONG characters, half of them shared with the next."""
    starts = range(0, max(1, len(text) - LONG + STEP), STEP)
    return [text] + ([text[start : start + LONG] for start in starts] if len(text) > LONG else [])


def words(text: str, kind: int, known: Model) -> list[str]:
    """Return the n-grams that speak most for a kind against the look-alikes, none standing in another."""
    places, values = features(text, known)
    gain = values * (known.weights[places, kind] - known.weights[places][:, ~known.urgent].mean(1))
    grams = dict(zip(known.places.values(), known.places, strict=True))
    ranked = [grams[place].strip() for place in places[np.argsort(-gain)][: 4 * WORDS].tolist()]
    ranked = [gram for gram in ranked if len(gram) > 1]
    return [gram for gram in ranked if not any(gram != other and gram in other for other in ranked)][:WORDS]
