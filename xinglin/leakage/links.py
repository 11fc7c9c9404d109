"""Whether dialogues that are kept apart share a text: a question or an answer, equal, nearly equal, or one inside the other.

Texts are compared as their content: what is left of them without what many others have in common (boilerplate.py).
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from xinglin.leakage.boilerplate import GREETING, STOCK_FLOOR, STOCK_SHARE, common_grams, limit, without
from xinglin.leakage.containment import candidates, contained, overlaps
from xinglin.leakage.similarity import all_pairs, near_pairs, plain_texts

SHORT = 20  # characters from which on an answer says something of its own; "不客气，祝您早日康复" is in many dialogues
WORDED = 10  # characters from which on a question that stands in another is the same one; "高血压怎么办" is in many
CLOSEST = 20  # pairs that a report names
LOOKED_AT = 2000  # pairs whose overlap is counted to find the closest
AT_ONCE = 5000  # dialogues


class Kind(NamedTuple):
    """Distinct texts that are compared with each other, which dialogues they stand in, and how short a contained one may be."""

    name: str
    texts: list[str]
    text: np.ndarray  # [n] a text's place in `texts` …
    owner: np.ndarray  # [n] … and a dialogue that it stands in
    least: int

    @property
    def first(self) -> np.ndarray:
        """The first dialogue of each text."""
        return self.owner[np.unique(self.text, return_index=True)[1]]


class Texts(NamedTuple):
    """What is compared of some dialogues."""

    drawn: list[str]  # what each dialogue draws by: its first question that says something
    kinds: list[Kind]
    turns: list[list[str]]  # the content of each dialogue's questions and answers in turn
    left_out: dict[str, int]  # texts that boilerplate was taken from, by kind


def compared(dialogues: Iterable[Sequence[str]]) -> Texts:
    """Return what is compared of dialogues that are given as question, answer, question, …

    Compared are first questions, later ones and answers of SHORT characters or more. A dialogue none of whose questions has
    content has its first question to be known by.
    """
    turns = plain_turns(dialogues)
    firsts = [texts[0] for texts in turns]
    left_out = {name: strip(turns, start) for start, name in enumerate(("questions", "answers"))}
    drawn, questions, answers = [], [], []
    for owner, texts in enumerate(turns):
        if not any(texts[::2]):
            texts[0] = firsts[owner]
        asked = [texts[0], *(text for text in texts[2::2] if len(text) >= SHORT)]
        drawn.append(next(filter(None, texts[::2])))
        questions += [(text, owner) for text in dict.fromkeys(asked) if text]
        answers += [(text, owner) for text in dict.fromkeys(texts[1::2]) if len(text) >= SHORT]
    return Texts(drawn, [kind("question", questions, WORDED), kind("answer", answers, SHORT)], turns, left_out)


def plain_turns(dialogues: Iterable[Sequence[str]]) -> list[list[str]]:
    found = []
    given = iter(dialogues)
    while some := list(itertools.islice(given, AT_ONCE)):
        texts = iter(plain_texts([text for dialogue in some for text in dialogue]))
        found += [list(itertools.islice(texts, len(dialogue))) for dialogue in some]
    return found


def strip(turns: list[list[str]], start: int) -> int:
    """Take what many texts have in common out of every second turn from `start` on; return how many texts that changed."""
    distinct = list(dict.fromkeys(text for texts in turns for text in texts[start::2]))
    contents = dict(zip(distinct, without(distinct, common_grams(distinct)), strict=True))
    often = Counter(text for texts in turns for text in {contents[text] for text in texts[start::2]})
    stock = {text for text, count in often.items() if is_stock(text, count, len(turns), start == 0)}
    changed = 0
    for texts in turns:
        for place in range(start, len(texts), 2):
            content = contents[texts[place]]
            content = "" if content in stock else content
            changed += content != texts[place]
            texts[place] = content
    return changed


def is_stock(text: str, count: int, dialogues: int, asked: bool) -> bool:
    """Return whether a text that stands in `count` of the dialogues is a greeting or a stock answer.

    A question that is longer than a greeting may stand in many because it was answered many times: it needs a larger share.
    """
    if asked and len(text) > GREETING:
        return count > limit(dialogues, STOCK_SHARE, STOCK_FLOOR)
    return count > limit(dialogues)


def kind(name: str, given: list[tuple[str, int]], least: int) -> Kind:
    place: dict[str, int] = {}
    text = np.fromiter((place.setdefault(text, len(place)) for text, _ in given), np.int64, len(given))
    return Kind(name, list(place), text, np.fromiter((owner for _, owner in given), np.int64, len(given)), least)


def equal_links(texts: Texts) -> np.ndarray:
    """Return pairs of dialogues [n, 2] that have an equal text, enough of them to connect all that do."""
    return np.concatenate([np.stack([kind.first[kind.text], kind.owner], 1) for kind in texts.kinds])


def near_links(texts: Texts, threshold: float) -> np.ndarray:
    """Return pairs of dialogues [n, 2] that have a near text, those that MinHash connects."""
    return np.concatenate([kind.first[near_pairs(kind.texts, threshold)] for kind in texts.kinds])


def near_across(kind: Kind, sides: np.ndarray, threshold: float, moved: np.ndarray) -> np.ndarray:
    """Return all pairs of near texts [n, 2] of which one dialogue stands on a lower side than the other, by the exact join.

    `sides` [dialogues]; equal texts must stand on one side. Only pairs with a dialogue that `moved` [dialogues].
    """
    side, new = sides[kind.first], moved[kind.first]
    held = np.flatnonzero(new & (side > 0) if new.all() else new)
    if not len(held):
        return np.empty((0, 2), np.int64)

    def across(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        one = held[one]
        return side[one] > side[other] if new.all() else side[one] != side[other]

    pairs = all_pairs([kind.texts[place] for place in held.tolist()], kind.texts, threshold, across)
    return np.stack([held[pairs[:, 0]], pairs[:, 1]], 1)


def likely_pairs(kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of texts [n, 2] that have pieces in common, and how much of them [n], for what follows."""
    return candidates(kind.texts, kind.texts)


def contained_pairs(kind: Kind, pairs: np.ndarray) -> np.ndarray:
    return contained(kind.texts, kind.texts, pairs, kind.least, SHORT)


def closest(kinds: Sequence[Kind], likely: Sequence[tuple[np.ndarray, np.ndarray]], sides: np.ndarray) -> list[dict]:
    """Return the CLOSEST pairs across sides: kind, line of both dialogues (from 1 on), their sides, and their overlap."""
    found = []
    for kind, (pairs, share) in zip(kinds, likely, strict=True):
        side = sides[kind.first]
        across = np.flatnonzero(side[pairs[:, 0]] != side[pairs[:, 1]])
        across = across[np.argsort(-share[across], kind="stable")][:LOOKED_AT]
        for (i, j), (jaccard, part) in zip(
            pairs[across].tolist(), overlaps(kind.texts, kind.texts, pairs[across]).tolist(), strict=True
        ):
            lines = [int(kind.first[i]), int(kind.first[j])]
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
