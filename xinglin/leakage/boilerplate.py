"""What many texts have in common, a constant instruction or a stock answer, and what is left of a text without it.

A text that many others repeat in part says little of its own dialogue. What draws, groups and links dialogues is the rest.
"""

from collections.abc import Iterable, Sequence

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
        maybe = np.flatnonzero(full[bucket(hashes)])
        hits = maybe[np.isin(hashes[maybe] >> TEXT_BITS, common)]
        owner = np.repeat(np.arange(len(batch)), counts)[hits]
        places = hits - (np.cumsum(counts) - counts)[owner]
        found = list(batch)
        bounds = np.flatnonzero(np.diff(owner, prepend=-1, append=-1)).tolist()
        for a, b in zip(bounds, bounds[1:], strict=False):
            found[owner[a]] = uncovered(batch[owner[a]], places[a:b].tolist())
        return found

    return [text for batch in by_batch(rest, texts) for text in batch]


def uncovered(text: str, places: Iterable[int]) -> str:
    """Return what 8-grams at rising `places` leave of a text."""
    pieces, end = [], 0
    for place in places:
        if place > end:
            pieces.append(text[end:place])
        end = place + 8
    rest = "".join(pieces) + text[end:]
    return rest if len(rest) >= LEAST else ""
