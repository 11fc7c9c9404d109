"""A batch of records converted: each becomes one row, or one reject with its reason; and the section that says how."""

import json
from collections import Counter
from hashlib import blake2b
from itertools import takewhile
from typing import Any, Literal

import orjson
from pydantic import model_validator

from xinglin.dialogues import personal
from xinglin.dialogues.batches import Batch, as_bytes
from xinglin.dialogues.cleaning import clean, tidy
from xinglin.dialogues.dialogue import Dialogue, Unusable
from xinglin.dialogues.formats import MAPPED, flat, read, shape_of
from xinglin.dialogues.reader import walked
from xinglin.dialogues.record import Broken
from xinglin.dialogues.rows import alpaca_row
from xinglin.dialogues.screening import Advertising, ensure_length, screened
from xinglin.dialogues.tally import PAIR, UNDESIRED, Chunk, Span
from xinglin.params import Count, Section, Share

Columns = dict[str, str | int]
SHOWN = 200  # characters of a rejected record that rejects.jsonl shows


class Converted(Section):
    format: Literal["auto", "huatuo", "alpaca", "sharegpt", "messages", "csv"]
    columns: Columns | dict[str, Columns] | None
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
        for place, columns in self.mappings().items():
            if unknown := columns.keys() - set(MAPPED):
                raise ValueError(f"{place}: unknown {', '.join(sorted(unknown))}, expected {', '.join(MAPPED)}")
            if "turns" not in columns and not ("answer" in columns and {"question", "title"} & columns.keys()):
                raise ValueError(f"{place} must name the turns, or an answer and a question or a title")
        return self

    def mappings(self) -> dict[str, Columns]:
        """Return the columns given, by the name that an error calls them."""
        given: dict[str, Any] = self.columns or {}
        if all(isinstance(value, dict) for value in given.values()):
            return {f"columns.{source}": columns for source, columns in given.items()}
        return {"columns": given}

    def columns_of(self, source: str) -> Columns | None:
        """Return the columns that hold for a source."""
        given = self.mappings()
        return given.get("columns", given.get(f"columns.{source}")) or None


def convert(batch: Batch, converted: Converted) -> Chunk:
    """Make of each record one row or one reject."""
    origin, columns = batch.origin, converted.columns_of(batch.origin.source)
    chunk = Chunk(origin, len(batch.records), batch.left_out, sum(record.lines for record in batch.records))
    for place, record in enumerate(batch.records):
        span = Span(origin.file, record.line, record.lines, record.element)
        try:
            screening: Counter = Counter()
            dialogue = dialogue_of(record.where, record.value, converted, columns, chunk)
            ensure_length(dialogue, converted.max_turn_characters)
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
            row = alpaca_row([text for _, text in turns], system, dialogue.department) | origin.place(record)
            texts = [text for _, text in turns]
            if dialogue.liked is not None or dialogue.rejected:
                chunk.preferences.append(preference(row, dialogue, mended))
            if dialogue.liked is False or dialogue.rejected:
                below = tidy(dialogue.rejected, mended) if dialogue.rejected else texts[-1]
                chunk.undesired.append(hash_of([system, *texts[:-1], below], origin.part))
                raise Unusable(PAIR if dialogue.rejected else UNDESIRED)
        except Unusable as error:
            text = excerpt(record.value, converted)
            chunk.rejects.append(span.named() | {"reason": personal.mask(str(error)), "text": text})
            continue
        chunk.rows.append(orjson.dumps(row))
        chunk.hashes.append(hash_of([system, *texts], origin.part))
        chunk.places.append(place)
        chunk.spans.append(span)
        chunk.counts.add(texts)
        chunk.counts.mended.update(mended)
    return chunk


def hash_of(texts: list[str], part: str | None) -> int:
    """Return by what equal dialogues are known; those of two parts are two, so that their leakage is found, not hidden."""
    data = "\x1f".join([*texts, *([f"\x1e{part}"] if part else [])]).encode()
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def preference(row: dict, dialogue: Dialogue, mended: Counter) -> bytes:
    """Return LLaMA-Factory's row of a labelled answer, or of a pair of which the first is desired."""
    if not dialogue.rejected:
        return orjson.dumps(row | {"kto_tag": dialogue.liked}, option=orjson.OPT_APPEND_NEWLINE)
    pair = {"chosen": row["output"], "rejected": tidy(dialogue.rejected, mended)}
    return orjson.dumps({name: row[name] for name in row if name != "output"} | pair, option=orjson.OPT_APPEND_NEWLINE)


def dialogue_of(
    where: str, source: bytes | dict | Broken, converted: Converted, columns: Columns | None, chunk: Chunk
) -> Dialogue:
    """Read one record in the shape that the parameters name, or that its keys tell."""
    if isinstance(source, Broken):
        raise Unusable(source.reason)
    try:
        record = orjson.loads(source) if isinstance(source, bytes) else source
    except orjson.JSONDecodeError as error:
        raise Unusable("not JSON in UTF-8") from error
    if columns and isinstance(record, dict):
        chunk.columns |= {path for path in map(str, columns.values()) if walked(record, path)[0]}
        chunk.keys = chunk.keys or [key for key, _ in flat(record)]
    shape = shape_of(record, columns) if converted.format == "auto" else converted.format
    if shape not in chunk.shapes:
        chunk.shapes[shape] = f"{where}: {' '.join(excerpt(source, converted).split())}"
    if isinstance(source, bytes) and isinstance(record, dict) and (twice := named_twice(source, record)):
        raise Unusable(f"the key '{twice}' stands in it twice")
    return read(record, shape, columns, converted.speakers)


def named_twice(source: bytes, record: dict) -> str | None:
    """Return a key that the record has twice at its outermost level, of which JSON readers take the last without a word."""
    if all(source.count(f'"{key}"'.encode()) < 2 for key in record):
        return None
    pairs: list[tuple[str, object]] = []
    json.loads(source, object_pairs_hook=lambda found: pairs.__setitem__(slice(None), found))  # the outermost is the last
    return next((key for key, count in Counter(key for key, _ in pairs).items() if count > 1), None)


def excerpt(source: bytes | dict | Broken, converted: Converted) -> str:
    """Return the first characters of a record as it stands in the source, personal data masked unless it is kept."""
    text = as_bytes(source)[: 12 * SHOWN].decode(errors="replace")[: 4 * SHOWN].rstrip()
    return text[:SHOWN] if converted.personal_data == "keep" else personal.excerpt(text, SHOWN)
