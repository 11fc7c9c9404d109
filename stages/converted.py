"""converted: raw records as LLaMA-Factory alpaca rows; what cannot be used is listed with its line and reason.

Usage: stages/run converted --raw data/raw --out data/converted
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from tqdm import tqdm

from stages.common import arguments, fail, whole, write_json
from stages.formats import Turn, Unusable, clean, huatuo
from stages.params import Converted, read_params

SHOWN = 200  # characters of a rejected line that rejects.jsonl shows


@dataclass
class Tally:
    """Counts that stats.json gives; always raw = converted + rejected + duplicates."""

    raw: int = 0
    converted: int = 0
    duplicates: int = 0
    reasons: Counter = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    mended: Counter = field(default_factory=Counter)
    turns: Counter = field(default_factory=Counter)
    question_characters: Counter = field(default_factory=Counter)
    answer_characters: Counter = field(default_factory=Counter)

    def stats(self) -> dict:
        return {
            "raw": self.raw,
            "converted": self.converted,
            "rejected": self.reasons.total(),
            "duplicates": self.duplicates,
            "reasons": dict(self.reasons.most_common()),
            "mended": dict(sorted(self.mended.items())),
            "multi_turn": self.converted - self.turns[1],
            "questions_per_dialogue": {str(n): self.turns[n] for n in sorted(self.turns)},
            "question_characters": percentiles(self.question_characters),
            "answer_characters": percentiles(self.answer_characters),
        }


def percentiles(counts: Counter) -> dict[str, int]:
    """Return the 5th, 50th, 95th and 100th percentile of a histogram of lengths (nearest rank)."""
    wanted, seen, found = [5, 50, 95, 100], 0, {}
    for value in sorted(counts):
        seen += counts[value]
        while wanted and seen * 100 >= counts.total() * wanted[0]:
            found[f"p{wanted.pop(0)}"] = value
    return found


def rows(lines: Iterator[bytes], system: str, tally: Tally, rejects: BinaryIO) -> Iterator[dict]:
    """Yield an alpaca row for each usable, new dialogue, and count every line that is not blank."""
    seen: set[bytes] = set()
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        tally.raw += 1
        try:
            turns, mended = clean(huatuo(parse(line)))
        except Unusable as error:
            reject(number, line, str(error), tally, rejects)
            continue
        key = blake2b("\x1f".join(text for _, text in turns).encode(), digest_size=16).digest()
        if key in seen:
            tally.duplicates += 1
            continue
        seen.add(key)
        count(turns, mended, tally)
        yield alpaca(turns, system)


def parse(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise Unusable("not JSON in UTF-8") from error


def reject(number: int, line: bytes, reason: str, tally: Tally, rejects: BinaryIO) -> None:
    text = line[: 4 * SHOWN].decode(errors="replace").rstrip()[:SHOWN]
    tally.reasons[reason] += 1
    tally.examples.setdefault(reason, f"line {number}: {text}")
    rejects.write(orjson.dumps({"line": number, "reason": reason, "text": text}, option=orjson.OPT_APPEND_NEWLINE))


def count(turns: list[Turn], mended: set[str], tally: Tally) -> None:
    tally.converted += 1
    tally.mended.update(mended)
    tally.turns[len(turns) // 2] += 1
    tally.question_characters.update(len(text) for _, text in turns[::2])
    tally.answer_characters.update(len(text) for _, text in turns[1::2])


def alpaca(turns: list[Turn], system: str) -> dict:
    """Return LLaMA-Factory's alpaca row: the last turn as instruction and output, the earlier ones as history."""
    texts = [text for _, text in turns]
    history = [[texts[i], texts[i + 1]] for i in range(0, len(texts) - 2, 2)]
    return {"instruction": texts[-2], "input": "", "output": texts[-1], "system": system, "history": history}


def write_rows(found: Iterator[dict], file: BinaryIO, output: str, most: int | None) -> None:
    """Write rows as JSON Lines or as one JSON array, `most` at the most."""
    opening, between, closing = (b"", b"\n", b"\n") if output == "jsonl" else (b"[\n", b",\n", b"\n]\n")
    file.write(opening)
    for number, row in enumerate(found, 1):
        file.write((between if number > 1 else b"") + orjson.dumps(row))
        if number == most:
            break
    file.write(closing)


def check(tally: Tally, converted: Converted, file: Path) -> None:
    """Stop if nothing is left, or more was rejected than `max_reject_rate`, showing the reasons."""
    if not tally.raw:
        fail(f"{file}: no records")
    rate = tally.reasons.total() / tally.raw
    if rate <= converted.max_reject_rate and tally.converted:
        return
    shown = "; ".join(f"{n} × {reason} ({tally.examples[reason]})" for reason, n in tally.reasons.most_common(3))
    fail(
        f"{file}: {tally.reasons.total()} of {tally.raw} records rejected ({rate:.1%}), "
        f"converted.max_reject_rate allows {converted.max_reject_rate:.1%}: {shown}"
    )


def main() -> None:
    paths = arguments(__doc__, "raw", "out")
    converted = read_params().converted
    source = paths.raw / "dialogues.jsonl"
    tally, start = Tally(), time.perf_counter()
    with whole(paths.out) as folder:
        folder.mkdir()
        with (
            source.open("rb") as lines,
            (folder / f"dialogues.{converted.output}").open("wb") as file,
            (folder / "rejects.jsonl").open("wb") as rejects,
        ):
            found = rows(iter(lines), converted.system, tally, rejects)
            shown = tqdm(found, desc="converted", unit=" dialogues", mininterval=1, disable=None)
            write_rows(iter(shown), file, converted.output, converted.max_dialogues)
        check(tally, converted, source)
        write_json(folder / "stats.json", tally.stats())
    seconds = time.perf_counter() - start
    print(
        f"converted: {tally.raw} records -> {tally.converted} dialogues, {tally.reasons.total()} rejected, "
        f"{tally.duplicates} duplicates, {tally.raw / seconds:,.0f} records/s"
    )


if __name__ == "__main__":
    main()
