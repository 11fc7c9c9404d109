"""converted: raw records as LLaMA-Factory alpaca rows; what cannot be used is listed with its line and reason.

Usage: stages/run converted --raw data/raw --out data/converted
"""

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from multiprocessing.pool import AsyncResult
from pathlib import Path
from typing import BinaryIO

import numpy as np
import orjson
from tqdm import tqdm

from xinglin.cli import CommandError, run_command, start
from xinglin.dialogues import licences
from xinglin.dialogues.batches import POINTS, Batch, Origin, batches, point
from xinglin.dialogues.conversion import SHOWN, Converted, convert
from xinglin.dialogues.kinds import kind_of
from xinglin.dialogues.reading import Record, records
from xinglin.dialogues.rows import texts_of
from xinglin.dialogues.sources import Source, Sources, read_sources
from xinglin.dialogues.tally import CONTRADICTED, PAIR, UNDESIRED, Chunk, SourceTally, Tally
from xinglin.files import atomic_path, write_json
from xinglin.params import ParamsFile
from xinglin.processes import workers

KEYS = 20  # that nobody reads, named on the screen


class Params(ParamsFile):
    converted: Converted


def converted_batches(given: Iterator[Batch], converted: Converted) -> Iterator[tuple[Batch, Chunk]]:
    """Yield batches in order with what became of them; from the first full one on as many processes as processors convert."""
    first = None
    for batch in given:
        if batch.full:
            first = batch
            break
        yield batch, convert(batch, converted)
    if first is None:
        return
    with workers() as pool:
        waiting: deque[tuple[Batch, AsyncResult]] = deque()
        try:
            for batch in chain([first], given):
                waiting.append((batch, pool.apply_async(convert, (batch, converted))))
                if len(waiting) > 2 * (os.cpu_count() or 1):
                    batch_of, future = waiting.popleft()
                    yield batch_of, future.get()
            while waiting:
                batch_of, future = waiting.popleft()
                yield batch_of, future.get()
        finally:  # a pool that is ended while it hands out a chunk waits for ever for a reader of it (Python 3.11)
            for _, future in waiting:
                future.wait()


def up_to(most: int, tally: Tally, given: Iterator[Batch], converted: Converted) -> Iterator[Chunk]:
    """Yield chunks until `tally`, to which each is added meanwhile, counts `most` dialogues; duplicates are made up for."""
    for batch, chunk in converted_batches(given, converted):
        while len(chunk.rows) > most - tally.converted:
            cut = chunk.places[most - tally.converted - 1] + 1
            yield convert(batch._replace(records=batch.records[:cut]), converted)
            batch = batch._replace(records=batch.records[cut:], left_out=0)
            if tally.converted == most:
                return
            chunk = convert(batch, converted)
        yield chunk
        if tally.converted == most:
            return


def drawn(folder: Path, sources: Sources, converted: Converted) -> Iterator[Batch]:
    """Yield the records of all sources, one source after the other, without those that its share and limit leave out."""
    keys = keys_beside(folder, sources)
    bounds = {source.name: bound(folder, source, sources.seed, converted) for source in sources.sources}
    for source in sources.sources:
        for origin, records_of in files_of(folder, source, converted, keys):
            yield from batches(records_of, origin, bounds[source.name], sources.seed)


def files_of(
    folder: Path, source: Source, converted: Converted, keys: tuple[str, ...] = ()
) -> Iterator[tuple[Origin, Iterator[Record]]]:
    columns = converted.columns_of(source.name)
    for file in source.files:
        yield Origin(source.name, file.file, file.part, keys), records(folder / file.file, columns)


def keys_beside(folder: Path, sources: Sources) -> tuple[str, ...]:
    """Return which of element and part the rows tell: the one if a file is an array, the other if one is a part."""
    files = [file for source in sources.sources for file in source.files]
    arrays = (next(records(folder / file.file), None) for file in files if kind_of(Path(file.file))[0] in (".json", ".jsonl"))
    is_array, has_part = any(first and first.element for first in arrays), any(file.part for file in files)
    return ("element",) * is_array + ("part",) * has_part


