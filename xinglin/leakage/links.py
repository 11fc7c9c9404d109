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
    FLOOR,
    GREETING,
    NEAR_FLOOR,
    SHARE,
    STOCK_FLOOR,
    STOCK_SHARE,
    common_grams,
    is_common,
    limit,
    without,
)
from xinglin.leakage.containment import candidates, contained
from xinglin.leakage.courtesy import around
from xinglin.leakage.grams import KEY_GRAM, plain, plain_batch, sorted_set
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
    kinds: list[Kind]  # that are equal or near
    inside: list[Kind]  # of which one may contain another: without phrases that fewer have in common, too
    formulas: list[Kind]  # texts of which boilerplate leaves too little to compare: equal ones are known as a whole
    contents: Stored  # all questions and answers in turn, without boilerplate …
    owner: np.ndarray  # … and the dialogue of each
    left_out: dict[str, int]  # texts that boilerplate was taken from, by kind


def compared(dialogues: Iterable[Sequence[str]]) -> Texts:
    """Return what is compared of dialogues that are given as question, answer, question, …

    Compared are first questions, later ones of SHORT characters or more or equal to a first one, and answers of SHORT
    characters or more, all without greetings and thanks. A dialogue none of whose questions has content has its first question
    to be known by.
    """
    counts: list[int] = []
    edges: list[tuple[int, int]] = []
    texts = store(plain_turns(dialogues, counts, edges))
    turns = Turns.of(np.array(counts, np.int64))
    questions = texts.take(turns.of_kind[0])
    common = common_grams(questions, DRAW_SHARE, DRAW_FLOOR, KEY_GRAM)
    drawn = turns.of_kind[0][says_something(questions, common)]
    drawn = np.concatenate([drawn, np.flatnonzero(turns.turn == 0)])
    drawn = drawn[np.unique(turns.owner[drawn], return_index=True)[1]]

    inner = texts.within(*np.array(edges, np.int64).reshape(-1, 2).T)
    every = [some.take(distinct(some)[0]) for some in map(inner.take, turns.of_kind)]
    loose, formulas = contents_of(inner, every, turns, NEAR_FLOOR)
    large = all(limit(len(some)) > NEAR_FLOOR for some in every)
    strict = loose if large else contents_of(inner, every, turns, FLOOR)[0]
    left_out = {f"{name}s": len(stripped(strict, inner, chosen)) for name, chosen in zip(KINDS, turns.of_kind, strict=True)}
    kinds, inside = (kinds_of(contents, turns, to_compare(contents, turns)) for contents in (loose, strict))
    return Texts(texts.take(drawn), common, kinds, inside, kinds_of(inner, turns, formulas), strict, turns.owner, left_out)


class Turns(NamedTuple):
    """Where the texts of dialogues stand: question, answer, question, … of each."""

    owner: np.ndarray  # [texts] the dialogue
    turn: np.ndarray  # [texts] the place in it
    total: int  # dialogues
    of_kind: list[np.ndarray]  # the places of all questions, and of all answers

    @classmethod
    def of(cls, counts: np.ndarray) -> "Turns":
        """Return the turns of dialogues that have as many texts."""
        turn = places(np.zeros(len(counts), np.int64), counts)
        return cls(
            np.repeat(np.arange(len(counts)), counts),
            turn,
            len(counts),
            [np.flatnonzero(turn % 2 == place) for place in range(len(KINDS))],
        )


def contents_of(texts: Stored, every: Sequence[Stored], turns: Turns, floor: int) -> tuple[Stored, np.ndarray]:
    """Return what boilerplate and stock answers leave of the texts, and which of them are formulas.

    A formula is long enough to say something, and no stock answer, but of phrases that others have too.
    """
    contents = without(texts, [common_grams(some, SHARE, floor) for some in every], turns.turn % 2)
    formulas = np.zeros(len(texts), bool)
    for chosen in turns.of_kind:
        whole, left = texts.take(chosen), contents.take(chosen)
        formulas[chosen] = (whole.lengths >= SHORT) & (left.lengths < SHORT) & ~stock(whole, turns.owner[chosen], turns.total)
        contents.lengths[chosen[stock(left, turns.owner[chosen], turns.total)]] = 0
    questions = turns.of_kind[0]
    asked = np.bincount(turns.owner[questions], contents.lengths[questions], turns.total)
    contents.restore(np.flatnonzero((turns.turn == 0) & (asked[turns.owner] == 0)), texts)
    return contents, formulas


