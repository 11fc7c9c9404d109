"""What became of the records of a source: counted, equal dialogues found, all of it told by stats.json."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import orjson

from xinglin.dialogues import personal
from xinglin.dialogues.rows import texts_of

UNDESIRED = "an undesired answer: it is kept in preferences.jsonl"
PAIR = "a pair of preferences: it is kept in preferences.jsonl"
SET_ASIDE = (UNDESIRED, PAIR)  # which the budget of rejects does not count


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
    """What became of some neighbouring records."""

    records: int
    lines: int  # of the source that they cover
    rows: list[bytes] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)  # of the rows' texts, 64 bits
    places: list[int] = field(default_factory=list)  # of the rows' records in this chunk
    rejects: list[dict] = field(default_factory=list)
    preferences: list[bytes] = field(default_factory=list)  # rows that tell which answers are desired
    shapes: dict[str, str] = field(default_factory=dict)  # the first record of each
    counts: Counts = field(default_factory=Counts)


@dataclass
class Tally:
    """What was read and written so far; always raw = converted + rejected + duplicates."""

    raw: int = 0
    lines: int = 0  # of the source, and of them those of what the budget counts as rejected
    rejected_lines: int = 0
    converted: int = 0
    duplicates: int = 0
    preferences: int = 0  # rows of preferences.jsonl
    reasons: Counter = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, str] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    seen: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))  # hashes of the rows written, sorted

    def add(self, chunk: Chunk) -> list[bytes]:
        """Count a chunk and return those of its rows that are new."""
        self.raw += chunk.records
        self.lines += chunk.lines
        self.counts.update(chunk.counts)
        self.shapes = chunk.shapes | self.shapes
        self.preferences += len(chunk.preferences)
        for reject in chunk.rejects:
            self.reasons[reject["reason"]] += 1
            self.rejected_lines += reject["lines"] * (reject["reason"] not in SET_ASIDE)
            self.examples.setdefault(reject["reason"], f"line {reject['line']}: {' '.join(reject['text'].split())}")
        new = self.unseen(chunk.hashes)
        for place in set(range(len(chunk.rows))) - set(new):
            self.counts.take_back(texts_of(orjson.loads(chunk.rows[place])))
        self.converted += len(new)
        self.duplicates += len(chunk.rows) - len(new)
        return [chunk.rows[place] for place in new]

    def unseen(self, hashes: list[int]) -> list[int]:
        """Return the places of hashes met for the first time, and remember them (8 bytes a row)."""
        values, first = np.unique(np.array(hashes, np.uint64), return_index=True)
        where = np.searchsorted(self.seen, values)
        known = np.zeros(len(values), bool)
        inside = where < len(self.seen)
        known[inside] = self.seen[where[inside]] == values[inside]
        self.seen = np.insert(self.seen, where[~known], values[~known])
        return sorted(first[~known].tolist())

    def stats(self) -> dict:
        counts = self.counts
        return {
            "raw": self.raw,
            "converted": self.converted,
            "rejected": self.reasons.total(),
            "duplicates": self.duplicates,
            "shape": next(iter(self.shapes), None),
            "reasons": dict(self.reasons.most_common()),
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