def bound(folder: Path, source: Source, seed: int, converted: Converted) -> int:
    """Return the largest point that is drawn: as the share says, and no larger than the limit's last dialogue has.

    A dialogue counts once, so that a limit within what the source has gives just as many, whatever is rejected.
    """
    most = POINTS if source.share == 1 else int(source.share * POINTS)
    if source.limit is None:
        return most
    points, hashes = [], []
    for origin, records_of in files_of(folder, source, converted):
        for batch, chunk in converted_batches(batches(records_of, origin, most, seed), converted):
            points += [point(batch.records[place], seed) for place in chunk.places]
            hashes += chunk.hashes
    order = np.argsort(np.array(points, np.uint64), kind="stable")
    _, first = np.unique(np.array(hashes, np.uint64)[order], return_index=True)
    if len(first) <= source.limit:
        return most
    return int(np.array(points, np.uint64)[order][np.sort(first)[source.limit - 1]])


def write_rows(
    given: Iterator[Batch],
    converted: Converted,
    file: BinaryIO,
    rejects: BinaryIO,
    duplicates: BinaryIO,
    preferences: BinaryIO,
) -> Tally:
    """Write rows as JSON Lines or as one JSON array, what is no row as JSON Lines; return the counts."""
    opening, between, closing = (b"", b"\n", b"\n") if converted.output == "jsonl" else (b"[\n", b",\n", b"\n]\n")
    tally = Tally()
    file.write(opening)
    with tqdm(desc="converted", unit=" records", mininterval=1, disable=None) as progress:
        for chunk in up_to(converted.max_dialogues or sys.maxsize, tally, given, converted):
            rows, twins = tally.add(chunk)
            for row in rows:
                file.write(between if file.tell() > len(opening) else b"")
                file.write(row)
            for output, found in ((rejects, chunk.rejects), (duplicates, twins)):
                output.writelines(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE) for one in found)
            preferences.writelines(chunk.preferences)
            progress.update(chunk.records)
            shapes = tally.sources[chunk.origin.source].shapes[chunk.origin.file]
            if len(shapes) > 1 and converted.format == "auto":
                raise CommandError(
                    f"{chunk.origin.file}: several shapes in one file: "
                    f"{'; '.join(f'{shape}, {first}' for shape, first in shapes.items())}: "
                    f"converted.format: {next(iter(shapes))} would read that one alone and reject the rest"
                )
    file.write(closing)
    return tally


def set_aside_contradicted(rows: Path, rejects: Path, tally: Tally, separator: bytes) -> None:
    """Take rows out again whose answer another record, which may come later, calls undesired."""
    spans = {(span.source, span.line, span.element): span for span in tally.contradicted()}
    if not spans:
        return
    with atomic_path(rows) as rewritten, rows.open("rb") as given, rewritten.open("wb") as kept, rejects.open("ab") as rejected:
        between = b""
        for line in given:
            if not line.startswith(b"{"):
                kept.write(line if line == b"[\n" else b"\n" + line)
                continue
            row = orjson.loads(line.rstrip(b",\n"))
            if span := spans.get((row["source"], row["line"], row.get("element", 0))):
                reject = span.named() | {"reason": CONTRADICTED, "text": texts_of(row)[0][:SHOWN]}
                tally.take_back(reject, texts_of(row))
                rejected.write(orjson.dumps(reject, option=orjson.OPT_APPEND_NEWLINE))
            else:
                kept.write(between + line.rstrip(b",\n"))
                between = separator
        if separator == b"\n":
            kept.write(b"\n")


def names_sources(converted: Converted, names: list[str]) -> None:
    """Stop where `columns` are of a source that isn't there."""
    for place in converted.mappings():
        source = place.removeprefix("columns.")
        if source != place and source not in names:
            raise CommandError(f"converted.columns: no source '{source}', there is {', '.join(names)}")


def check_columns(tally: SourceTally, columns: dict[str, str | int] | None, file: Path) -> None:
    """Stop if `columns` names a key that no record of a source has."""
    absent = [f"{part}: {key}" for part, key in (columns or {}).items() if str(key) not in tally.columns]
    if absent and tally.keys:
        shown = ", ".join(tally.keys[:KEYS])
        raise CommandError(f"{file}: converted.columns names {', '.join(absent)}, which no record has; the first has {shown}")


