"""Say how much of a file stands in the training part: an exam set, a benchmark, last year's data. Exit status 1 if any does.

Usage: make leakage FILE=exam.jsonl        (the kinds, packings and encodings that `raw` reads; records of any shape)

A record is found if one of its texts is equal or near to a text of training, or one of the two stands in the other for the
most part, an exam's question with its options behind it, say. What many of the file's texts have in common (a constant
instruction), or of training's, is left out first, as in the split.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from tools.all_params import read_params
from xinglin.cli import CommandError, run_command
from xinglin.dialogues.cleaning import tidy
from xinglin.dialogues.dialogue import Unusable
from xinglin.dialogues.formats import read, shape_of
from xinglin.dialogues.reading import Broken, records
from xinglin.dialogues.rows import texts_of
from xinglin.files import read_jsonl
from xinglin.leakage.boilerplate import common_grams, without
from xinglin.leakage.containment import CONTAINED, candidates, contained
from xinglin.leakage.grams import gram_overlap, plain, plain_texts
from xinglin.leakage.links import SHORT, WORDED, is_stock
from xinglin.leakage.similarity import all_pairs

TRAIN = Path("data/split/train.jsonl")
LEAST = 3  # characters: shorter ones are letters of options
SHOWN = 5
OPTIONS = re.compile(r"[\s(（]A\s*[.．、:：)）].*", re.DOTALL)  # behind a question


class Text(NamedTuple):
    """A text of a record, as it stands there and as it is compared."""

    where: str
    text: str
    plain: str


class Known(NamedTuple):
    """What training asks and answers, distinct, as it is compared."""

    questions: list[str]
    answers: list[str]


def texts_in(source: bytes | dict | Broken) -> Iterator[str]:
    """Yield the turns of a dialogue, or every text in a record that is none, an exam question with its options, say."""
    if isinstance(source, Broken):
        return
    try:
        record = orjson.loads(source) if isinstance(source, bytes) else source
        if isinstance(record, dict):
            yield from (text for _, text in read(record, shape_of(record, None)).turns)
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
    """Return the file's texts of LEAST characters or more, and a question with options without them too."""
    found = []
    for record in records(file):
        texts = list(texts_in(record.value))
        for text in dict.fromkeys(chain(texts, (OPTIONS.sub("", text) for text in texts))):
            try:
                compared = plain(tidy(text, Counter()))
            except Unusable:
                continue
            if len(compared) >= LEAST:
                found.append(Text(record.where, text, compared))
    return found


def read_known() -> Known:
    """Return what is compared of training: first questions, later ones and answers of SHORT characters or more."""
    questions, answers = [], []
    for row in read_jsonl(TRAIN):
        texts = plain_texts(texts_of(row))
        questions += [texts[0], *(text for text in texts[2::2] if len(text) >= SHORT)]
        answers += [text for text in texts[1::2] if len(text) >= SHORT]
    return Known(list(dict.fromkeys(questions)), list(dict.fromkeys(answers)))


def contents(texts: Sequence[Text], known: Known) -> tuple[list[str], Known]:
    """Return what is left of both without boilerplate; a text of the file that many of its records hold is left out."""
    distinct = list(dict.fromkeys(text.plain for text in texts))
    often, records = (
        Counter(text for _, text in {(text.where, text.plain) for text in texts}),
        len({text.where for text in texts}),
    )
    common = np.unique(np.concatenate([common_grams(part) for part in (distinct, *known)]))
    rest = dict(zip(distinct, without(distinct, [common]), strict=True))
    stock = {text for text, count in often.items() if is_stock(len(text), count, records)}
    return ["" if text.plain in stock else rest[text.plain] for text in texts], Known(
        *(list(without(part, [common])) for part in known)
    )


def leaks(mine: list[str], known: list[str], threshold: float, least: int) -> np.ndarray:
    """Return index pairs [n, 2] of texts that are near, or of which one, of `least` characters or more, is in the other."""
    near = all_pairs(mine, known, threshold)
    inside = contained(mine, known, candidates(mine, known)[0], least, SHORT)
    return np.unique(np.concatenate([near, inside]), axis=0)


def found_pairs(mine: list[str], known: Known, threshold: float) -> Iterator[tuple[int, str]]:
    """Yield place and text of training for each text that is found; short ones are looked for among questions only."""
    for texts, least, shortest in ((known.questions, WORDED, LEAST), (known.answers, SHORT, SHORT)):
        some = [place for place, text in enumerate(mine) if len(text) >= shortest]
        theirs = [text for text in texts if len(text) >= shortest]
        for i, j in leaks([mine[place] for place in some], theirs, threshold, least).tolist():
            yield some[i], theirs[j]


def main() -> None:
    if not any(sys.argv[1:]):
        raise CommandError("FILE=: which file? make leakage FILE=exam.jsonl", 2)
    file = Path(sys.argv[1])
    if not file.is_file():
        raise CommandError(f"FILE={file}: no such file", 2)
    given = read_texts(file)
    if not given:
        raise CommandError(f"{file}: no text of {LEAST} characters or more")
    known = read_known()
    threshold = read_params().split.near_duplicate_threshold
    mine, compared = contents(given, known)
    pairs = sorted(found_pairs(mine, compared, threshold))
    grams = gram_overlap(mine, [*compared.questions, *compared.answers])
    places, leaked = {text.where for text in given}, {given[place].where: (place, theirs) for place, theirs in reversed(pairs)}
    count = len(known.questions) + len(known.answers)
    print(f"{file}: {len(places)} records with {len(given)} texts against {count} distinct texts of {TRAIN}")
    print(
        f"equal or near (3-grams, Jaccard >= {threshold:g}), or one in the other (>= {CONTAINED:g} of its 3-grams): "
        f"{len(leaked)} records, {len(leaked) / len(places):.2%}"
    )
    print(f"a 13-gram in common: {grams['texts']:.2%} of texts, {grams['grams']:.2%} of their 13-grams")
    for where, (place, theirs) in sorted(leaked.items(), key=lambda item: item[1])[:SHOWN]:
        print(f"  {where}: {given[place].text[:60]!r}\n      train: {theirs[:60]!r}")
    sys.exit(bool(leaked))


if __name__ == "__main__":
    run_command(main)
