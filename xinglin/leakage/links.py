"""Whether dialogues that are kept apart share a text: a question or an answer, equal, nearly equal, or one inside the other.

Texts are compared as their content: what is left of them without what many others have in common (boilerplate.py).
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from xinglin.leakage.boilerplate import (
    DRAW_FLOOR,
    DRAW_SHARE,
    GREETING,
    STOCK_FLOOR,
    STOCK_SHARE,
    common_grams,
    is_common,
    limit,
    without,
)
from xinglin.leakage.containment import candidates, contained
from xinglin.leakage.grams import KEY_GRAM, plain_batch, sorted_set
from xinglin.leakage.similarity import near_pairs, overlaps
from xinglin.leakage.stored import Batch, Stored, by_batch, distinct, places, store

SHORT = 20  # characters from which on an answer says something of its own; "不客气，祝您早日康复" is in many dialogues
WORDED = 10  # characters from which on a question that stands in another is the same one; "高血压怎么办" is in many
CLOSEST = 20  # pairs that a report names
LOOKED_AT = 2000  # pairs whose overlap is counted to find the closest
AT_ONCE = 500  # dialogues
KINDS = ("question", "answer")


class Kind(NamedTuple):
    """Distinct texts that are compared with each other, which dialogues they stand in, and how short a contained one may be."""

    name: str
    texts: Stored
    text: np.ndarray  # [n] a text's place in `texts` …
    owner: np.ndarray  # [n] … and a dialogue that it stands in
    least: int

    @property
    def first(self) -> np.ndarray:
        """The first dialogue of each text."""
        return self.owner[np.unique(self.text, return_index=True)[1]]


class Texts(NamedTuple):
    """What is compared of some dialogues."""

    drawn: Stored  # what each dialogue draws by: its first question that says something, as it stands …
    common: np.ndarray  # … and the 8-grams that say nothing
    kinds: list[Kind]
    contents: Stored  # all questions and answers in turn, without boilerplate …
    owner: np.ndarray  # … and the dialogue of each
    left_out: dict[str, int]  # texts that boilerplate was taken from, by kind


def compared(dialogues: Iterable[Sequence[str]]) -> Texts:
    """Return what is compared of dialogues that are given as question, answer, question, …

    Compared are first questions, later ones and answers of SHORT characters or more. A dialogue none of whose questions has
    content has its first question to be known by.
    """
    counts: list[int] = []
    texts = store(plain_turns(dialogues, counts))
    total, turns = len(counts), np.array(counts, np.int64)
    owner, turn = np.repeat(np.arange(total), turns), places(np.zeros(total, np.int64), turns)
    of_kind = [np.flatnonzero(turn % 2 == place) for place in range(len(KINDS))]
    questions = texts.take(of_kind[0])
    common = common_grams(questions, DRAW_SHARE, DRAW_FLOOR, KEY_GRAM)
    drawn = of_kind[0][says_something(questions, common)]
    drawn = np.concatenate([drawn, np.flatnonzero(turn == 0)])
    drawn = drawn[np.unique(owner[drawn], return_index=True)[1]]

    commons = [common_grams(some.take(distinct(some)[0])) for some in map(texts.take, of_kind)]
    contents = without(texts, commons, turn % 2)
    for place, chosen in enumerate(of_kind):
        contents.lengths[chosen[stock(contents.take(chosen), owner[chosen], total, place == 0)]] = 0
    asked = np.bincount(owner[of_kind[0]], contents.lengths[of_kind[0]], total)
    left_out = {
        f"{name}s": int((contents.lengths != texts.lengths)[chosen].sum()) for name, chosen in zip(KINDS, of_kind, strict=True)
    }
    contents.restore(np.flatnonzero((turn == 0) & (asked[owner] == 0)), texts)
    long = contents.lengths >= SHORT
    kinds = [
        kind(name, contents, chosen, owner, least)
        for name, chosen, least in (
            ("question", np.flatnonzero((turn % 2 == 0) & (long | (turn == 0) & (contents.lengths > 0))), WORDED),
            ("answer", np.flatnonzero((turn % 2 == 1) & long), SHORT),
        )
    ]
    return Texts(texts.take(drawn), common, kinds, contents, owner, left_out)


def plain_turns(dialogues: Iterable[Sequence[str]], counts: list[int]) -> Iterator[Batch]:
    """Yield the texts of some dialogues at once as they are compared, and add to `counts` how many each has."""
    given = iter(dialogues)
    while some := list(itertools.islice(given, AT_ONCE)):
        counts += map(len, some)
        yield plain_batch([text for dialogue in some for text in dialogue])


def says_something(questions: Stored, common: np.ndarray) -> np.ndarray:
    """Return the places of the questions that have an 8-gram that is not common."""
    marked = is_common(common)

    def uncommon(start: int, batch: Batch) -> np.ndarray:
        batch = batch.padded(KEY_GRAM)
        counts = batch.lengths - KEY_GRAM + 1
        return np.flatnonzero(~np.logical_and.reduceat(marked(batch), np.cumsum(counts) - counts)) + start

    return np.concatenate([np.empty(0, np.int64), *by_batch(uncommon, questions)])


def stock(texts: Stored, owner: np.ndarray, dialogues: int, asked: bool) -> np.ndarray:
    """Return for each text of some dialogues whether it is a greeting or a stock answer."""
    first, which = distinct(texts)
    count = np.bincount(sorted_set(owner * len(first) + which) % max(1, len(first)), minlength=len(first))
    return is_stock(texts.lengths[first], count, dialogues, asked)[which]


def is_stock(length: int | np.ndarray, count: int | np.ndarray, dialogues: int, asked: bool) -> np.ndarray:
    """Return whether texts that stand in `count` of the dialogues are greetings or stock answers.

    A question that is longer than a greeting may stand in many because it was answered many times: it needs a larger share.
    """
    most = limit(dialogues, STOCK_SHARE, STOCK_FLOOR)
    return count > np.where(np.logical_and(asked, np.greater(length, GREETING)), most, limit(dialogues))


def kind(name: str, contents: Stored, chosen: np.ndarray, owner: np.ndarray, least: int) -> Kind:
    texts = contents.take(chosen)
    first, text = distinct(texts)
    pairs = sorted_set(owner[chosen] * len(first) + text)
    return Kind(name, texts.take(first), pairs % max(1, len(first)), pairs // max(1, len(first)), least)


def equal_links(texts: Texts) -> np.ndarray:
    """Return pairs of dialogues [n, 2] that have an equal text, enough of them to connect all that do."""
    return np.concatenate([np.stack([kind.first[kind.text], kind.owner], 1) for kind in texts.kinds])


def near_links(texts: Texts, threshold: float) -> np.ndarray:
    """Return pairs of dialogues [n, 2] that have a near text, enough of them to connect all that do."""
    return np.concatenate([kind.first[near_pairs(kind.texts, threshold)] for kind in texts.kinds])


def likely_pairs(kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of texts [n, 2] that have pieces in common, and how much of them [n], for what follows."""
    return candidates(kind.texts, kind.texts)


