"""Which texts are nearly equal: MinHash proposes pairs quickly, an exact join shows whether one is left, 13-grams are counted.

Texts are compared as letters, digits and ideographs in lower case (`plain`). Two are near if the sets of their character
3-grams overlap by a threshold or more (Jaccard: those shared over all).
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numpy as np
from rensa import RMinHash

SHINGLE = 3  # characters
KEY_GRAM = 8  # characters
GRAM = 13  # characters, as decontamination counts 13-grams (Brown et al. 2020, appendix C, there of words)
PERMUTATIONS = 64
RECALL = 0.999  # the least chance that MinHash proposes a pair at the threshold
BITS = 512  # of the bitmaps that rule out most of what is not near
BATCH = 8192  # texts whose shingles are in memory at once, for each thread
CHUNK = 20_000  # pairs compared at once
HITS = 2_000_000  # places in which a shingle is found at once
NOT_WORD = re.compile(r"[\W_]+")
MIX = np.uint64(0x9E3779B97F4A7C15)
T = TypeVar("T")


def plain(text: str) -> str:
    """Return a text as it is compared; one without any letter is compared as it stands."""
    return NOT_WORD.sub("", text).lower() or text


def plain_texts(texts: Sequence[str]) -> list[str]:
    """Return `plain` of many texts, by a table of all characters instead of a search in each text."""
    together = "".join(texts)
    word, lower = characters()
    points = np.frombuffer(together.encode("utf-32-le", "surrogatepass"), np.uint32)
    kept = word[points]
    if (lower[points] == 0).any():
        return [plain(text) for text in texts]
    found = lower[points[kept]].tobytes().decode("utf-32-le", "surrogatepass")
    ends = np.concatenate([[0], np.cumsum(kept)])[np.cumsum([0, *map(len, texts)])].tolist()
    return [found[a:b] or text for a, b, text in zip(ends, ends[1:], texts, strict=False)]


@cache
def characters() -> tuple[np.ndarray, np.ndarray]:
    """Return for each code point whether `plain` keeps it, and its lower case; 0 where that hangs on its neighbours."""
    every = list(map(chr, range(0x110000)))
    word = np.array([NOT_WORD.match(character) is None for character in every])
    lower = np.array([ord(low) if len(low := character.lower()) == 1 else 0 for character in every], np.uint32)
    lower[[0, ord("Σ")]] = (1, 0)  # U+0000 is no letter, so that it is never looked up for more than the test above
    return word, lower


def grams(texts: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes [all] of the texts' character n-grams, one text after the other, and each text's count [texts]."""
    points = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32).astype(np.uint64)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    counts = np.maximum(lengths - size + 1, 0)
    inside = np.ones(len(points), bool)  # where an n-gram begins that ends in the same text
    ends = np.cumsum(lengths)
    for offset in range(1, size):
        inside[np.maximum(ends - offset, ends - lengths)[lengths > 0]] = False
    hashes = np.zeros(max(0, len(points) - size + 1), np.uint64)
    for offset in range(size):
        hashes = (hashes ^ points[offset : offset + len(hashes)]) * MIX
        hashes ^= hashes >> np.uint64(29)
    return hashes[inside[: len(hashes)]], counts


