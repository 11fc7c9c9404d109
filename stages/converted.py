"""converted: raw records as LLaMA-Factory alpaca rows; what cannot be used is listed with its line and reason.

Usage: stages/run converted --raw data/raw --out data/converted
"""

import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from multiprocessing.pool import AsyncResult
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import orjson
from pydantic import model_validator
from tqdm import tqdm

from xinglin.cli import CommandError, run_command, start
from xinglin.dialogues.cleaning import clean, tidy
from xinglin.dialogues.formats import SHAPES, Dialogue, Unusable, shape_of
from xinglin.dialogues.reading import Broken, Record, records
from xinglin.dialogues.rows import alpaca_row, texts_of
from xinglin.files import atomic_path, write_json
from xinglin.params import Count, ParamsFile, Section, Share
from xinglin.processes import workers

SHOWN = 200  # characters of a rejected record that rejects.jsonl shows
CHUNK = 2000  # records that a process converts at once


class Converted(Section):
    format: Literal["auto", "huatuo", "alpaca", "sharegpt", "messages", "csv"]
    columns: dict[str, str] | None
    output: Literal["jsonl", "json"]
    system: str
    max_dialogues: Count | None
    max_turn_characters: Count
    max_reject_rate: Share

    @model_validator(mode="after")
    def columns_suffice(self) -> "Converted":
        if self.columns is None:
            return self
        if unknown := self.columns.keys() - {"title", "question", "answer", "department"}:
            raise ValueError(f"columns: unknown {', '.join(unknown)}, expected title, question, answer or department")
        if "answer" not in self.columns or not {"question", "title"} & self.columns.keys():
            raise ValueError("columns must name at least an answer, and a question or a title")
        return self


class Params(ParamsFile):
    converted: Converted


@dataclass
class Counts:
    """What stats.json tells of the converted dialogues beside how many there are."""

    mended: Counter = field(default_factory=Counter)  # over duplicates too
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
    rows: list[bytes] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)  # of the rows' texts, 64 bits
    places: list[int] = field(default_factory=list)  # of the rows' records in this chunk
    rejects: list[dict] = field(default_factory=list)
    shapes: dict[str, str] = field(default_factory=dict)  # the first record of each
    counts: Counts = field(default_factory=Counts)


def convert(given: list[Record], converted: Converted) -> Chunk:
    """Make of each record one row or one reject."""
    chunk = Chunk(len(given))
    for place, (line, source) in enumerate(given):
        try:
            dialogue = dialogue_of(line, source, converted, chunk)
            turns, mended = clean(dialogue.turns, converted.max_turn_characters)
            system = tidy(dialogue.system or converted.system, mended)
        except Unusable as error:
            chunk.rejects.append({"line": line, "reason": str(error), "text": excerpt(source)})
            continue
        texts = [text for _, text in turns]
        chunk.rows.append(orjson.dumps(alpaca_row(texts, system, dialogue.department)))
        chunk.hashes.append(int.from_bytes(blake2b("\x1f".join(texts).encode(), digest_size=8).digest(), "little"))
        chunk.places.append(place)
        chunk.counts.add(texts)
        chunk.counts.mended.update(mended)
    return chunk


def dialogue_of(line: int, source: bytes | dict | Broken, converted: Converted, chunk: Chunk) -> Dialogue:
    """Read one record in the shape that the parameters name, or that its keys tell."""
    if isinstance(source, Broken):
        raise Unusable(source.reason)
    try:
        record = orjson.loads(source) if isinstance(source, bytes) else source
    except orjson.JSONDecodeError as error:
        raise Unusable("not JSON in UTF-8") from error
    if not isinstance(record, dict):
        raise Unusable("not a JSON object")
    shape = shape_of(record, converted.columns) if converted.format == "auto" else converted.format
    if shape not in chunk.shapes:
        chunk.shapes[shape] = f"line {line}: {excerpt(source)}"
    return SHAPES[shape](record, converted.columns)


def excerpt(source: bytes | dict | Broken) -> str:
    """Return the first characters of a record as it stands in the source."""
    if isinstance(source, Broken):
        return source.text[:SHOWN]
    text = source if isinstance(source, bytes) else orjson.dumps(source, default=str, option=orjson.OPT_NON_STR_KEYS)
    return text[: 4 * SHOWN].decode(errors="replace").rstrip()[:SHOWN]