def stripped(contents: Stored, texts: Stored, chosen: np.ndarray) -> np.ndarray:
    """Return which of the chosen texts are not what they were."""
    return chosen[contents.lengths[chosen] != texts.lengths[chosen]]


def to_compare(contents: Stored, turns: Turns) -> np.ndarray:
    """Return which texts [texts] say enough to be compared."""
    first = turns.turn == 0
    compare = (contents.lengths >= SHORT) | first & (contents.lengths > 0)
    questions = turns.of_kind[0]
    compare[questions] |= asked_first(contents.take(questions), first[questions])
    return compare


def kinds_of(texts: Stored, turns: Turns, chosen: np.ndarray) -> list[Kind]:
    """Return the questions and the answers that a mask chooses."""
    leasts = (WORDED, SHORT)
    of_kind = [some[chosen[some]] for some in turns.of_kind]
    return [kind(name, texts, some, turns.owner, least) for name, some, least in zip(KINDS, of_kind, leasts, strict=True)]


def asked_first(questions: Stored, is_first: np.ndarray) -> np.ndarray:
    """Return which questions are equal to one that a dialogue begins with."""
    first, which = distinct(questions)
    found = np.zeros(len(first), bool)
    found[which[is_first]] = True
    return found[which] & (questions.lengths > 0)


def plain_turns(dialogues: Iterable[Sequence[str]], counts: list[int], edges: list[tuple[int, int]]) -> Iterator[Batch]:
    """Yield the texts of some dialogues at once as they are compared.

    `counts` is added how many texts each dialogue has, `edges` how many characters of each are courtesies, before and behind.
    """
    given = iter(dialogues)
    while some := list(itertools.islice(given, AT_ONCE)):
        counts += map(len, some)
        edges += (lengths(around(text, turn % 2 == 0)) for dialogue in some for turn, text in enumerate(dialogue))
        yield plain_batch([text for dialogue in some for text in dialogue])


def lengths(edges: tuple[str, str]) -> tuple[int, int]:
    """Return how many characters of a text's beginning and end are compared."""
    before, behind = (len(plain(edge)) if any(map(str.isalnum, edge)) else 0 for edge in edges)
    return before, behind


def says_something(questions: Stored, common: np.ndarray) -> np.ndarray:
    """Return the places of the questions that have an 8-gram that is not common."""
    marked = is_common(common)

    def uncommon(start: int, batch: Batch) -> np.ndarray:
        batch = batch.padded(KEY_GRAM)
        counts = batch.lengths - KEY_GRAM + 1
        return np.flatnonzero(~np.logical_and.reduceat(marked(batch), np.cumsum(counts) - counts)) + start

    return np.concatenate([np.empty(0, np.int64), *by_batch(uncommon, questions)])


def stock(texts: Stored, owner: np.ndarray, dialogues: int) -> np.ndarray:
    """Return for each text of some dialogues whether it is a greeting or a stock answer."""
    first, which = distinct(texts)
    count = np.bincount(sorted_set(owner * len(first) + which) % max(1, len(first)), minlength=len(first))
    return is_stock(texts.lengths[first], count, dialogues)[which]


def is_stock(length: int | np.ndarray, count: int | np.ndarray, dialogues: int) -> np.ndarray:
    """Return whether texts that stand in `count` of the dialogues are greetings or stock answers.

    One that is longer than a greeting needs a larger share: a question may have been answered many times.
    """
    most = limit(dialogues, STOCK_SHARE, STOCK_FLOOR)
    return count > np.where(np.greater(length, GREETING), most, limit(dialogues))


def kind(name: str, contents: Stored, chosen: np.ndarray, owner: np.ndarray, least: int) -> Kind:
    texts = contents.take(chosen)
    first, text = distinct(texts)
    pairs = sorted_set(owner[chosen] * len(first) + text)
    return Kind(name, texts.take(first), pairs % max(1, len(first)), pairs // max(1, len(first)), least)


def equal_links(texts: Texts) -> np.ndarray:
    """Return pairs of dialogues [n, 2] that have an equal text, enough of them to connect all that do."""
    return np.concatenate([np.stack([kind.first[kind.text], kind.owner], 1) for kind in (*texts.kinds, *texts.formulas)])


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