def contained_pairs(kind: Kind, pairs: np.ndarray) -> np.ndarray:
    return contained(kind.texts, kind.texts, pairs, kind.least, SHORT)


def closest(kinds: Sequence[Kind], likely: Sequence[tuple[np.ndarray, np.ndarray]], sides: np.ndarray) -> list[dict]:
    """Return the CLOSEST pairs across sides: kind, line of both dialogues (from 1 on), their sides, and their overlap."""
    found = []
    for kind, (pairs, share) in zip(kinds, likely, strict=True):
        first = kind.first
        side = sides[first]
        across = np.flatnonzero(side[pairs[:, 0]] != side[pairs[:, 1]])
        across = across[np.argsort(-share[across], kind="stable")][:LOOKED_AT]
        for (i, j), (jaccard, part) in zip(
            pairs[across].tolist(), overlaps(kind.texts, kind.texts, pairs[across]).tolist(), strict=True
        ):
            lines = [int(first[i]), int(first[j])]
            found.append(
                {
                    "kind": kind.name,
                    "lines": [line + 1 for line in lines],
                    "sides": [int(sides[line]) for line in lines],
                    "jaccard": round(jaccard, 4),
                    "contained": round(part, 4),
                }
            )
    return sorted(found, key=lambda pair: (-pair["jaccard"], -pair["contained"], pair["lines"]))[:CLOSEST]
