"""converted: raw records as LLaMA-Factory alpaca rows; what cannot be used is listed with its line and reason.

Usage: stages/run converted --raw data/raw --out data/converted
"""

import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import blake2b
from itertools import islice, takewhile
from multiprocessing.pool import AsyncResult
from pathlib import Path
from typing import BinaryIO, Literal

import orjson
from pydantic import model_validator
from tqdm import tqdm

from xinglin.cli import CommandError, run_command, start
from xinglin.dialogues import personal
from xinglin.dialogues.cleaning import clean, tidy
from xinglin.dialogues.dialogue import Dialogue, Unusable
from xinglin.dialogues.formats import MAPPED, read, shape_of
from xinglin.dialogues.reading import Broken, Record, records
from xinglin.dialogues.record import LIMIT, size
from xinglin.dialogues.rows import alpaca_row
from xinglin.dialogues.screening import Advertising, screened
from xinglin.dialogues.tally import PAIR, SET_ASIDE, UNDESIRED, Chunk, Tally
from xinglin.files import atomic_path, write_json
from xinglin.params import Count, ParamsFile, Section, Share
from xinglin.processes import workers

SHOWN = 200  # characters of a rejected record that rejects.jsonl shows
KEYS = 20  # that nobody reads, named on the screen
CHUNK = 2000  # records that a process converts at once


class Converted(Section):
    format: Literal["auto", "huatuo", "alpaca", "sharegpt", "messages", "csv"]
    columns: dict[str, str | int] | None
    speakers: dict[str, Literal["user", "assistant", "system"]]
    thoughts: Literal["drop", "reject"]
    output: Literal["jsonl", "json"]
    system: str
    max_dialogues: Count | None
    max_turn_characters: Count
    personal_data: personal.Policy
    advertising: Advertising
    max_reject_rate: Share

    @model_validator(mode="after")
    def columns_suffice(self) -> "Converted":
        if self.columns is None:
            return self
        if unknown := self.columns.keys() - set(MAPPED):
            raise ValueError(f"columns: unknown {', '.join(sorted(unknown))}, expected {', '.join(MAPPED)}")
        if "turns" not in self.columns and not ("answer" in self.columns and {"question", "title"} & self.columns.keys()):
            raise ValueError("columns must name the turns, or an answer and a question or a title")
        return self


class Params(ParamsFile):
    converted: Converted


def convert(given: list[Record], converted: Converted) -> Chunk:
    """Make of each record one row or one reject."""
    chunk = Chunk(len(given), sum(record.lines for record in given))
    for place, record in enumerate(given):
        try:
            screening: Counter = Counter()
            dialogue = dialogue_of(record.where, record.value, converted, chunk)
            dialogue = screened(dialogue, converted.personal_data, converted.advertising, screening, chunk.counts.found)
            opened = sum(1 for _ in takewhile(lambda turn: turn[0] == "assistant", dialogue.turns))
            opened = 0 if opened == len(dialogue.turns) else opened
            turns, mended = clean(dialogue.turns[opened:], converted.max_turn_characters)
            system = tidy(dialogue.system or converted.system, mended)
            mended.update(screening)
            for rule, count in (("opened", opened), ("thoughts", dialogue.thoughts), ("scripts", dialogue.scripts)):
                if count:
                    mended[rule] += count
            if dialogue.thoughts and converted.thoughts == "reject":
                raise Unusable("a thought stands before an answer")
            chunk.counts.unread.update(dialogue.unread)
            row = alpaca_row([text for _, text in turns], system, dialogue.department)
            if dialogue.liked is not None or dialogue.rejected:
                chunk.preferences.append(preference(row, dialogue, mended))
            if dialogue.liked is False or dialogue.rejected:
                raise Unusable(PAIR if dialogue.rejected else UNDESIRED)
        except Unusable as error:
            place_of = {name: getattr(record, name) for name in ("line", "lines", "element") if getattr(record, name)}
            chunk.rejects.append(place_of | {"reason": personal.mask(str(error)), "text": excerpt(record.value, converted)})
            continue
        texts = [text for _, text in turns]
        chunk.rows.append(orjson.dumps(row))
        chunk.hashes.append(int.from_bytes(blake2b("\x1f".join([system, *texts]).encode(), digest_size=8).digest(), "little"))
        chunk.places.append(place)
        chunk.counts.add(texts)
        chunk.counts.mended.update(mended)
    return chunk