def check(tally: SourceTally, converted: Converted, file: Path, alone: bool) -> None:
    """Stop if nothing is left of a source, or more was rejected than `max_reject_rate`, showing the reasons.

    A source of nothing but preferences may stand beside others, not `alone`.
    """
    if not tally.raw:
        none = "expected a line, a row below the header or an element for each dialogue: is it the right file?"
        drew_none = f"its share draws none of {tally.left_out}, raise it"
        raise CommandError(f"{file}: no records: {drew_none if tally.left_out else none}")
    rejected = tally.reasons.total() - tally.set_aside
    by_record, by_line = (rejected, tally.raw, "records"), (tally.rejected_lines, tally.lines, "lines")
    lost, of, what = max(by_record, by_line, key=lambda counted: counted[0] / counted[1])
    rate = lost / of
    if rate <= converted.max_reject_rate and (tally.converted or tally.duplicates or (tally.set_aside and not alone)):
        return
    if rate <= converted.max_reject_rate and tally.set_aside:
        raise CommandError(
            f"{file}: {tally.set_aside} of {tally.raw} records are pairs of preferences or undesired answers, and none is a "
            f"dialogue to learn: add a source of dialogues to raw.sources, beside which they are kept in preferences.jsonl"
        )
    shown = "; ".join(f"{n} × {reason} ({tally.examples[reason]})" for reason, n in tally.reasons.most_common(3))
    raise CommandError(
        f"{file}: {lost} of {of} {what} rejected ({rate:.1%}), "
        f"converted.max_reject_rate allows {converted.max_reject_rate:.1%}: {shown}"
    )


def check_all(tally: Tally, sources: Sources, converted: Converted, folder: Path) -> None:
    """Check each source that max_dialogues lets come to its turn."""
    for source in sources.sources:
        if source.name in tally.sources or tally.converted != converted.max_dialogues:
            name = source.files[0].file if len(source.files) == 1 else source.name
            found = tally.sources.get(source.name, SourceTally())
            check_columns(found, converted.columns_of(source.name), folder / name)
            check(found, converted, folder / name, alone=not tally.converted)


def stats(tally: Tally, sources: Sources) -> dict:
    """Return the counts of all, and of each source with its licence: a release may ask whether all `terms` are permissive."""
    told = [
        {
            **source.model_dump(exclude={"files"}),
            "terms": licences.terms(source.licence),
            "files": [file.file for file in source.files],
            **tally.sources.get(source.name, SourceTally()).stats(),
        }
        for source in sources.sources
    ]
    return tally.stats() | {"sources": told}


def remarks(tally: Tally, sources: Sources) -> Iterator[str]:
    """Yield what a reader should know of the records beside how many there are."""
    for source in sources.sources:
        one = tally.sources.get(source.name, SourceTally())
        if len(sources.sources) > 1 or one.left_out:
            yield (
                f"{source.name}: {one.raw} records -> {one.converted} dialogues, {one.reasons.total()} rejected, "
                f"{one.duplicates} duplicates; {one.left_out} more left out by its share and limit"
            )
    if unread := tally.counts.unread:
        yield f"keys that nobody reads: {', '.join(f'{key} ({count})' for key, count in unread.most_common(KEYS))}"
    if thoughts := tally.counts.mended["thoughts"]:
        yield f"{thoughts} thoughts dropped, as converted.thoughts says"
    if scripts := tally.counts.mended["scripts"]:
        yield f"{scripts} texts hold a talk of their own, with marks such as 患者： and 医生：; they are left whole"
    if tally.preferences:
        undesired, pairs = tally.reasons[UNDESIRED] + tally.reasons[CONTRADICTED], tally.reasons[PAIR]
        yield f"{undesired} undesired answers and {pairs} pairs are no dialogues to learn: see preferences.jsonl"


def main() -> None:
    paths = start(__doc__, "raw", "out")
    params, began = Params.read(), time.perf_counter()
    converted = params.converted
    sources = read_sources(paths.raw)
    names_sources(converted, [source.name for source in sources.sources])
    with atomic_path(paths.out) as folder:
        folder.mkdir()
        names = (f"dialogues.{converted.output}", "rejects.jsonl", "duplicates.jsonl", "preferences.jsonl")
        with ExitStack() as opened:
            tally = write_rows(
                drawn(paths.raw, sources, converted),
                converted,
                *(opened.enter_context((folder / name).open("wb")) for name in names),
            )
        separator = b"\n" if converted.output == "jsonl" else b",\n"
        set_aside_contradicted(folder / names[0], folder / names[1], tally, separator)
        if not tally.preferences:
            (folder / names[-1]).unlink()
        check_all(tally, sources, converted, paths.raw)
        write_json(folder / "stats.json", stats(tally, sources))
        params.ensure_unchanged()
    for line in remarks(tally, sources):
        print(f"converted: {line}", file=sys.stderr)
    seconds = time.perf_counter() - began
    print(
        f"converted: {tally.raw} records -> {tally.converted} dialogues, {tally.reasons.total()} rejected, "
        f"{tally.duplicates} duplicates, {tally.raw / seconds:,.0f} records/s"
    )


if __name__ == "__main__":
    run_command(main)
