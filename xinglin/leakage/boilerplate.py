"""What many texts have in common, a constant instruction or a stock answer, and what is left of a text without it.

A text that many others repeat in part says little of its own dialogue. What draws, groups and links dialogues is the rest.
"""

import itertools
from collections.abc import Iterable, Sequence
from operator import itemgetter

import numpy as np

from xinglin.leakage.similarity import by_batch, eight_grams, sorted_set

SHARE = 0.005  # of the distinct texts: an 8-gram in more of them is boilerplate
FLOOR = 10  # texts, whatever the share; in 363 hand-written dialogues no 8-gram stands in more than 6
GREETING = 30  # characters that a greeting has at the most
STOCK_SHARE, STOCK_FLOOR = 0.05, 50  # of the dialogues, from which on a longer question is taken for a formula
LEAST = 4  # characters: less is no content
BUCKETS = 22  # bits
TEXT_BITS = np.uint64(13)  # for the place of a text in its batch


def limit(count: int, share: float = SHARE, floor: int = FLOOR) -> float:
    return max(floor, share * count)


def common_grams(texts: Sequence[str]) -> np.ndarray:
    """Return the sorted keys of the 8-grams that more than `limit` of the texts, all distinct, contain.

    Documents are counted, not occurrences, and only for grams whose hash bucket has as many occurrences.
    """
    most, buckets = limit(len(texts)), np.zeros(1 << BUCKETS, np.int64)
    for counted in by_batch(lambda _, batch: np.bincount(bucket(eight_grams(batch)[0]), minlength=1 << BUCKETS), texts):
        buckets += counted
    full = buckets > most
    if not full.any():
        return np.empty(0, np.uint64)

    def documents(_: int, batch: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        hashes, counts = eight_grams(batch)
        often = full[bucket(hashes)]
        owner = np.repeat(np.arange(len(batch), dtype=np.uint64), counts)[often]
        return np.unique(sorted_set((hashes[often] >> TEXT_BITS << TEXT_BITS) | owner) >> TEXT_BITS, return_counts=True)

    keys, counts = (np.concatenate(column) for column in zip(*by_batch(documents, texts), strict=True))
    distinct, place = np.unique(keys, return_inverse=True)
    return distinct[np.bincount(place, counts) > most]


def bucket(hashes: np.ndarray) -> np.ndarray:
    return (hashes >> np.uint64(64 - BUCKETS)).astype(np.int64)


def without(texts: Sequence[str], common: np.ndarray) -> list[str]:
    """Return the texts without the characters that common 8-grams cover; "" where less than LEAST characters are left."""
    if not len(common):
        return list(texts)
    full = np.zeros(1 << BUCKETS, bool)
    full[bucket(common << TEXT_BITS)] = True

    def rest(_: int, batch: Sequence[str]) -> list[str]:
        hashes, counts = eight_grams(batch)
        hits = np.flatnonzero(full[bucket(hashes)])
        keys = hashes[hits] >> TEXT_BITS
        hits = hits[common[np.minimum(np.searchsorted(common, keys), len(common) - 1)] == keys]
        owner = np.repeat(np.arange(len(batch)), counts)[hits]
        places = hits - (np.cumsum(counts) - counts)[owner]
        new = (np.diff(owner, prepend=-1) != 0) | (np.diff(places, prepend=-9) > 8)  # a run of characters that is covered
        ends = places[np.append(np.flatnonzero(new)[1:], len(places)) - 1] + 8 if len(places) else places
        found = list(batch)
        covered = zip(owner[new].tolist(), places[new].tolist(), ends.tolist(), strict=True)
        for text, runs in itertools.groupby(covered, key=itemgetter(0)):
            found[text] = uncovered(batch[text], runs)
        return found

    return [text for batch in by_batch(rest, texts) for text in batch]


def uncovered(text: str, runs: Iterable[tuple[int, int, int]]) -> str:
    """Return what runs of characters, each the last two of (text, begin, end) and rising, leave of a text."""
    pieces, last = [], 0
    for _, begin, end in runs:
        pieces.append(text[last:begin])
        last = end
    rest = "".join(pieces) + text[last:]
    return rest if len(rest) >= LEAST else ""
