"""Texts as they are compared, the hashes of their character n-grams, and the 13-grams that they have in common.

Texts are compared as letters, digits and ideographs in lower case (`plain`).
"""

import re
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from xinglin.leakage.stored import MIX, Batch, batch_of, by_batch, places, stored

SHINGLE = 3  # characters
KEY_GRAM = 8  # characters
GRAM = 13  # characters, as decontamination counts 13-grams (Brown et al. 2020, appendix C, there of words)
NOT_WORD = re.compile(r"[\W_]+")


def plain(text: str) -> str:
    """Return a text as it is compared; one without any letter is compared as it stands."""
    return NOT_WORD.sub("", text).lower() or text


def plain_batch(texts: Sequence[str]) -> Batch:
    """Return `plain` of many texts, by a table of all characters instead of a search in each text."""
    given = batch_of(texts)
    word, lower = characters()
    kept = word[given.points]
    if (lower[given.points] == 0).any():
        return batch_of([plain(text) for text in texts])
    counts = np.diff(np.concatenate([[0], np.cumsum(kept)])[np.append(given.begins, len(kept))])
    if ((counts == 0) & (given.lengths > 0)).any():
        return batch_of([plain(text) for text in texts])
    return Batch(lower[given.points[kept]], counts)


def plain_texts(texts: Sequence[str]) -> list[str]:
    batch = plain_batch(texts)
    together = batch.points.tobytes().decode("utf-32-le", "surrogatepass")
    return [
        together[begin : begin + length] for begin, length in zip(batch.begins.tolist(), batch.lengths.tolist(), strict=True)
    ]


@cache
def characters() -> tuple[np.ndarray, np.ndarray]:
    """Return for each code point whether `plain` keeps it, and its lower case; 0 where that hangs on its neighbours."""
    every = list(map(chr, range(0x110000)))
    word = np.array([NOT_WORD.match(character) is None for character in every])
    lower = np.array([ord(low) if len(low := character.lower()) == 1 else 0 for character in every], np.uint32)
    lower[[0, ord("Σ")]] = (1, 0)  # U+0000 is no letter, so that it is never looked up for more than the test above
    return word, lower


def grams(batch: Batch, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes [all] of the texts' character n-grams, one text after the other, and each text's count [texts]."""
    points, counts = batch.points.astype(np.uint64), np.maximum(batch.lengths - size + 1, 0)
    hashes = np.zeros(max(0, len(points) - size + 1), np.uint64)
    for offset in range(size):
        hashes = (hashes ^ points[offset : offset + len(hashes)]) * MIX
        hashes ^= hashes >> np.uint64(29)
    return hashes[places(batch.begins, counts)], counts


def shingles(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    return grams(batch.padded(SHINGLE), SHINGLE)


def quick_grams(batch: Batch, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes and counts as `grams` does, other hashes, in fewer steps: those of 2, 4, 8 … characters make the next."""
    counts = np.maximum(batch.lengths - size + 1, 0)
    points, width, done = batch.points.astype(np.uint64), 1, size & 1
    found = points
    while done < size:
        points, width = joined(points[:-width], points[width:]), 2 * width
        if size & width:
            found, done = joined(found, points[done:]) if done else points, done + width
    return found[places(batch.begins, counts)], counts


def joined(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    hashes = left[: len(right)] * MIX
    hashes += right[: len(hashes)]
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(29)
    return hashes


def eight_grams(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    return quick_grams(batch, KEY_GRAM)


def mixed(hashes: np.ndarray) -> np.ndarray:
    """Return 64-bit numbers in which each bit of `hashes` counts (the finaliser of SplitMix64, Steele et al. 2014)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def smallest_grams(texts: Sequence[str], seed: int, common: Callable[[Batch], np.ndarray] | None = None) -> np.ndarray:
    """Return for each text a number below 2**64 that hangs on the smallest seeded hash of its 8-grams only [texts].

    Those that `common` marks are left out, unless that leaves none.
    """

    def smallest(_: int, batch: Batch) -> np.ndarray:
        batch = batch.padded(KEY_GRAM)
        hashes, counts = grams(batch, KEY_GRAM)
        seeded, begins = mixed(hashes ^ np.uint64(seed % 2**64)), np.cumsum(counts) - counts
        least = np.minimum.reduceat(seeded, begins)
        if common is not None:
            rest = np.minimum.reduceat(np.where(common(batch), ~np.uint64(0), seeded), begins)
            least = np.where(rest == ~np.uint64(0), least, rest)
        return mixed(least)

    return np.concatenate([np.empty(0, np.uint64), *by_batch(smallest, stored(texts))])


def sorted_set(keys: np.ndarray) -> np.ndarray:
    """Return the distinct numbers in order; np.unique hashes them, which takes ten times as long here."""
    keys = np.sort(keys)
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)]]


def bucket_of(hashes: np.ndarray, bits: int = 20) -> np.ndarray:
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)


def gram_overlap(given: Sequence[str], known: Sequence[str], owner: np.ndarray | None = None) -> dict[str, float]:
    """Return the share of texts that have a 13-gram in common with `known`, and the share of their 13-grams.

    With `owner` [texts], numbers from 0 on, it is the share of those that have such a text.
    """
    texts = stored(given)
    hashes = [np.empty(0, np.uint64), *by_batch(lambda _, batch: quick_grams(batch, GRAM)[0], texts)]
    distinct = sorted_set(np.concatenate(hashes))
    if not len(distinct):
        return {"texts": 0.0, "grams": 0.0}
    met = np.zeros(len(distinct), bool)
    in_texts = lookup(distinct)
    for others in by_batch(lambda _, batch: in_texts(sorted_set(quick_grams(batch, GRAM)[0]))[1], stored(known)):
        met[others] = True
    owner = np.arange(len(texts)) if owner is None else owner
    in_both, hit = lookup(distinct[met]), np.zeros(owner.max() + 1, bool)

    def leaked(start: int, batch: Batch) -> np.ndarray:
        hashes, counts = quick_grams(batch, GRAM)
        return np.repeat(np.arange(start, start + len(counts)), counts)[in_both(hashes)[0]]

    for places_hit in by_batch(leaked, texts):
        hit[owner[places_hit]] = True
    return {"texts": share(hit), "grams": share(met)}


def lookup(known: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return what gives the places of those hashes that are among the sorted `known` ones, and their places there."""
    wanted = np.zeros(1 << 26, bool)  # most others are told apart by their bucket alone
    wanted[bucket_of(known, 26)] = True

    def found(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        some = np.flatnonzero(wanted[bucket_of(hashes, 26)])
        where = np.searchsorted(known, hashes[some])
        equal = known[np.minimum(where, len(known) - 1)] == hashes[some] if len(known) else where > 0
        return some[equal], where[equal]

    return found


def share(flags: np.ndarray) -> float:
    return round(float(flags.mean()), 4) if len(flags) else 0.0
