"""Which texts stand in another for the most part: a question with more written after it, an answer inside a longer one."""

from collections.abc import Callable, Sequence

import numpy as np

from xinglin.leakage.similarity import CHUNK, bitmaps, by_batch, eight_grams, shingle_set, sorted_set

CONTAINED = 0.8  # of the smaller text's shingles
SAMPLE = 16  # 8-grams of a text that are looked up in all others
COMMON = (12, 64)  # occurrences, the least and the most, from which on an 8-gram tells too little to be looked up
LOOKED_UP = 3_000_000  # occurrences of an 8-gram of each text: in large data fewer for each keep the time linear
BUCKETS = 24  # bits
MARKS = 26  # bits


def candidates(left: Sequence[str], right: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return index pairs [n, 2] of texts of which one may contain the other, and the share of its sample found there [n].

    The sample is the SAMPLE smallest hashes of a text's 8-grams (Broder 1997, containment); it is looked up among all 8-grams
    of the other texts. Linear in the texts: what stands more than COMMON times is not looked up.
    """
    same = left is right
    buckets = np.zeros(1 << BUCKETS, np.uint32)
    for texts in (left,) if same else (left, right):
        for places in by_batch(lambda _, batch: bucket(eight_grams(batch)[0]), texts):
            np.add.at(buckets, places, np.uint32(1))
    rare = buckets <= np.clip(LOOKED_UP / max(len(left), len(right), 1), *COMMON) + 2 * buckets.mean()
    del buckets
    found = [looked_up(left, right, rare, same)]
    if not same:
        pairs, share = looked_up(right, left, rare, same)
        found.append((pairs[:, ::-1], share))
    pairs, share = (np.concatenate(column) for column in zip(*found, strict=True))
    if same:
        pairs = np.sort(pairs, 1)
    order = np.lexsort((-share, pairs[:, 1], pairs[:, 0]))
    pairs, share = pairs[order], share[order]
    new = np.concatenate([[True], (pairs[1:] != pairs[:-1]).any(1)])[: len(pairs)]
    return pairs[new], share[new]


def looked_up(small: Sequence[str], large: Sequence[str], rare: np.ndarray, same: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs [n, 2] of a text of `small` and one of `large` that has 8-grams of its sample, and which share of it."""
    columns = list(by_batch(sampled(rare), small))
    keys, owners = (np.concatenate([column[i] for column in columns] or [np.empty(0, np.uint64)]) for i in (0, 1))
    size = np.bincount(owners.astype(np.int64), minlength=len(small))
    order = np.argsort(keys)
    keys, owners = keys[order], owners[order].astype(np.int64)
    marks = np.zeros(1 << MARKS, bool)
    marks[mark(keys)] = True

    def look(start: int, batch: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        hashes, counts = eight_grams(batch)
        some = np.flatnonzero(marks[mark(hashes >> np.uint64(13))])
        text = np.repeat(np.arange(len(batch)), counts)[some]
        wanted = hashes[some] >> np.uint64(13)
        low, high = (np.searchsorted(keys, wanted, side) for side in ("left", "right"))
        hits = np.repeat(np.arange(len(wanted)), high - low)
        place = np.arange(len(hits)) - np.repeat(np.cumsum(high - low) - high, high - low)
        owner, other = owners[place], text[hits] + start
        fits = owner != other if same else np.ones(len(owner), bool)
        gram = np.unique(np.stack([owner[fits], other[fits], place[fits]], 1), axis=0)[
            :, :2
        ]  # one that is repeated counts once
        codes, count = np.unique(gram[:, 0] * len(large) + gram[:, 1], return_counts=True)
        owner, other = codes // len(large), codes % len(large)
        share = count / size[owner]
        enough = (count >= 2) | (size[owner] < SAMPLE // 2)
        return np.stack([owner[enough], other[enough]], 1), share[enough]

    pairs, share = zip(*by_batch(look, large), strict=True) if large else ([np.empty((0, 2), np.int64)], [np.empty(0)])
    return np.concatenate(pairs), np.concatenate(share)


def bucket(hashes: np.ndarray) -> np.ndarray:
    return (hashes >> np.uint64(64 - BUCKETS)).astype(np.int64)


def mark(keys: np.ndarray) -> np.ndarray:
    return (keys & np.uint64((1 << MARKS) - 1)).astype(np.int64)


def sampled(rare: np.ndarray) -> Callable[[int, Sequence[str]], tuple[np.ndarray, np.ndarray]]:
    """Return what gives the samples of a batch of texts and the text of each key."""

    def sample(start: int, batch: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        hashes, counts = eight_grams(batch)
        text = np.repeat(np.arange(len(batch), dtype=np.uint64), counts)
        some = rare[bucket(hashes)]
        key = sorted_set((text[some] << np.uint64(51)) | (hashes[some] >> np.uint64(13)))
        text = (key >> np.uint64(51)).astype(np.int64)
        size = np.bincount(text, minlength=len(batch))
        kept = np.arange(len(text)) - (np.cumsum(size) - size)[text] < SAMPLE
        return key[kept] & np.uint64((1 << 51) - 1), text[kept] + start

    return sample


def overlaps(left: Sequence[str], right: Sequence[str], pairs: np.ndarray) -> np.ndarray:
    """Return of index pairs [n, 2] Jaccard overlap and share of the smaller set [n, 2], exactly."""
    found = []
    for i, j in pairs.tolist():
        one, other = shingle_set(left[i]), shingle_set(right[j])
        common = len(one & other)
        found.append((common / len(one | other), common / min(len(one), len(other))))
    return np.array(found, float).reshape(-1, 2)


def contained(left: Sequence[str], right: Sequence[str], pairs: np.ndarray, least: int, sure: int) -> np.ndarray:
    """Return those of the index pairs [n, 2] of which one text, of `least` characters or more, stands in the other.

    A text of less than `sure` characters must stand there whole.
    """
    if not len(pairs):
        return pairs
    sizes = [np.fromiter(map(len, texts), np.int64, len(texts)) for texts in (left, right)]
    pairs = pairs[np.minimum(sizes[0][pairs[:, 0]], sizes[1][pairs[:, 1]]) >= least]
    kept = [np.empty(0, bool)]
    for chunk in np.array_split(pairs, len(pairs) // CHUNK + 1):
        (one, size), (other, length) = bitmaps(left, chunk[:, 0]), bitmaps(right, chunk[:, 1])
        lost, missed = np.bitwise_count(one & ~other).sum(1), np.bitwise_count(other & ~one).sum(1)
        room = 1 - CONTAINED + 1e-9
        kept.append((lost <= room * size) | (missed <= room * length))
    pairs = pairs[np.concatenate(kept)]
    short = np.minimum(sizes[0][pairs[:, 0]], sizes[1][pairs[:, 1]]) < sure
    return pairs[overlaps(left, right, pairs)[:, 1] >= np.where(short, 1, CONTAINED)]