def preference(row: dict, dialogue: Dialogue, mended: Counter) -> bytes:
    """Return LLaMA-Factory's row of a labelled answer, or of a pair of which the first is desired."""
    if not dialogue.rejected:
        return orjson.dumps(row | {"kto_tag": dialogue.liked}, option=orjson.OPT_APPEND_NEWLINE)
    pair = {"chosen": row["output"], "rejected": tidy(dialogue.rejected, mended)}
    return orjson.dumps({name: row[name] for name in row if name != "output"} | pair, option=orjson.OPT_APPEND_NEWLINE)


def dialogue_of(where: str, source: bytes | dict | Broken, converted: Converted, chunk: Chunk) -> Dialogue:
    """Read one record in the shape that the parameters name, or that its keys tell."""
    if isinstance(source, Broken):
        raise Unusable(source.reason)
    try:
        record = orjson.loads(source) if isinstance(source, bytes) else source
    except orjson.JSONDecodeError as error:
        raise Unusable("not JSON in UTF-8") from error
    shape = shape_of(record, converted.columns) if converted.format == "auto" else converted.format
    if shape not in chunk.shapes:
        chunk.shapes[shape] = f"{where}: {' '.join(excerpt(source, converted).split())}"
    if isinstance(source, bytes) and isinstance(record, dict) and (twice := named_twice(source, record)):
        raise Unusable(f"the key '{twice}' stands in it twice")
    return read(record, shape, converted.columns, converted.speakers)


def named_twice(source: bytes, record: dict) -> str | None:
    """Return a key that the record has twice at its outermost level, of which JSON readers take the last without a word."""
    if all(source.count(f'"{key}"'.encode()) < 2 for key in record):
        return None
    pairs: list[tuple[str, object]] = []
    json.loads(source, object_pairs_hook=lambda found: pairs.__setitem__(slice(None), found))  # the outermost is the last
    return next((key for key, count in Counter(key for key, _ in pairs).items() if count > 1), None)


def excerpt(source: bytes | dict | Broken, converted: Converted) -> str:
    """Return the first characters of a record as it stands in the source, personal data masked unless it is kept."""
    if isinstance(source, Broken):
        text = source.text
    else:
        data = source if isinstance(source, bytes) else orjson.dumps(source, default=str, option=orjson.OPT_NON_STR_KEYS)
        text = data[: 12 * SHOWN].decode(errors="replace")
    text = text[: 4 * SHOWN].rstrip()
    return text[:SHOWN] if converted.personal_data == "keep" else personal.excerpt(text, SHOWN)


def next_chunk(source: Iterator[Record]) -> list[Record]:
    """Return the next CHUNK records, or fewer if those are so long that they would fill the memory."""
    given, length = [], 0
    for record in islice(source, CHUNK):
        given.append(record)
        length += size(record.value)
        if length > LIMIT:
            break
    return given


def converted_chunks(source: Iterator[Record], converted: Converted) -> Iterator[tuple[list[Record], Chunk]]:
    """Yield chunks in order with their records, converted by as many processes as there are processors."""
    first = next_chunk(source)
    if len(first) < CHUNK and sum(size(record.value) for record in first) <= LIMIT:
        yield first, convert(first, converted)
        return
    with workers() as pool:
        waiting: deque[tuple[list[Record], AsyncResult]] = deque()
        given = first
        try:
            while given or waiting:
                if given:
                    waiting.append((given, pool.apply_async(convert, (given, converted))))
                    given = next_chunk(source)
                if not given or len(waiting) > 2 * (os.cpu_count() or 1):
                    records_of, future = waiting.popleft()
                    yield records_of, future.get()
        finally:  # a pool that is ended while it hands out a chunk waits for ever for a reader of it (Python 3.11)
            for _, future in waiting:
                future.wait()


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


