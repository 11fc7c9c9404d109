"""What became of the records of a source: counted, equal dialogues found, all of it told by stats.json."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import orjson

from xinglin.dialogues import personal
from xinglin.dialogues.batches import Origin
from xinglin.dialogues.rows import texts_of

UNDESIRED = "an undesired answer: it is kept in preferences.jsonl"
PAIR = "a pair of preferences: it is kept in preferences.jsonl"
CONTRADICTED = "an answer that another record calls undesired: it is kept in preferences.jsonl"
SET_ASIDE = (UNDESIRED, PAIR, CONTRADICTED)  # which the budget of rejects does not count
PLACE = np.dtype([("file", "u4"), ("line", "u4"), ("lines", "u4"), ("element", "u4")])


class Span(NamedTuple):
    """The lines of a source that a record covers, and in an array its place."""

    source: str  # its file in data/raw
    line: int
    lines: int
    element: int = 0

    def named(self) -> dict:
        return {name: value for name, value in self._asdict().items() if value}


@dataclass
class Counts:
    """What stats.json tells of the converted dialogues beside how many there are."""

    mended: Counter = field(default_factory=Counter)  # over duplicates too
    found: personal.Found = field(default_factory=personal.Found)  # over duplicates and rejects too
    unread: Counter = field(default_factory=Counter)  # keys of records that nobody reads, likewise
    questions: Counter = field(default_factory=Counter)
    question_characters: Counter = field(default_factory=Counter)
    answer_characters: Counter = field(default_factory=Counter)

    def add(self, texts: list[str]) -> None:
        self.questions[len(texts) // 2] += 1
        self.question_characters.update(map(len, texts[::2]))
        self.answer_characters.update(map(len, texts[1::2]))

    def update(self, other: "Counts") -> None:
        for name, counter in vars(other).items():
            getattr(self, name).update(counter)

    def take_back(self, texts: list[str]) -> None:
        self.questions[len(texts) // 2] -= 1
        self.question_characters.subtract(map(len, texts[::2]))
        self.answer_characters.subtract(map(len, texts[1::2]))


@dataclass
class Chunk:
    """What became of the records of a batch."""

    origin: Origin
    records: int
    left_out: int  # records that were not drawn
    lines: int  # of the source that they cover
    rows: list[bytes] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)  # of the rows' texts, 64 bits
    places: list[int] = field(default_factory=list)  # of the rows' records in this batch
    spans: list[Span] = field(default_factory=list)  # of the source that the rows come from
    rejects: list[dict] = field(default_factory=list)
    preferences: list[bytes] = field(default_factory=list)  # rows that tell which answers are desired
    undesired: list[int] = field(default_factory=list)  # hashes of the dialogues with such an answer
    columns: set[str] = field(default_factory=set)  # of those that `converted.columns` names, which some record has
    keys: list[str] = field(default_factory=list)  # of the first record, if columns are named
    shapes: dict[str, str] = field(default_factory=dict)  # the first record of each
    counts: Counts = field(default_factory=Counts)


@dataclass
class SourceTally:
    """What was read of one source; always raw = converted + rejected + duplicates."""

    raw: int = 0
    left_out: int = 0  # by its share and limit, beside the raw ones
    lines: int = 0  # of the source, and of them those of what the budget counts as rejected
    rejected_lines: int = 0
    converted: int = 0
    duplicates: int = 0  # of its own rows, or of a source before it
    reasons: Counter = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, dict[str, str]] = field(default_factory=dict)  # by file, the first record of each
    columns: set[str] = field(default_factory=set)  # of those that `converted.columns` names, which some record has
    keys: list[str] = field(default_factory=list)

    def add(self, chunk: Chunk, new: int) -> None:
        self.raw += chunk.records
        self.left_out += chunk.left_out
        self.lines += chunk.lines
        self.converted += new
        self.duplicates += len(chunk.rows) - new
        self.columns |= chunk.columns
        self.keys = self.keys or chunk.keys
        self.shapes[chunk.origin.file] = chunk.shapes | self.shapes.get(chunk.origin.file, {})
        for reject in chunk.rejects:
            self.reasons[reject["reason"]] += 1
            self.rejected_lines += reject["lines"] * (reject["reason"] not in SET_ASIDE)
            self.examples.setdefault(reject["reason"], f"line {reject['line']}: {' '.join(reject['text'].split())}")

    @property
    def set_aside(self) -> int:
        return sum(self.reasons[reason] for reason in SET_ASIDE)

    def take_back(self, reject: dict) -> None:
        """Count a dialogue that was converted as a reject."""
        self.converted -= 1
        self.reasons[reject["reason"]] += 1
        self.examples.setdefault(reject["reason"], f"line {reject['line']}: {reject['text']}")

    def stats(self) -> dict:
        return {
            "shape": next((shape for shapes in self.shapes.values() for shape in shapes), None),
            "raw": self.raw,
            "converted": self.converted,
            "rejected": self.reasons.total(),
            "duplicates": self.duplicates,
            "left_out": self.left_out,
        }


@dataclass
class Tally:
    """What was read and written so far, of each source and of all."""

    sources: dict[str, SourceTally] = field(default_factory=dict)
    preferences: int = 0  # rows of preferences.jsonl
    counts: Counts = field(default_factory=Counts)
    files: list[str] = field(default_factory=list)
    seen: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))  # hashes of the rows written, sorted
    places: np.ndarray = field(default_factory=lambda: np.empty(0, PLACE))  # where these rows come from
    undesired: set[int] = field(default_factory=set)  # hashes of dialogues with an answer that some record calls undesired

    def add(self, chunk: Chunk) -> tuple[list[bytes], list[dict]]:
        """Count a chunk and return those of its rows that are new, and of the others where they and their first stand."""
        self.counts.update(chunk.counts)
        self.preferences += len(chunk.preferences)
        self.undesired.update(chunk.undesired)
        if chunk.origin.file not in self.files:
            self.files.append(chunk.origin.file)
        new, firsts = self.unseen(chunk)
        self.sources.setdefault(chunk.origin.source, SourceTally()).add(chunk, len(new))
        duplicates = []
        for place in sorted(set(range(len(chunk.rows))) - set(new)):
            self.counts.take_back(texts_of(orjson.loads(chunk.rows[place])))
            file, *first = firsts[place].tolist()
            of = Span(self.files[file], *first)
            duplicates.append(chunk.spans[place].named() | {"of": of.named()})
        return [chunk.rows[place] for place in new], duplicates

    def unseen(self, chunk: Chunk) -> tuple[list[int], np.ndarray]:
        """Return which rows are met for the first time, and where each one's first stands; remember them (24 bytes a row)."""
        file = self.files.index(chunk.origin.file)
        places = np.array([(file, *span[1:]) for span in chunk.spans], PLACE)
        values, first, inverse = np.unique(np.array(chunk.hashes, np.uint64), return_index=True, return_inverse=True)
        where = np.searchsorted(self.seen, values)
        known = np.zeros(len(values), bool)
        inside = where < len(self.seen)
        known[inside] = self.seen[where[inside]] == values[inside]
        firsts = places[first]
        firsts[known] = self.places[where[known]]
        self.seen = np.insert(self.seen, where[~known], values[~known])
        self.places = np.insert(self.places, where[~known], firsts[~known])
        return sorted(first[~known].tolist()), firsts[inverse]

    def contradicted(self) -> list[Span]:
        """Return where the rows come from whose answer another record calls undesired."""
        found = np.isin(self.seen, np.array(sorted(self.undesired), np.uint64))
        return [Span(self.files[file], *place) for file, *place in self.places[found].tolist()]

    def take_back(self, reject: dict, texts: list[str]) -> None:
        """Count a row that was written as a reject."""
        self.counts.take_back(texts)
        next(source for source in self.sources.values() if reject["source"] in source.shapes).take_back(reject)

    def total(self, count: str) -> int:
        return sum(getattr(source, count) for source in self.sources.values())

    @property
    def raw(self) -> int:
        return self.total("raw")

    @property
    def converted(self) -> int:
        return self.total("converted")

    @property
    def duplicates(self) -> int:
        return self.total("duplicates")

    @property
    def left_out(self) -> int:
        return self.total("left_out")

    @property
    def reasons(self) -> Counter:
        return sum((source.reasons for source in self.sources.values()), Counter())

    def stats(self) -> dict:
        counts, reasons = self.counts, self.reasons
        shapes = [shape for source in self.sources.values() if (shape := source.stats()["shape"])]
        return {
            "raw": self.raw,
            "converted": self.converted,
            "rejected": reasons.total(),
            "duplicates": self.duplicates,
            "left_out": self.left_out,
            "shape": next(iter(shapes), None),
            "reasons": dict(reasons.most_common()),
            "mended": dict(sorted(counts.mended.items())),
            "personal_data": dict(sorted(counts.found.kinds.items())),
            "personal_data_examples": dict(sorted(counts.found.examples.items())),
            "unread": dict(counts.unread.most_common()),
            "preferences": self.preferences,
            "multi_turn": self.converted - counts.questions[1],
            "questions_per_dialogue": {str(n): counts.questions[n] for n in sorted(counts.questions) if counts.questions[n]},
            "question_characters": percentiles(counts.question_characters),
            "answer_characters": percentiles(counts.answer_characters),
        }


def percentiles(counts: Counter) -> dict[str, int]:
    """Return the 5th, 50th, 95th and 100th percentile of a histogram of lengths (nearest rank)."""
    wanted, seen, found = [5, 50, 95, 100], 0, {}
    for value in sorted(value for value in counts if counts[value]):
        seen += counts[value]
        while wanted and seen * 100 >= counts.total() * wanted[0]:
            found[f"p{wanted.pop(0)}"] = value
    return found
