"""Emergencies in a patient's words, found before any model answers: by the signs of a list and by a classifier.

kinds.yaml        the kinds, how urgent each is, what to do, and signs that count at once: for clinicians
rules.py          how the list is read
classifier.py     what was learned from the phrases of data/red_flags
conversation.py   what a patient has told
answers.py        whether an answer plays an emergency down
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from app.red_flags import classifier, rules
from app.red_flags.answers import plays_down
from app.red_flags.conversation import heard, is_question, readings, told
from app.red_flags.rules import Level
from xinglin.cli import CommandError

THRESHOLD = 0.65  # params.yaml's app.red_flags_threshold, where nobody says another
SURER = 0.1  # how much likelier it must be in a part of a long text, which says less of the whole …
EARLY = 0.1  # … and how much less likely where the likeliest kind may not be missed
NAMED = 0.2  # how likely a kind must be to be named beside the likeliest
LEVELS: tuple[Level, ...] = ("crisis", "120", "hospital")  # what is said first


class Found(NamedTuple):
    """A kind of emergency that a conversation shows: what to do besides what its level says, and why it is thought so."""

    id: str
    name: str
    level: Level
    do: str
    why: str


def check() -> None:
    """Raise CommandError, in one line, where the list is none or lacks a kind that the classifier knows."""
    if lost := sorted({kind for kind in classifier.model().kinds if not kind.startswith("-")} - set(rules.by_id())):
        cure = "keep it, or take its phrases out of data/red_flags and run `make red-flags`"
        raise CommandError(f"{rules.LIST}: {lost[0]}: the classifier knows this kind: {cure}")


def find(messages: Sequence[str], threshold: float = THRESHOLD) -> list[Found]:
    """Return the emergencies that a patient's messages show together, the most urgent first.

    `threshold` is how likely it must be, by the classifier, that something is one. A sign of the list counts by itself.
    """
    messages, known = heard(messages), classifier.model()
    said = [message for message in messages if not is_question(message)]
    why = {kind: f"sign: {sign}" for message in said for kind, sign in rules.shown(message).items()}
    for reading in readings(messages):
        for part, text in enumerate(classifier.windows(classifier.plain(reading))):
            likely = classifier.probabilities(text, known)
            score = float(likely[known.urgent].sum())
            places = likely_kinds(likely, known)
            early = rules.by_id()[known.kinds[places[0]]].early
            if score < threshold + SURER * bool(part) - EARLY * early:
                continue
            for place in places:
                if (kind := known.kinds[place]) not in why:
                    why[kind] = f"score {score:.2f}: {', '.join(classifier.words(text, place, known))}"
    kinds = [rules.by_id()[kind] for kind in why]
    return sorted((Found(k.id, k.name, k.level, k.do, why[k.id]) for k in kinds), key=lambda flag: LEVELS.index(flag.level))


def likely_kinds(likely: np.ndarray, known: classifier.Model) -> list[int]:
    """Return the places of the likeliest kind of emergency, and of others that are not unlikely."""
    urgent = sorted(np.flatnonzero(known.urgent).tolist(), key=lambda place: -likely[place])
    return urgent[:1] + [place for place in urgent[1:] if likely[place] >= NAMED]


def due(turns: Sequence[dict[str, str]], threshold: float = THRESHOLD) -> list[Found]:
    """Return the emergencies to tell of now: those that the last message of a conversation brings, or says again."""
    said = told(turns)
    found = find(said, threshold)
    if len(said) < 2 or not found:
        return found
    before, again = ({flag.id for flag in find(part, threshold)} for part in (told(turns[:-1]), said[-1:]))
    return [flag for flag in found if flag.id not in before or flag.id in again]


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


__all__ = ["Found", "check", "due", "find", "instruction", "notice", "plays_down", "told"]
