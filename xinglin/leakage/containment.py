"""Which texts stand in another for the most part: a question with more written after it, an answer inside a longer one."""

from collections.abc import Callable, Sequence

import numpy as np

from xinglin.leakage.grams import bucket_of, eight_grams, sorted_set
from xinglin.leakage.similarity import CHUNK, OWNER, bitmaps, most_shingles, overlaps
from xinglin.leakage.stored import BATCH, MIX, Batch, Stored, by_batch, count, places, stored

CONTAINED = 0.8  # of the smaller text's shingles
SAMPLE = 16  # 8-grams of a text that are looked up in all others
COMMON = (12, 64)  # occurrences, the least and the most, from which on an 8-gram tells too little to be looked up
LOOKED_UP = 3_000_000  # occurrences of an 8-gram of each text: in large data fewer for each keep the time linear
BUCKETS = (24, 27)  # bits, the least and the most


def candidates(left: Sequence[str], right: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return index pairs [n, 2] of texts of which one may contain the other, and the share of its sample found there [n].

    The sample is the SAMPLE smallest hashes of a text's 8-grams (Broder 1997, containment); it is looked up among all 8-grams
    of the other texts. Linear in the texts: what stands more than COMMON times is not looked up.
    """
    same, left, right = left is right, stored(left), stored(right)
    both = (left,) if same else (left, right)
    characters = sum(int(texts.lengths.sum()) for texts in both)
    bits = int(np.clip(np.ceil(np.log2(max(1, characters))) - 2, *BUCKETS))
    buckets = np.zeros(1 << bits, np.uint32)
    for texts in both:
        count(buckets, lambda batch: bucket_of(eight_grams(batch)[0], bits), texts)
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


def looked_up(small: Stored, large: Stored, rare: np.ndarray, same: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs [n, 2] of a text of `small` and one of `large` that has 8-grams of its sample, and which share of it.

    A sampled 8-gram is 38 bits of a hash and 26 of its text's number; `slots` tells where those with the first bits begin.
    """
    names = np.sort(np.concatenate([np.empty(0, np.uint64), *by_batch(sampled(rare), small)]))
    owners = (names & ((np.uint64(1) << OWNER) - np.uint64(1))).astype(np.int32)
    size = np.bincount(owners, minlength=len(small))
    bits = int(np.clip(np.ceil(np.log2(max(1, len(names)))) + 1, 16, 26))
    slots = np.zeros((1 << bits) + 1, np.int32)
    np.cumsum(np.bincount(bucket_of(names, bits), minlength=1 << bits), out=slots[1:])
    names >>= OWNER

    def look(start: int, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        hashes, counts = eight_grams(batch)
        hashes = (hashes >> np.uint64(13) << np.uint64(13)) * MIX
        slot = bucket_of(hashes, bits)
        low = slots[slot]
        filled = slots[slot + 1] - low
        some = np.flatnonzero(filled)
        place = places(low[some], filled[some])
        hits = np.repeat(some, filled[some])
        equal = names[place] == hashes[hits] >> OWNER
        place, hits = place[equal], hits[equal]
        text = np.searchsorted(np.cumsum(counts), hits, "right")
        code = sorted_set(place * BATCH + text)  # an 8-gram that is repeated counts once
        owner, other = owners[code // BATCH].astype(np.int64), code % BATCH + start
        fits = owner != other if same else np.ones(len(owner), bool)
        code = np.sort(owner[fits] * len(large) + other[fits])
        begins = np.flatnonzero(np.diff(code, prepend=-1))
        owner, found = code[begins] // len(large), np.diff(begins, append=len(code))
        enough = (found >= 2) | (size[owner] < SAMPLE // 2)
        pairs = np.stack([owner, code[begins] % len(large)], 1)[enough]
        return pairs, found[enough] / size[owner[enough]]

    columns = [(np.empty((0, 2), np.int64), np.empty(0)), *by_batch(look, large)]
    return tuple(np.concatenate(column) for column in zip(*columns, strict=True))  # type: ignore[return-value]


def sampled(rare: np.ndarray) -> Callable[[int, Batch], np.ndarray]:
    """Return what gives the names of the samples of a batch of texts."""
    bits = len(rare).bit_length() - 1

    def sample(start: int, batch: Batch) -> np.ndarray:
        hashes, counts = eight_grams(batch)
        some = np.flatnonzero(rare[bucket_of(hashes, bits)])
        text = np.repeat(np.arange(len(counts), dtype=np.uint64) << np.uint64(51), counts)[some]
        key = sorted_set(text | (hashes[some] >> np.uint64(13)))
        text = (key >> np.uint64(51)).astype(np.int64)
        size = np.bincount(text, minlength=len(counts))
        kept = np.arange(len(text)) - (np.cumsum(size) - size)[text] < SAMPLE
        name = (key[kept] << np.uint64(13)) * MIX
        return (name >> OWNER << OWNER) | (text[kept] + start).astype(np.uint64)

    return sample


def contained(left: Sequence[str], right: Sequence[str], pairs: np.ndarray, least: int, sure: int) -> np.ndarray:
    """Return those of the index pairs [n, 2] of which one text, of `least` characters or more, stands in the other.

    A text of less than `sure` characters must stand there whole.
    """
    if not len(pairs):
        return pairs
    left, right = stored(left), stored(right)
    sizes = left.lengths, right.lengths
    pairs = pairs[np.minimum(sizes[0][pairs[:, 0]], sizes[1][pairs[:, 1]]) >= least]
    kept, maps = [np.empty(0, bool)], bitmaps(left)
    others = maps if left is right else bitmaps(right)
    most, room = (most_shingles(left), most_shingles(right)), 1 - CONTAINED + 1e-9
    for chunk in np.array_split(pairs, len(pairs) // CHUNK + 1):
        one, other = maps[chunk[:, 0]], others[chunk[:, 1]]
        lost, missed = np.bitwise_count(one & ~other).sum(1), np.bitwise_count(other & ~one).sum(1)
        kept.append((lost <= room * most[0][chunk[:, 0]]) | (missed <= room * most[1][chunk[:, 1]]))
    pairs = pairs[np.concatenate(kept)]
    short = np.minimum(sizes[0][pairs[:, 0]], sizes[1][pairs[:, 1]]) < sure
    return pairs[overlaps(left, right, pairs)[:, 1] >= np.where(short, 1, CONTAINED)]
