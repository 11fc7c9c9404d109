"""Emergencies in a patient's words, found before any model answers: by the signs of a list and by a classifier.

kinds.yaml      the kinds, how urgent each is, what to do, and signs that count at once: for clinicians
rules.py        how the signs are read
classifier.py   what was learned from the phrases of data/red_flags
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from app.red_flags import classifier, rules
from app.red_flags.rules import Level

THRESHOLD = 0.5  # params.yaml's app.red_flags_threshold, where nobody says another
CRISIS = 0.2  # how likely a crisis must be to be named beside a likelier kind
ANSWERED = 8  # characters: a shorter message answers what it was asked
ASKS = ("？", "?", "吗", "呢", "没有", "多久")
LEVELS: tuple[Level, ...] = ("crisis", "120", "hospital")  # what is said first


class Found(NamedTuple):
    """A kind of emergency that a conversation shows: what to do besides what its level says, and why it is thought so."""

    id: str
    name: str
    level: Level
    do: str
    why: str


def find(messages: Sequence[str], threshold: float = THRESHOLD) -> list[Found]:
    """Return the emergencies that a patient's messages show together, the most urgent first.

    `threshold` is how likely it must be, by the classifier, that something is one. A sign of the list counts by itself.
    """
    why = {kind: f"sign: {sign}" for message in messages for kind, sign in rules.shown(message).items()}
    known = classifier.model()
    for text in classifier.windows(classifier.plain(messages)):
        likely = classifier.probabilities(text, known)
        score = float(likely[known.urgent].sum())
        if score >= threshold:
            for place in likely_kinds(likely, known):
                why.setdefault(known.kinds[place], f"score {score:.2f}: {', '.join(classifier.words(text, place, known))}")
            break
    kinds = [rules.by_id()[kind] for kind in why]
    return sorted((Found(k.id, k.name, k.level, k.do, why[k.id]) for k in kinds), key=lambda flag: LEVELS.index(flag.level))


def likely_kinds(likely: np.ndarray, known: classifier.Model) -> list[int]:
    """Return the places of the likeliest kind of emergency, and of a crisis where that is not unlikely either."""
    urgent = np.flatnonzero(known.urgent).tolist()
    crisis = [place for place in urgent if likely[place] > CRISIS and rules.by_id()[known.kinds[place]].level == "crisis"]
    return list(dict.fromkeys([max(urgent, key=likely.__getitem__), *crisis]))


def told(messages: Sequence[dict[str, str]]) -> list[str]:
    """Return what a patient has told in a conversation; what was asked stands before a short answer: 医生：胸口疼吗？ 有."""
    found, asked = [], ""
    for message in messages:
        if message["role"] == "assistant":
            asked = question_of(message["content"])
        elif message["role"] == "user":
            if asked and len(message["content"]) <= ANSWERED:
                found.append(f"医生：{asked}")
            found.append(message["content"])
            asked = ""
    return found


def question_of(answer: str) -> str:
    """Return the last line of an answer if it asks something."""
    line = answer.strip().splitlines()[-1] if answer.strip() else ""
    return line[-100:] if line.endswith(ASKS) else ""


def due(messages: Sequence[dict[str, str]], threshold: float = THRESHOLD) -> list[Found]:
    """Return the emergencies to tell of now: those that the last message brings, or says again."""
    said = told(messages)
    found = find(said, threshold)
    if len(said) < 2 or not found:
        return found
    before = {flag.id for flag in find(told(messages[:-1]), threshold)}
    return found if find(said[-1:], threshold) else [flag for flag in found if flag.id not in before]


def notice(found: Sequence[Found]) -> str:
    """Return what to say first, a line for each level; "" where nothing was found."""
    lines = []
    for level in LEVELS:
        if flags := [flag for flag in found if flag.level == level]:
            names = "、".join(flag.name for flag in flags)
            lines.append(f"【{names}】{rules.known().levels[level]}{''.join(flag.do for flag in flags)}")
    return "\n".join(lines)


def instruction(found: Sequence[Found]) -> str:
    """Return what the model is told besides."""
    return f"患者的话里有急症征象。先请患者照下面做，再回答；不要说没事。\n{notice(found)}"


def plays_down(answer: str) -> bool:
    """Say whether an answer to an emergency plays it down, or sends nobody anywhere."""
    known = rules.known()
    return rules.says(answer, known.plays_down) or not rules.says(answer, known.sends)
