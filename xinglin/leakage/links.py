"""Whether dialogues that are kept apart share a text: a first question or an answer, equal or nearly equal, or long pieces."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from xinglin.leakage.similarity import all_pairs, near_pairs, plain

SHORT = 20  # characters from which on an answer says something of its own; "不客气，祝您早日康复" is in many dialogues


class Texts(NamedTuple):
    """The plain texts of some dialogues, and which dialogue each answer stands in."""

    questions: list[str]  # the first question of each dialogue
    answers: list[str]  # the answers that are not short
    owners: list[int]  # of the answers

    def kinds(self) -> list[tuple[list[str], Sequence[int]]]:
        """Return what is compared with its own kind: texts and the dialogue of each."""
        return [(self.questions, range(len(self.questions))), (self.answers, self.owners)]


def compared(dialogues: Iterable[Sequence[str]]) -> Texts:
    """Return what is compared of dialogues that are given as question, answer, question, …"""
    found = Texts([], [], [])
    for owner, texts in enumerate(dialogues):
        answers = [text for text in map(plain, texts[1::2]) if len(text) >= SHORT]
        found.questions.append(plain(texts[0]))
        found.answers.extend(answers)
        found.owners.extend([owner] * len(answers))
    return found


def equal_links(texts: Texts) -> np.ndarray:
    """Return pairs of dialogues [n, 2] that have an equal text, enough of them to connect all that do."""
    found = []
    for given, owners in texts.kinds():
        first: dict[str, int] = {}
        found += [(first.setdefault(text, owner), owner) for text, owner in zip(given, owners, strict=True)]
    return np.array(found, np.int64).reshape(-1, 2)


def near_links(texts: Texts, threshold: float, exact: bool) -> np.ndarray:
    """Return pairs of dialogues [n, 2] that have a near text: those that MinHash connects, or by the exact join all of them."""
    found = []
    for given, owners in texts.kinds():
        first = dict(zip(reversed(given), reversed(owners), strict=True))
        distinct, owner = list(first), np.array(list(first.values()), np.int64)
        found.append(owner[all_pairs(distinct, distinct, threshold) if exact else near_pairs(distinct, threshold)])
    return np.concatenate(found)
