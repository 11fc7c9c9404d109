"""Records of a source in batches, without those that its share and limit do not draw."""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from xinglin.dialogues.record import LIMIT, Broken, Record, size

BATCH = 2000  # records that a process converts at once
POINTS = 1 << 64  # what points are drawn from


class Origin(NamedTuple):
    """Where the records of a batch come from."""

    source: str = "dialogues"  # its name in params.yaml
    file: str = "dialogues.jsonl"  # its name in data/raw
    part: str | None = None  # the side of the split that the file is, if it is one
    keys: tuple[str, ...] = ()  # what rows of this run have beside source and line, because some file needs it

    def place(self, record: Record) -> dict[str, Any]:
        """Return what a row says of where it comes from; all rows have the same keys, or `datasets` does not load them."""
        every = {"source": self.file, "line": record.line, "element": record.element, "part": self.part or ""}
        return {key: value for key, value in every.items() if key in ("source", "line", *self.keys)}


ALONE = Origin()


class Batch(NamedTuple):
    """Some neighbouring records of a file, and how many among them were not drawn."""

    records: list[Record]
    origin: Origin = ALONE
    left_out: int = 0

    @property
    def full(self) -> bool:
        return len(self.records) == BATCH or sum(size(record.value) for record in self.records) > LIMIT


def batches(given: Iterable[Record], origin: Origin = ALONE, bound: int = POINTS, seed: int = 0) -> Iterator[Batch]:
    """Yield BATCH records at a time, fewer if they would fill the memory; none whose point is above `bound`."""
    records: list[Record] = []
    length = left_out = 0
    for record in given:
        if bound < POINTS and point(record, seed) > bound:
            left_out += 1
            continue
        records.append(record)
        length += size(record.value)
        if len(records) == BATCH or length > LIMIT:
            yield Batch(records, origin, left_out)
            records, length, left_out = [], 0, 0
    if records or left_out:
        yield Batch(records, origin, left_out)


def point(record: Record, seed: int) -> int:
    """Return the seeded hash of what a record holds, below POINTS: wherever it stands, and whatever stands beside it."""
    digest = blake2b(as_bytes(record.value).strip(), digest_size=8, salt=seed.to_bytes(4, "little"))
    return int.from_bytes(digest.digest(), "little")


def as_bytes(value: bytes | dict | Broken) -> bytes:
    """Return a record as it stands in its source, a row of a table as JSON."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, Broken):
        return value.text.encode()
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
