"""Texts as code points in a file, read batch by batch: millions of them take no memory but a few numbers each."""

import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar, overload

import numpy as np

POINTS = 1 << 17  # of a batch: what numpy makes of them stays in the processor's cache
BATCH = 8192  # texts of a batch at the most: 13 bits number them
MIX = np.uint64(0x9E3779B97F4A7C15)
T = TypeVar("T")


class Batch(NamedTuple):
    """Code points of some texts, one after the other [all], and the texts' lengths [texts]."""

    points: np.ndarray
    lengths: np.ndarray

    @property
    def begins(self) -> np.ndarray:
        return np.cumsum(self.lengths) - self.lengths

    def padded(self, size: int) -> "Batch":
        """Return the batch with U+0000 behind each text shorter than `size`."""
        if not len(self.lengths) or self.lengths.min() >= size:
            return self
        lengths = np.maximum(self.lengths, size)
        points = np.zeros(lengths.sum(), np.uint32)
        points[places(np.cumsum(lengths) - lengths, self.lengths)] = self.points
        return Batch(points, lengths)


class PointsFile:
    """A file without a name that is closed, and gone, when the last selection of its texts is."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115

    def __del__(self) -> None:
        self.file.close()

    def read(self, start: int, count: int) -> bytes:
        return os.pread(self.file.fileno(), 4 * count, 4 * start)

    def write(self, start: int, points: bytes) -> None:
        os.pwrite(self.file.fileno(), points, 4 * start)


class Stored(Sequence[str]):
    """Texts in a temporary file as UTF-32: where each begins and how long it is, in code points.

    A selection shares the file; the places of what is read in batches rise.
    """

    def __init__(self, file: PointsFile, starts: np.ndarray, lengths: np.ndarray) -> None:
        self.file, self.starts, self.lengths = file, starts, lengths

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> "Stored": ...
    def __getitem__(self, place: int | slice) -> "str | Stored":
        if isinstance(place, slice):
            return Stored(self.file, self.starts[place], self.lengths[place])
        return self.file.read(int(self.starts[place]), int(self.lengths[place])).decode("utf-32-le", "surrogatepass")

    def take(self, chosen: np.ndarray) -> "Stored":
        """Return the texts at some places, or those that a mask chooses."""
        return Stored(self.file, self.starts[chosen], self.lengths[chosen])

    def within(self, before: np.ndarray, behind: np.ndarray) -> "Stored":
        """Return the texts without some code points before and behind."""
        return Stored(self.file, self.starts + before, self.lengths - before - behind)

    def restore(self, chosen: np.ndarray, other: "Stored") -> None:
        """Put texts of another file in the place of what is left of them, for which there is room."""
        for place in chosen.tolist() if self.file is not other.file else ():
            text = other.file.read(int(other.starts[place]), int(other.lengths[place]))
            self.file.write(int(self.starts[place]), text)
        self.lengths[chosen] = other.lengths[chosen]

    def batch(self, begin: int, end: int) -> Batch:
        """Return neighbouring texts, whose places in the file rise."""
        starts, lengths = self.starts[begin:end], self.lengths[begin:end]
        first = int(starts[0])
        points = np.frombuffer(self.file.read(first, int(starts[-1] + lengths[-1]) - first), np.uint32)
        if len(points) != lengths.sum():
            points = points[places(starts - first, lengths)]
        return Batch(points, lengths)

    def cuts(self) -> Iterator[tuple[int, int]]:
        """Yield begin and end of each batch."""
        edges = [*np.flatnonzero(np.diff(self.starts // POINTS, prepend=-1)).tolist(), len(self)]
        for begin, end in itertools.pairwise(edges):
            yield from ((start, min(start + BATCH, end)) for start in range(begin, end, BATCH))


def places(begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the places begin, begin + 1 … of each run of `counts` [sum of counts]."""
    return np.arange(counts.sum()) + np.repeat(begins - (np.cumsum(counts) - counts), counts)


def batch_of(texts: Sequence[str]) -> Batch:
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    return Batch(points, np.fromiter(map(len, texts), np.int64, len(texts)))


def store(batches: Iterable[Batch]) -> Stored:
    """Write texts into a temporary file, which goes with the last use of it."""
    points, lengths = PointsFile(), [np.empty(0, np.int64)]
    for batch in batches:
        points.file.write(batch.points.data)
        lengths.append(batch.lengths)
    points.file.flush()
    together = np.concatenate(lengths)
    return Stored(points, np.cumsum(together) - together, together)


def stored(texts: Sequence[str]) -> Stored:
    if isinstance(texts, Stored):
        return texts
    return store(batch_of(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH))


def by_batch(work: Callable[[int, Batch], T], texts: Stored) -> Iterator[T]:
    """Yield `work(start, batch)` of all batches in their order, a thread for each processor: numpy lets go of Python's lock."""

    def one(begin: int, end: int) -> T:
        return work(begin, texts.batch(begin, end))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting: list = []
        for begin, end in texts.cuts():
            waiting.append(pool.submit(one, begin, end))
            if len(waiting) > 2 * (os.cpu_count() or 1):
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def count(buckets: np.ndarray, work: Callable[[Batch], np.ndarray], texts: Stored) -> None:
    """Add to `buckets` how often `work` of the batches names each."""
    for numbers in by_batch(lambda _, batch: work(batch), texts):
        np.add.at(buckets, numbers, buckets.dtype.type(1))


def distinct(texts: Stored) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of the first of each set of equal texts, rising [distinct], and for each text which of them it is.

    Texts are told apart by 64 bits: two of ten million are taken for one with a chance of one in 400,000.
    """

    def digests(_: int, batch: Batch) -> np.ndarray:
        place = np.arange(len(batch.points), dtype=np.uint64) - np.repeat(batch.begins, batch.lengths).astype(np.uint64)
        hashes = (batch.points ^ (place << np.uint64(32))) * MIX
        hashes = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(0xBF58476D1CE4E5B9)
        if not len(hashes):
            return np.zeros(len(batch.lengths), np.uint64)
        sums = np.add.reduceat(hashes ^ (hashes >> np.uint64(29)), np.minimum(batch.begins, len(hashes) - 1))
        return np.where(batch.lengths > 0, sums + batch.lengths.astype(np.uint64) * MIX, np.uint64(0))

    keys = np.concatenate([np.empty(0, np.uint64), *by_batch(digests, texts)])
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(first), np.int64)
    rank[order] = np.arange(len(first))
    return first[order], rank[which]
