"""Which texts are nearly equal: MinHash proposes pairs quickly, an exact join shows whether one is left, 13-grams are counted.

Texts are compared as letters, digits and ideographs in lower case (`plain`). Two are near if the sets of their character
3-grams overlap by a threshold or more (Jaccard: those shared over all).
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np
from rensa import RMinHash

SHINGLE = 3  # characters
KEY_GRAM = 8  # characters
GRAM = 13  # characters, as decontamination counts 13-grams (Brown et al. 2020, appendix C, there of words)
PERMUTATIONS = 64
RECALL = 0.999  # the least chance that MinHash proposes a pair at the threshold
BITS = 512  # of the bitmaps that rule out most of what is not near
BATCH = 20_000  # texts whose shingles are in memory at once
NOT_WORD = re.compile(r"[\W_]+")
MIX = np.uint64(0x9E3779B97F4A7C15)


def plain(text: str) -> str:
    """Return a text as it is compared; one without any letter is compared as it stands."""
    return NOT_WORD.sub("", text).lower() or text


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


def batches(texts: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    for start in range(0, len(texts), BATCH):
        yield start, texts[start : start + BATCH]


def jaccard(a: str, b: str) -> float:
    """Return the overlap of two texts' sets of shingles."""
    one, other = ({text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))} for text in (a, b))
    return len(one & other) / len(one | other)


def near_pairs(texts: Sequence[str], threshold: float) -> np.ndarray:
    """Return index pairs [n, 2] of near texts, enough of them to connect those that are near.

    MinHash (Broder 1997) by rensa; signatures are compared in bands, with as many rows a band as RECALL allows. Texts that
    agree in a band are compared with the first of them and the one before, exactly.
    """
    if len(texts) < 2:
        return np.empty((0, 2), np.int64)
    signatures = np.concatenate([signatures_of(batch) for _, batch in batches(texts)])
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
        [(signatures[a] == signatures[b]).mean(1) for a, b in (p.T for p in np.array_split(pairs, len(pairs) // BATCH + 1))]
    )
    return verified(texts, texts, pairs[alike >= threshold - 0.25], threshold)


def signatures_of(texts: Sequence[str]) -> np.ndarray:
    """Return MinHash signatures [texts, PERMUTATIONS]."""
    hashes, counts = shingles(texts)
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    return np.array(RMinHash.digest_matrix_from_flat_token_hashes(hashes, ends, PERMUTATIONS, 1).to_rows(), np.uint64)


def verified(left: Sequence[str], right: Sequence[str], pairs: np.ndarray, threshold: float) -> np.ndarray:
    """Return those of the index pairs [n, 2] whose texts are near."""
    return np.array([pair for pair in pairs.tolist() if jaccard(left[pair[0]], right[pair[1]]) >= threshold], np.int64).reshape(
        -1, 2
    )


def all_pairs(left: Sequence[str], right: Sequence[str], threshold: float) -> np.ndarray:
    """Return all index pairs [n, 2] of a left text and a right one that are near, exactly, without MinHash.

    Prefix filtering (Chaudhuri et al. 2006, Bayardo et al. 2007): with shingles in one order, rarest first, two sets with
    Jaccard >= t share one of the first |x| - ceil(t |x|) + 1 of either. Any order will do; counts in hash buckets give one.
    """
    if not left or not right:
        return np.empty((0, 2), np.int64)
    buckets = np.zeros(1 << 20, np.int64)
    for texts in (left,) if left is right else (left, right):
        for _, batch in batches(texts):
            buckets += np.bincount(bucket_of(shingles(batch)[0]), minlength=len(buckets))
    rarity = np.argsort(np.argsort(buckets)).astype(np.uint64)
    parts, found = list(prefixes(left, threshold, rarity)), []
    known = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(known[0])
    rare, owner, size = (column[order] for column in known)
    for hashes, text, length in parts if left is right else prefixes(right, threshold, rarity):
        low, high = (np.searchsorted(rare, hashes, side) for side in ("left", "right"))
        hits = np.repeat(np.arange(len(hashes)), high - low)
        place = np.arange(len(hits)) - np.repeat(np.cumsum(high - low) - high, high - low)
        fits = np.minimum(size[place], length[hits]) >= threshold * np.maximum(size[place], length[hits])
        if left is right:
            fits &= owner[place] < text[hits]
        found.append(np.unique(owner[place][fits] * len(right) + text[hits][fits]))
    codes = np.unique(np.concatenate(found))
    pairs = np.stack([codes // len(right), codes % len(right)], 1)
    return verified(left, right, pairs[may_be_near(left, right, pairs, threshold)], threshold)


def may_be_near(left: Sequence[str], right: Sequence[str], pairs: np.ndarray, threshold: float) -> np.ndarray:
    """Return for index pairs [n, 2] whether the shingles that their bitmaps show to differ leave room for the threshold.

    A bitmap has a bit for each shingle's bucket: as many bits as differ, so many shingles do at least (Sandes et al. 2020).
    """
    (one, size), (other, length) = bitmaps(left), bitmaps(right)
    room = (1 - threshold) / (1 + threshold) * (size[pairs[:, 0]] + length[pairs[:, 1]])
    chunks = np.array_split(pairs, len(pairs) // BATCH + 1)
    differ = np.concatenate([np.bitwise_count(one[a] ^ other[b]).sum(1) for a, b in (chunk.T for chunk in chunks)])
    return differ <= room + 1e-9


def bitmaps(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return a bitmap of each text's shingles [texts, BITS / 8] and how many it has at the most [texts]."""
    maps, sizes = [], []
    for _, batch in batches(texts):
        hashes, counts = shingles(batch)
        bits = np.zeros((len(batch), BITS), bool)
        bits[np.repeat(np.arange(len(batch)), counts), (hashes % np.uint64(BITS)).astype(np.int64)] = True
        maps.append(np.packbits(bits, axis=1))
        sizes.append(counts)
    return np.concatenate(maps), np.concatenate(sizes)


def bucket_of(hashes: np.ndarray, bits: int = 20) -> np.ndarray:
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)


def prefixes(texts: Sequence[str], threshold: float, rarity: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the shingles of each text's prefix, with the text's index and the size of its set, batch by batch."""
    for start, batch in batches(texts):
        hashes, counts = shingles(batch)
        text = np.repeat(np.arange(len(batch), dtype=np.uint16), counts)
        order = np.argsort((rarity[bucket_of(hashes)] << np.uint64(44)) | (hashes & np.uint64((1 << 44) - 1)))
        order = order[np.argsort(text[order], kind="stable")]
        hashes, text = hashes[order], text[order].astype(np.int64)
        new = np.concatenate([[True], (hashes[1:] != hashes[:-1]) | (text[1:] != text[:-1])])
        hashes, text = hashes[new], text[new]
        size = np.bincount(text, minlength=len(batch))
        rank = np.arange(len(text)) - (np.cumsum(size) - size)[text]
        kept = rank < (size - np.ceil(threshold * size - 1e-9).astype(np.int64) + 1)[text]
        yield hashes[kept], text[kept] + start, size[text[kept]]


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
