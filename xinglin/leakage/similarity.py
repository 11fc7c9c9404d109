"""Which texts are nearly equal, exactly: pieces of their sets of shingles are looked up.

Two texts are near if the sets of their character 3-grams overlap by a threshold or more (Jaccard: those shared over all).
"""

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from xinglin.leakage.grams import SHINGLE, bucket_of, mixed, shingles, sorted_set
from xinglin.leakage.stored import MIX, Batch, Stored, by_batch, count, places, stored

PIECES_FROM = 0.8  # the threshold from which on pieces of sets are large enough to tell texts apart
LEVEL = 1.25  # between the sizes of sets that are cut into equally many pieces
OWNER = np.uint64(26)  # bits of a text's number beside 38 of a hash
SPILLED = 16  # files
BITS = 1024  # of the bitmaps that rule out most of what is not near
SETS = 10_000  # of shingles, in memory at once
CHUNK = 20_000  # pairs compared at once
HITS = 2_000_000  # places in which a shingle is found at once


def groups(links: np.ndarray, count: int) -> np.ndarray:
    """Return the group number of each of `count` things: those that `links` [n, 2] connect, in chains too, share it."""
    graph = coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def near_pairs(given: Sequence[str], threshold: float) -> np.ndarray:
    """Return index pairs [n, 2] of near texts, enough of them to connect all that are near, exactly.

    A set of shingles is cut into more pieces, by hash, than shingles of a near one can differ: one piece at the least is the
    same in both (Arasu et al. 2006). Texts with an equal piece are compared with the first of them and the one before, then
    with all that this left in another group: so a thousand copies cost no million pairs.
    """
    texts = stored(given)
    if threshold < PIECES_FROM:
        return all_pairs(texts, texts, threshold)
    owner, run = equal_pieces(texts, threshold)
    maps = bitmaps(texts)
    begins = np.flatnonzero(np.diff(run, prepend=-1))
    leader = np.repeat(owner[begins], np.diff(begins, append=len(owner)))
    chain = run[1:] == run[:-1]
    pairs = np.concatenate([np.stack([leader, owner], 1), np.stack([owner[:-1], owner[1:]], 1)[chain]])
    found = near_of(texts, maps, pairs, threshold)
    label = groups(found, len(texts))
    sizes = np.diff(begins, append=len(owner))
    split = np.maximum.reduceat(label[owner], begins) != np.minimum.reduceat(label[owner], begins) if len(owner) else begins > 0
    left = np.repeat(split, sizes)
    owner, size = owner[left], sizes[split]
    behind = np.repeat(np.cumsum(size), size) - np.arange(len(owner)) - 1  # members of the run that follow
    rest = [found]
    for part in np.array_split(np.arange(len(owner)), behind.sum() // HITS + 1):
        one, other = np.repeat(owner[part], behind[part]), owner[places(part + 1, behind[part])]
        apart = label[one] != label[other]
        rest.append(near_of(texts, maps, np.stack([one[apart], other[apart]], 1), threshold))
    return np.concatenate(rest)


def near_of(texts: Stored, maps: np.ndarray, pairs: np.ndarray, threshold: float) -> np.ndarray:
    """Return which of the index pairs [n, 2] are near, each once."""
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], 1)
    codes = sorted_set(pairs[:, 0] * len(texts) + pairs[:, 1])
    pairs = np.stack([codes // len(texts), codes % len(texts)], 1)
    sizes = most_shingles(texts)[pairs].sum(1)
    return verified(texts, texts, may_be_near(maps, maps, sizes, pairs, threshold), threshold)


def equal_pieces(texts: Stored, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the texts that have a piece in common with another, piece after piece [n], and the pieces' numbers [n].

    What a text's pieces are called, 38 bits of a hash and 26 of the text's number, is spilled into files by its first bits.
    """
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(SPILLED)]
        for names in by_batch(pieces(threshold, int(texts.lengths.max(initial=1))), texts):
            bounds = np.searchsorted(names, np.arange(SPILLED + 1, dtype=np.uint64) << np.uint64(60)).tolist()
            bounds[-1] = len(names)
            for file, begin, end in zip(files, bounds, bounds[1:], strict=False):
                file.write(names[begin:end].data)
        owners, runs, count = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
        for file in files:
            file.seek(0)
            names = np.sort(np.frombuffer(file.read(), np.uint64))
            same = np.diff(names >> OWNER) == 0
            names = names[np.append(same, False) | np.append(False, same)] if len(names) else names
            new = np.diff(names >> OWNER, prepend=~np.uint64(0)) != 0
            owners.append((names & ((np.uint64(1) << OWNER) - np.uint64(1))).astype(np.int64))
            runs.append(np.cumsum(new) + count)
            count += int(new.sum())
    return np.concatenate(owners), np.concatenate(runs)


def pieces(threshold: float, longest: int) -> Callable[[int, Batch], np.ndarray]:
    """Return what gives the names of the pieces of a batch's texts, in order.

    Sets of up to `tops[k]` shingles that are near differ in no more than tops[k] (1 - t) / t of them; one that is larger
    belongs to the next level, and to this one too where it can be near a smaller set.
    """
    tops = [1]
    while tops[-1] < longest:
        tops.append(int(LEVEL * (tops[-1] + 1)))
    top = np.array(tops)
    counts, reach = (top * (1 - threshold) / threshold + 1e-9).astype(np.int64) + 1, np.append(0, top / threshold + 1e-9)

    def named(start: int, batch: Batch) -> np.ndarray:
        hashes, size = shingles(batch)
        text = np.repeat(np.arange(len(size), dtype=np.uint64) << np.uint64(51), size)
        key = sorted_set(text | (hashes >> np.uint64(13)))
        text, value = (key >> np.uint64(51)).astype(np.int64), key & np.uint64((1 << 51) - 1)
        size = np.bincount(text, minlength=len(size))
        level, found = np.searchsorted(top, size), []
        for below in (0, 1):
            count = np.where(size <= reach[level], counts[level - 1], 0) if below else counts[level]
            begins = np.cumsum(count) - count
            inside = slice(None) if not below else count[text] > 0
            owner, some = text[inside], value[inside]
            if not len(owner):
                continue
            place = begins[owner] + ((some >> np.uint64(19)) * count.astype(np.uint64)[owner] >> np.uint64(32)).astype(np.int64)
            first = np.flatnonzero(np.diff(place, prepend=-1))
            name = np.zeros(count.sum(), np.uint64)
            name[place[first]] = np.add.reduceat(some, first)
            number = np.arange(len(name)) - np.repeat(begins - (level - below << 32), count)
            name = mixed(name ^ mixed(number.astype(np.uint64) * MIX))
            owner = np.repeat(np.arange(start, start + len(count), dtype=np.uint64), count)
            found.append((name >> OWNER << OWNER) | owner)
        return np.sort(np.concatenate(found))

    return named


def verified(left: Stored, right: Stored, pairs: np.ndarray, threshold: float) -> np.ndarray:
    """Return those of the index pairs [n, 2] whose texts are near."""
    return pairs[overlaps(left, right, pairs)[:, 0] >= threshold]


def overlaps(left: Sequence[str], right: Sequence[str], pairs: np.ndarray) -> np.ndarray:
    """Return of index pairs [n, 2] Jaccard overlap and share of the smaller set [n, 2], exactly."""
    found = np.zeros((len(pairs), 2))
    ones, others = (lru_cache(SETS)(lambda place, texts=texts: shingle_array(texts[place])) for texts in (left, right))
    for row, (i, j) in enumerate(pairs.tolist()):
        one, other = ones(i), others(j)
        together = np.sort(np.concatenate([one, other]))
        common = np.count_nonzero(together[1:] == together[:-1])
        found[row] = common / (len(together) - common), common / min(len(one), len(other))
    return found


def shingle_array(text: str) -> np.ndarray:
    """Return the distinct shingles of a text, 21 bits for each of their code points, in order."""
    points = np.frombuffer(text.ljust(SHINGLE, "\0").encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    return sorted_set((points[:-2] << np.uint64(42)) | (points[1:-1] << np.uint64(21)) | points[2:])


def all_pairs(left: Sequence[str], right: Sequence[str], threshold: float) -> np.ndarray:
    """Return all index pairs [n, 2] of a left text and a right one that are near, exactly.

    Prefix filtering (Chaudhuri et al. 2006, Bayardo et al. 2007): with shingles in one order, rarest first, two sets with
    Jaccard >= t share one of the first |x| - ceil(t |x|) + 1 of either. Any order will do; counts in hash buckets give one.
    """
    if not left or not right:
        return np.empty((0, 2), np.int64)
    same, left, right = left is right, stored(left), stored(right)
    rarity = ranks((left,) if same else (left, right))
    known = [np.concatenate(column) for column in zip(*by_batch(prefixes(threshold, rarity), left), strict=True)]
    order = np.argsort(known[0])
    rare, owner, size = (column[order] for column in known)
    indexed = np.zeros(1 << 24, bool)  # most shingles are told to be in no prefix of `left` by their bucket alone
    indexed[rare & np.uint64((1 << 24) - 1)] = True
    prefix = prefixes(threshold, rarity)

    def matches(start: int, batch: Batch) -> np.ndarray:
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
            if same:
                fits &= owner[place] < text[hits]
            found.append(sorted_set(owner[place][fits].astype(np.int64) * len(right) + text[hits][fits]))
        return sorted_set(np.concatenate(found))

    codes = np.concatenate(list(by_batch(matches, right)))
    pairs = np.stack([codes // len(right), codes % len(right)], 1)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    sizes = most_shingles(left)[pairs[:, 0]] + most_shingles(right)[pairs[:, 1]]
    one = bitmaps(left)
    pairs = may_be_near(one, one if same else bitmaps(right), sizes, pairs, threshold)
    return verified(left, right, pairs, threshold)


def may_be_near(left: np.ndarray, right: np.ndarray, sizes: np.ndarray, pairs: np.ndarray, threshold: float) -> np.ndarray:
    """Return those of the index pairs [n, 2] that may be near for all that their bitmaps show.

    A bitmap has a bit for each shingle's bucket: as many bits as differ, so many shingles do at least (Sandes et al. 2020).
    `sizes` [n] is how many shingles both have at the most.
    """
    fits = [np.empty(0, bool)]
    for chunk in np.array_split(np.arange(len(pairs)), len(pairs) // CHUNK + 1):
        differ = np.bitwise_count(left[pairs[chunk, 0]] ^ right[pairs[chunk, 1]]).sum(1)
        fits.append(differ <= (1 - threshold) / (1 + threshold) * sizes[chunk] + 1e-9)
    return pairs[np.concatenate(fits)]


def bitmaps(texts: Stored) -> np.ndarray:
    """Return a bitmap of the shingles of each text [texts, BITS / 64]."""

    def packed(_: int, batch: Batch) -> np.ndarray:
        hashes, counts = shingles(batch)
        bits = np.zeros((len(counts), BITS), bool)
        bits[np.repeat(np.arange(len(counts)), counts), (hashes % np.uint64(BITS)).astype(np.int64)] = True
        return np.packbits(bits, axis=1).view(np.uint64)

    return np.concatenate([np.empty((0, BITS // 64), np.uint64), *by_batch(packed, texts)])


def most_shingles(texts: Stored) -> np.ndarray:
    return np.maximum(texts.lengths - SHINGLE + 1, 1)


def ranks(collections: Sequence[Stored]) -> np.ndarray:
    """Return the rank of each shingle bucket [2 ** 20], the rarest first."""
    buckets = np.zeros(1 << 20, np.uint32)
    for texts in collections:
        count(buckets, lambda batch: bucket_of(shingles(batch)[0]), texts)
    return np.argsort(np.argsort(buckets)).astype(np.uint64)


def prefixes(threshold: float, rarity: np.ndarray) -> Callable[[int, Batch], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return what gives the shingles of the prefix of each text of a batch, with the text's index and the size of its set.

    A shingle is its bucket's rank and 31 bits of its hash; one sort of numbers that begin with the text's place puts the
    shingles of each text in the order of rarity.
    """

    def prefix(start: int, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        hashes, counts = shingles(batch)
        key = np.repeat(np.arange(len(counts), dtype=np.uint64) << np.uint64(51), counts)
        key |= (rarity[bucket_of(hashes)] << np.uint64(31)) | (hashes & np.uint64((1 << 31) - 1))
        key = sorted_set(key)
        text = (key >> np.uint64(51)).astype(np.int32)
        size = np.bincount(text, minlength=len(counts)).astype(np.int32)
        rank = np.arange(len(text)) - (np.cumsum(size) - size)[text]
        kept = rank < (size - np.ceil(threshold * size - 1e-9).astype(np.int64) + 1)[text]
        return key[kept] & np.uint64((1 << 51) - 1), text[kept] + np.int32(start), size[text[kept]]

    return prefix