def converted_chunks(source: Iterator[Record], converted: Converted) -> Iterator[tuple[list[Record], Chunk]]:
    """Yield chunks in order with their records, converted by as many processes as there are processors."""
    first = list(islice(source, CHUNK))
    if len(first) < CHUNK:
        yield first, convert(first, converted)
        return
    with workers() as pool:
        waiting: deque[tuple[list[Record], AsyncResult]] = deque()
        given = first
        while given or waiting:
            if given:
                waiting.append((given, pool.apply_async(convert, (given, converted))))
                given = list(islice(source, CHUNK))
            if not given or len(waiting) > 2 * (os.cpu_count() or 1):
                records_of, future = waiting.popleft()
                yield records_of, future.get()


@dataclass
class Tally:
    """What was read and written so far; always raw = converted + rejected + duplicates."""

    raw: int = 0
    converted: int = 0
    duplicates: int = 0
    reasons: Counter = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, str] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    seen: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))  # hashes of the rows written, sorted

    def add(self, chunk: Chunk) -> list[bytes]:
        """Count a chunk and return those of its rows that are new."""
        self.raw += chunk.records
        self.counts.update(chunk.counts)
        self.shapes = chunk.shapes | self.shapes
        for reject in chunk.rejects:
            self.reasons[reject["reason"]] += 1
            self.examples.setdefault(reject["reason"], f"line {reject['line']}: {reject['text']}")
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


def up_to(most: int, tally: Tally, source: Iterator[Record], converted: Converted) -> Iterator[Chunk]:
    """Yield chunks until `tally`, to which each is added meanwhile, counts `most` dialogues; duplicates are made up for."""
    for given, chunk in converted_chunks(source, converted):
        while len(chunk.rows) > most - tally.converted:
            cut = chunk.places[most - tally.converted - 1] + 1
            yield convert(given[:cut], converted)
            given = given[cut:]
            if tally.converted == most:
                return
            chunk = convert(given, converted)
        yield chunk
        if tally.converted == most:
            return


def write_rows(source: Iterator[Record], converted: Converted, file: BinaryIO, rejects: BinaryIO) -> Tally:
    """Write rows as JSON Lines or as one JSON array, and rejects as JSON Lines; return the counts."""
    opening, between, closing = (b"", b"\n", b"\n") if converted.output == "jsonl" else (b"[\n", b",\n", b"\n]\n")
    tally = Tally()
    file.write(opening)
    with tqdm(desc="converted", unit=" records", mininterval=1, disable=None) as progress:
        for chunk in up_to(converted.max_dialogues or sys.maxsize, tally, source, converted):
            for row in tally.add(chunk):
                file.write(between if file.tell() > len(opening) else b"")
                file.write(row)
            rejects.writelines(orjson.dumps(reject, option=orjson.OPT_APPEND_NEWLINE) for reject in chunk.rejects)
            progress.update(chunk.records)
            if len(tally.shapes) > 1 and converted.format == "auto":
                raise CommandError(
                    f"several shapes in one file: {'; '.join(f'{shape}, {first}' for shape, first in tally.shapes.items())}"
                )
    file.write(closing)
    return tally


def check(tally: Tally, converted: Converted, file: Path) -> None:
    """Stop if nothing is left, or more was rejected than `max_reject_rate`, showing the reasons."""
    if not tally.raw:
        raise CommandError(f"{file}: no records")
    rate = tally.reasons.total() / tally.raw
    if rate <= converted.max_reject_rate and tally.converted:
        return
    shown = "; ".join(f"{n} × {reason} ({tally.examples[reason]})" for reason, n in tally.reasons.most_common(3))
    raise CommandError(
        f"{file}: {tally.reasons.total()} of {tally.raw} records rejected ({rate:.1%}), "
        f"converted.max_reject_rate allows {converted.max_reject_rate:.1%}: {shown}"
    )


def main() -> None:
    paths = start(__doc__, "raw", "out")
    params, began = Params.read(), time.perf_counter()
    converted = params.converted
    source = next(iter(sorted(paths.raw.glob("dialogues.*"))), None)
    if source is None:
        raise CommandError(f"{paths.raw}: no dialogues: run 'dvc repro raw' to fetch them")
    with atomic_path(paths.out) as folder:
        folder.mkdir()
        rows, rejects = folder / f"dialogues.{converted.output}", folder / "rejects.jsonl"
        with rows.open("wb") as file, rejects.open("wb") as rejected:
            tally = write_rows(records(source), converted, file, rejected)
        check(tally, converted, source)
        write_json(folder / "stats.json", tally.stats())
        params.ensure_unchanged()
    seconds = time.perf_counter() - began
    print(
        f"converted: {tally.raw} records -> {tally.converted} dialogues, {tally.reasons.total()} rejected, "
        f"{tally.duplicates} duplicates, {tally.raw / seconds:,.0f} records/s"
    )


if __name__ == "__main__":
    run_command(main)
