"""What many texts have in common, a constant instruction or a stock answer, and what is left of a text without it.

A text that many others repeat in part says little of its own dialogue. What draws, groups and links dialogues is the rest.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from xinglin.leakage.grams import eight_grams, sorted_set
from xinglin.leakage.stored import MIX, Batch, Stored, by_batch, count, places, store, stored

SHARE = 0.005  # of the distinct texts: an 8-gram in more of them is boilerplate
FLOOR = 10  # texts, whatever the share; in 363 hand-written dialogues no 8-gram stands in more than 6
NEAR_FLOOR = 50  # the same where texts may be near: 50 variants of one question, or questions with one answer, are to be found
GREETING = 30  # characters that a greeting has at the most
STOCK_SHARE, STOCK_FLOOR = 0.05, 50  # of the dialogues, from which on a longer question is taken for a formula
DRAW_SHARE, DRAW_FLOOR = 0.01, 30  # of the questions: an 8-gram in more of them draws no side
LEAST = 4  # characters: less is no content
BUCKETS = 22  # bits
TEXT_BITS = np.uint64(13)  # for the place of a text in its batch


def limit(count: int, share: float = SHARE, floor: int = FLOOR) -> float:
    return max(floor, share * count)


def common_grams(given: Sequence[str], share: float = SHARE, floor: int = FLOOR, least: int = 0) -> np.ndarray:
    """Return the sorted keys of the 8-grams that more than `limit` of the texts, padded to `least` characters, contain.

    Documents are counted, not occurrences, and only for grams whose hash bucket has as many occurrences.
    """
    texts = stored(given)
    most, buckets = limit(len(texts), share, floor), np.zeros(1 << BUCKETS, np.uint32)
    count(buckets, lambda batch: bucket(eight_grams(batch.padded(least))[0]), texts)
    full = buckets > most
    if not full.any():
        return np.empty(0, np.uint64)

    def documents(_: int, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        hashes, counts = eight_grams(batch.padded(least))
        often = np.flatnonzero(full[bucket(hashes)])
        owner = np.repeat(np.arange(len(counts), dtype=np.uint64), counts)[often]
        keys = sorted_set((hashes[often] >> TEXT_BITS << TEXT_BITS) | owner) >> TEXT_BITS
        begins = np.flatnonzero(np.diff(keys, prepend=~keys[:1]))
        return keys[begins], np.diff(begins, append=len(keys))

    keys, counts = (np.concatenate(column) for column in zip(*by_batch(documents, texts), strict=True))
    distinct, place = np.unique(keys, return_inverse=True)
    return distinct[np.bincount(place, counts) > most]


def bucket(hashes: np.ndarray) -> np.ndarray:
    return (hashes >> np.uint64(64 - BUCKETS)).astype(np.int64)


def among(common: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return what gives the places of those hashes whose keys are common."""
    full = np.zeros(1 << BUCKETS, bool)
    full[bucket(common << TEXT_BITS)] = True

    def found(hashes: np.ndarray) -> np.ndarray:
        some = np.flatnonzero(full[bucket(hashes)])
        keys = hashes[some] >> TEXT_BITS
        return some[common[np.minimum(np.searchsorted(common, keys), len(common) - 1)] == keys] if len(common) else some

    return found


def is_common(common: np.ndarray) -> Callable[[Batch], np.ndarray]:
    """Return what marks, of all 8-grams of a batch, those that are common."""
    places_of = among(common)

    def marked(batch: Batch) -> np.ndarray:
        hashes, _ = eight_grams(batch)
        marks = np.zeros(len(hashes), bool)
        marks[places_of(hashes)] = True
        return marks

    return marked


def without(given: Sequence[str], commons: Sequence[np.ndarray], kinds: np.ndarray | None = None) -> Stored:
    """Return the texts without the characters that common 8-grams cover; "" where less than LEAST characters are left.

    Each text's number in `kinds` [texts] says which of `commons` are its own. Texts keep their places in the file.
    """
    texts = stored(given)
    if not any(map(len, commons)):
        return Stored(texts.file, texts.starts, texts.lengths.copy())
    kinds = np.zeros(len(texts), np.uint64) if kinds is None else kinds.astype(np.uint64)
    places_of = among(
        np.sort(np.concatenate([keys ^ (np.uint64(kind) * MIX >> TEXT_BITS) for kind, keys in enumerate(commons)]))
    )

    def rest(start: int, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        hashes, counts = eight_grams(batch)
        hits = places_of(hashes ^ np.repeat(kinds[start : start + len(counts)] * MIX, counts))
        begins = places(batch.begins, counts)[hits]
        cover = np.zeros(len(batch.points) + 1, np.int32)
        np.add.at(cover, begins, np.int32(1))
        np.add.at(cover, begins + 8, np.int32(-1))
        kept = np.cumsum(cover)[:-1] == 0
        lengths = np.diff(np.concatenate([[0], np.cumsum(kept)])[np.append(batch.begins, len(kept))])
        little = (lengths < LEAST) & (lengths < batch.lengths)
        kept &= ~np.repeat(little, batch.lengths)
        lengths[little] = 0
        points = batch.points.copy()
        points[places(batch.begins, lengths)] = batch.points[kept]
        return points, lengths

    lengths = [np.empty(0, np.int64)]

    def written() -> Iterator[Batch]:
        for (points, left), (begin, end) in zip(by_batch(rest, texts), texts.cuts(), strict=True):
            lengths.append(left)
            yield Batch(points, texts.lengths[begin:end])

    contents = store(written())
    return Stored(contents.file, contents.starts, np.concatenate(lengths))