def shingles(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    return grams([text.ljust(SHINGLE, "\0") for text in texts], SHINGLE)


def mixed(hashes: np.ndarray) -> np.ndarray:
    """Return 64-bit numbers in which each bit of `hashes` counts (the finaliser of SplitMix64, Steele et al. 2014)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def smallest_grams(texts: Sequence[str], seed: int) -> np.ndarray:
    """Return for each text a number below 2**64 that hangs on the smallest seeded hash of its 8-grams only [texts]."""
    found = [np.empty(0, np.uint64)]
    for _, batch in batches(texts):
        hashes, counts = grams([text.ljust(KEY_GRAM, "\0") for text in batch], KEY_GRAM)
        seeded = mixed(hashes ^ np.uint64(seed % 2**64))
        found.append(mixed(np.minimum.reduceat(seeded, np.cumsum(counts) - counts)))
    return np.concatenate(found)


def sorted_set(keys: np.ndarray) -> np.ndarray:
    """Return the distinct numbers in order; np.unique hashes them, which takes ten times as long here."""
    keys = np.sort(keys)
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)]]


def batches(texts: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    for start in range(0, len(texts), BATCH):
        yield start, texts[start : start + BATCH]


def by_batch(work: Callable[[int, Sequence[str]], T], texts: Sequence[str]) -> Iterator[T]:
    """Yield `work(start, batch)` of all batches in their order, a thread for each processor: numpy lets go of Python's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting: list = []
        for start, batch in batches(texts):
            waiting.append(pool.submit(work, start, batch))
            if len(waiting) > (os.cpu_count() or 1):
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def eight_grams(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes [all] of the texts' 8-grams and each text's count [texts], as `grams` does, in three steps for eight."""
    points = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32).astype(np.uint64)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    counts = np.maximum(lengths - 7, 0)
    for step in (1, 2, 4):
        points = (points[:-step] * MIX + points[step:]) * np.uint64(0xBF58476D1CE4E5B9)
        points ^= points >> np.uint64(29)
    begins = np.cumsum(lengths) - lengths
    place = np.arange(counts.sum()) + np.repeat(begins - (np.cumsum(counts) - counts), counts)
    return points[place], counts


def jaccard(a: str, b: str) -> float:
    """Return the overlap of two texts' sets of shingles."""
    one, other = shingle_set(a), shingle_set(b)
    return len(one & other) / len(one | other)


def shingle_set(text: str) -> set[str]:
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def near_pairs(texts: Sequence[str], threshold: float) -> np.ndarray:
    """Return index pairs [n, 2] of near texts, enough of them to connect those that are near.

    MinHash (Broder 1997) by rensa; signatures are compared in bands, with as many rows a band as RECALL allows. Texts that
    agree in a band are compared with the first of them and the one before, exactly.
    """
    if len(texts) < 2:
        return np.empty((0, 2), np.int64)
    signatures = np.concatenate(list(by_batch(lambda _, batch: signatures_of(batch), texts)))
    rows = max(r for r in range(1, 17) if r == 1 or 1 - (1 - threshold**r) ** (PERMUTATIONS // r) >= RECALL)
    found = []
    for first in range(0, PERMUTATIONS - rows + 1, rows):
        key = np.zeros(len(texts), np.uint64)
        for column in range(first, first + rows):
            key = (key ^ signatures[:, column]) * MIX
        order = np.argsort(key, kind="stable")
        begins = np.flatnonzero(np.diff(key[order], prepend=key[order[0]] + np.uint64(1)))
        leader = order[np.repeat(begins, np.diff(begins, append=len(order)))]
        found += [
            np.stack([leader, order], 1)[leader != order],
            np.stack([order[:-1], order[1:]], 1)[key[order[:-1]] == key[order[1:]]],
        ]
    pairs = np.unique(np.sort(np.concatenate(found), 1), axis=0)
    alike = np.concatenate(
        [(signatures[a] == signatures[b]).mean(1) for a, b in (p.T for p in np.array_split(pairs, len(pairs) // CHUNK + 1))]
    )
    return verified(texts, texts, pairs[alike >= threshold - 0.25], threshold)


def signatures_of(texts: Sequence[str]) -> np.ndarray:
    """Return MinHash signatures [texts, PERMUTATIONS]."""
    hashes, counts = shingles(texts)
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    return np.array(RMinHash.digest_matrix_from_flat_token_hashes(hashes, ends, PERMUTATIONS, 1).to_rows(), np.uint32)


def verified(left: Sequence[str], right: Sequence[str], pairs: np.ndarray, threshold: float) -> np.ndarray:
    """Return those of the index pairs [n, 2] whose texts are near."""
    return np.array([pair for pair in pairs.tolist() if jaccard(left[pair[0]], right[pair[1]]) >= threshold], np.int64).reshape(
        -1, 2
    )


def all_pairs(
    left: Sequence[str],
    right: Sequence[str],
    threshold: float,
    wanted: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Return all index pairs [n, 2] of a left text and a right one that are near, exactly, without MinHash.

    Prefix filtering (Chaudhuri et al. 2006, Bayardo et al. 2007): with shingles in one order, rarest first, two sets with
    Jaccard >= t share one of the first |x| - ceil(t |x|) + 1 of either. Any order will do; counts in hash buckets give one.
    `wanted(i, j)` says of indexes whether those pairs are of interest: others cost nothing.
    """
    if not left or not right:
        return np.empty((0, 2), np.int64)
    rarity = ranks((left,) if left is right else (left, right))
    known = [np.concatenate(column) for column in zip(*by_batch(prefixes(threshold, rarity), left), strict=True)]
    order = np.argsort(known[0])
    rare, owner, size = (column[order] for column in known)
    indexed = np.zeros(1 << 24, bool)  # most shingles are told to be in no prefix of `left` by their bucket alone
    indexed[rare & np.uint64((1 << 24) - 1)] = True
    prefix = prefixes(threshold, rarity)

    def matches(start: int, batch: Sequence[str]) -> np.ndarray:
        hashes, text, length = prefix(start, batch)
        some = indexed[hashes & np.uint64((1 << 24) - 1)]
        hashes, text, length = hashes[some], text[some], length[some]
        low, high = (np.searchsorted(rare, hashes, side) for side in ("left", "right"))
        found = [np.empty(0, np.int64)]
        for part in np.array_split(np.arange(len(hashes)), (high - low).sum() // HITS + 1):
            count = (high - low)[part]
            hits = np.repeat(part, count)
            place = np.arange(len(hits)) - np.repeat(np.cumsum(count) - high[part], count)
            fits = np.minimum(size[place], length[hits]) >= threshold * np.maximum(size[place], length[hits])
            if left is right:
                fits &= owner[place] < text[hits]
            if wanted is not None:
                fits &= wanted(owner[place], text[hits])
            found.append(sorted_set(owner[place][fits].astype(np.int64) * len(right) + text[hits][fits]))
        return sorted_set(np.concatenate(found))

    codes = np.concatenate(list(by_batch(matches, right)))
    pairs = np.stack([codes // len(right), codes % len(right)], 1)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    return verified(left, right, pairs[may_be_near(left, right, pairs, threshold)], threshold)


def may_be_near(left: Sequence[str], right: Sequence[str], pairs: np.ndarray, threshold: float) -> np.ndarray:
    """Return for index pairs [n, 2] whether the shingles that their bitmaps show to differ leave room for the threshold.

    A bitmap has a bit for each shingle's bucket: as many bits as differ, so many shingles do at least (Sandes et al. 2020).
    """
    fits = [np.empty(0, bool)]
    for chunk in np.array_split(pairs, len(pairs) // CHUNK + 1):
        (one, size), (other, length) = bitmaps(left, chunk[:, 0]), bitmaps(right, chunk[:, 1])
        room = (1 - threshold) / (1 + threshold) * (size + length)
        fits.append(np.bitwise_count(one ^ other).sum(1) <= room + 1e-9)
    return np.concatenate(fits)


def bitmaps(texts: Sequence[str], places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a bitmap of the shingles of each text at `places` [n, BITS / 8], and how many it has at the most [n]."""
    distinct, back = np.unique(places, return_inverse=True)
    hashes, counts = shingles([texts[place] for place in distinct.tolist()])
    bits = np.zeros((len(distinct), BITS), bool)
    bits[np.repeat(np.arange(len(distinct)), counts), (hashes % np.uint64(BITS)).astype(np.int64)] = True
    return np.packbits(bits, axis=1)[back], counts[back]


def bucket_of(hashes: np.ndarray, bits: int = 20) -> np.ndarray:
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)


def ranks(collections: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the rank of each shingle bucket [2 ** 20], the rarest first."""
    buckets = np.zeros(1 << 20, np.int64)
    for texts in collections:
        for counted in by_batch(lambda _, batch: np.bincount(bucket_of(shingles(batch)[0]), minlength=1 << 20), texts):
            buckets += counted
    return np.argsort(np.argsort(buckets)).astype(np.uint64)


def prefixes(threshold: float, rarity: np.ndarray) -> Callable[[int, Sequence[str]], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return what gives the shingles of the prefix of each text of a batch, with the text's index and the size of its set.

    A shingle is its bucket's rank and 31 bits of its hash; one sort of numbers that begin with the text's place puts the
    shingles of each text in the order of rarity.
    """

    def prefix(start: int, batch: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        hashes, counts = shingles(batch)
        key = np.repeat(np.arange(len(batch), dtype=np.uint64) << np.uint64(51), counts)
        key |= (rarity[bucket_of(hashes)] << np.uint64(31)) | (hashes & np.uint64((1 << 31) - 1))
        key = sorted_set(key)
        text = (key >> np.uint64(51)).astype(np.int32)
        size = np.bincount(text, minlength=len(batch)).astype(np.int32)
        rank = np.arange(len(text)) - (np.cumsum(size) - size)[text]
        kept = rank < (size - np.ceil(threshold * size - 1e-9).astype(np.int64) + 1)[text]
        return key[kept] & np.uint64((1 << 51) - 1), text[kept] + np.int32(start), size[text[kept]]

    return prefix


def gram_overlap(texts: Sequence[str], known: Sequence[str]) -> dict[str, float]:
    """Return the share of `texts` that have a 13-gram in common with `known`, and the share of their 13-grams."""
    none: tuple[np.ndarray, np.ndarray] = (np.empty(0, np.uint64), np.empty(0, np.int64))
    hashes, counts = (np.concatenate(c) for c in zip(none, *(grams(batch, GRAM) for _, batch in batches(texts)), strict=True))
    if not len(hashes):
        return {"texts": 0.0, "grams": 0.0}
    order = np.argsort(hashes)
    new = np.diff(hashes[order], prepend=~hashes[order[:1]]) != 0
    distinct, place = hashes[order][new], np.cumsum(new) - 1
    met = np.zeros(len(distinct), bool)
    wanted = np.zeros(1 << 27, bool)  # buckets in which a 13-gram lies: most others are told apart by them alone
    wanted[bucket_of(distinct, 27)] = True
    for _, batch in batches(known):
        others = grams(batch, GRAM)[0]
        others = np.sort(others[wanted[bucket_of(others, 27)]])
        where = np.minimum(np.searchsorted(distinct, others), len(distinct) - 1)
        met[where[distinct[where] == others]] = True
    owner = np.repeat(np.arange(len(texts)), counts)
    hit = np.bincount(owner[order], met[place], len(texts)) > 0
    return {"texts": share(hit), "grams": share(met)}


def share(flags: np.ndarray) -> float:
    return round(float(flags.mean()), 4) if len(flags) else 0.0