def write_rows(
    source: Iterator[Record], converted: Converted, file: BinaryIO, rejects: BinaryIO, preferences: BinaryIO
) -> Tally:
    """Write rows as JSON Lines or as one JSON array, rejects and preferences as JSON Lines; return the counts."""
    opening, between, closing = (b"", b"\n", b"\n") if converted.output == "jsonl" else (b"[\n", b",\n", b"\n]\n")
    tally = Tally()
    file.write(opening)
    with tqdm(desc="converted", unit=" records", mininterval=1, disable=None) as progress:
        for chunk in up_to(converted.max_dialogues or sys.maxsize, tally, source, converted):
            for row in tally.add(chunk):
                file.write(between if file.tell() > len(opening) else b"")
                file.write(row)
            rejects.writelines(orjson.dumps(reject, option=orjson.OPT_APPEND_NEWLINE) for reject in chunk.rejects)
            preferences.writelines(chunk.preferences)
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
    rejected = tally.reasons.total() - sum(tally.reasons[reason] for reason in SET_ASIDE)
    by_record, by_line = (rejected, tally.raw, "records"), (tally.rejected_lines, tally.lines, "lines")
    lost, of, what = max(by_record, by_line, key=lambda counted: counted[0] / counted[1])
    rate = lost / of
    if rate <= converted.max_reject_rate and tally.converted:
        return
    shown = "; ".join(f"{n} × {reason} ({tally.examples[reason]})" for reason, n in tally.reasons.most_common(3))
    raise CommandError(
        f"{file}: {lost} of {of} {what} rejected ({rate:.1%}), "
        f"converted.max_reject_rate allows {converted.max_reject_rate:.1%}: {shown}"
    )


def remarks(tally: Tally) -> Iterator[str]:
    """Yield what a reader should know of the records beside how many there are."""
    if unread := tally.counts.unread:
        yield f"keys that nobody reads: {', '.join(f'{key} ({count})' for key, count in unread.most_common(KEYS))}"
    if thoughts := tally.counts.mended["thoughts"]:
        yield f"{thoughts} thoughts dropped, as converted.thoughts says"
    if scripts := tally.counts.mended["scripts"]:
        yield f"{scripts} texts hold a talk of their own, with marks such as 患者： and 医生：; they are left whole"
    if tally.preferences:
        undesired, pairs = (tally.reasons[reason] for reason in SET_ASIDE)
        yield f"{undesired} undesired answers and {pairs} pairs are no dialogues to learn: see preferences.jsonl"


def main() -> None:
    paths = start(__doc__, "raw", "out")
    params, began = Params.read(), time.perf_counter()
    converted = params.converted
    source = next(iter(sorted(paths.raw.glob("dialogues.*"))), None)
    if source is None:
        raise CommandError(f"{paths.raw}: no dialogues: run 'dvc repro raw' to fetch them")
    with atomic_path(paths.out) as folder:
        folder.mkdir()
        names = (f"dialogues.{converted.output}", "rejects.jsonl", "preferences.jsonl")
        with ExitStack() as opened:
            tally = write_rows(
                records(source, converted.columns),
                converted,
                *(opened.enter_context((folder / name).open("wb")) for name in names),
            )
        if not tally.preferences:
            (folder / names[-1]).unlink()
        check(tally, converted, source)
        write_json(folder / "stats.json", tally.stats())
        params.ensure_unchanged()
    for line in remarks(tally):
        print(f"converted: {line}", file=sys.stderr)
    seconds = time.perf_counter() - began
    print(
        f"converted: {tally.raw} records -> {tally.converted} dialogues, {tally.reasons.total()} rejected, "
        f"{tally.duplicates} duplicates, {tally.raw / seconds:,.0f} records/s"
    )


if __name__ == "__main__":
    run_command(main)
