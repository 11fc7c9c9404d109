"""Say how much of a file stands in the training part: an exam set, a benchmark, last year's data. Exit status 1 if any does.

Usage: make leakage FILE=exam.jsonl        (the kinds, packings and encodings that `raw` reads; records of any shape)
"""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tools.all_params import read_params
from xinglin.cli import CommandError, run_command
from xinglin.dialogues.cleaning import tidy
from xinglin.dialogues.formats import SHAPES, Unusable, shape_of
from xinglin.dialogues.reading import Broken, records
from xinglin.dialogues.rows import texts_of
from xinglin.files import read_jsonl
from xinglin.leakage.links import SHORT
from xinglin.leakage.similarity import all_pairs, gram_overlap, plain

TRAIN = Path("data/split/train.jsonl")
SHOWN = 5


class Text(NamedTuple):
    """A text of a record, as it stands there and as it is compared."""

    line: int
    text: str
    plain: str


def texts_in(source: bytes | dict | Broken) -> Iterator[str]:
    """Yield the turns of a dialogue, or every text in a record that is none, an exam question with its options, say."""
    if isinstance(source, Broken):
        return
    try:
        record = orjson.loads(source) if isinstance(source, bytes) else source
        if isinstance(record, dict):
            yield from (text for _, text in SHAPES[shape_of(record, None)](record, None).turns)
        else:
            yield from strings(record)
    except orjson.JSONDecodeError:
        return
    except (Unusable, TypeError):
        yield from strings(record)


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def read_texts(file: Path) -> list[Text]:
    """Return the file's texts of SHORT characters or more; shorter ones (an option, a thank-you) say nothing of leakage."""
    found = []
    for line, source in records(file):
        for text in texts_in(source):
            try:
                compared = plain(tidy(text, Counter()))
            except Unusable:
                continue
            if len(compared) >= SHORT:
                found.append(Text(line, text, compared))
    return found


def main() -> None:
    if not any(sys.argv[1:]):
        raise CommandError("FILE=: which file? make leakage FILE=exam.jsonl", 2)
    file = Path(sys.argv[1])
    if not file.is_file():
        raise CommandError(f"FILE={file}: no such file", 2)
    given = read_texts(file)
    if not given:
        raise CommandError(f"{file}: no text of {SHORT} characters or more")
    known = list(dict.fromkeys(plain(text) for row in read_jsonl(TRAIN) for text in texts_of(row)))
    threshold = read_params().split.near_duplicate_threshold
    pairs = all_pairs([text.plain for text in given], known, threshold).tolist()
    grams = gram_overlap([text.plain for text in given], known)
    lines, leaked = {text.line for text in given}, {given[mine].line for mine, _ in pairs}
    print(f"{file}: {len(lines)} records with {len(given)} texts against {len(known)} distinct texts of {TRAIN}")
    print(f"equal or near (3-grams, Jaccard >= {threshold:g}): {len(leaked)} records, {len(leaked) / len(lines):.2%}")
    print(f"a 13-gram in common: {grams['texts']:.2%} of texts, {grams['grams']:.2%} of their 13-grams")
    for mine, theirs in pairs[:SHOWN]:
        print(f"  line {given[mine].line}: {given[mine].text[:60]!r}\n      train: {known[theirs][:60]!r}")
    sys.exit(bool(leaked))


if __name__ == "__main__":
    run_command(main)
