"""Emergencies in a patient's words, found by the rules of red_flags.yaml before any model answers.

Usage: python -m app.red_flags 右边胳膊突然抬不起来        (prints what is found)
"""

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from ruamel.yaml import YAML

from xinglin.dialogues.cleaning import NARROW

RULES = Path(__file__).parent / "red_flags.yaml"
CLAUSE = re.compile(r"[，。！？；：,!?;:\n…~]+")
CONTRAST = re.compile(r"但是|但|可是|不过|却|只是|就是|而是")
ANYWHERE = "anywhere "


class Flag(BaseModel):
    """A rule: what it is called, what to do, and by which signs it is known."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)
    id: str
    name: str
    do: str
    signs: tuple[str, ...]
    unless: tuple[str, ...] = Field((), alias="not")
    always: bool = False


class Rules(BaseModel):
    """The whole of red_flags.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)
    advice: dict[str, str]
    rules: tuple[Flag, ...]
    denied: tuple[str, ...]
    between: tuple[str, ...]
    over: tuple[str, ...]
    past: tuple[str, ...]
    general: tuple[str, ...]
    now: tuple[str, ...]


class Found(NamedTuple):
    """A flag that a message raises, and the advice for it."""

    id: str
    name: str
    advice: str


@cache
def rules() -> Rules:
    return Rules.model_validate(YAML(typ="safe").load(RULES))


@cache
def denial() -> re.Pattern[str]:
    """Return a pattern of a text that ends in a denial of what comes next: 没有, 没有明显, 没有发热和."""
    denied, between = (
        "|".join(map(re.escape, sorted(words, key=len, reverse=True))) for words in (rules().denied, rules().between)
    )
    return re.compile(rf"(?:{denied})(?:{between})*(?:[^、和或及跟与]{{1,8}}[、和或及跟与])*(?:{between})*$")


def find(text: str) -> list[Found]:
    """Return the flags that a message raises, in the order of the rules."""
    known, text = rules(), re.sub(r"\s+", "", text.translate(NARROW).lower())
    clauses = [clause for clause in CLAUSE.split(text) if clause]
    elsewhere = not says(text, known.now) and says(text, (*known.general, *known.over))
    return [
        Found(flag.id, flag.name, known.advice[flag.do])
        for flag in known.rules
        if (flag.always or not elsewhere) and any(shows(text, clauses, sign, flag) for sign in flag.signs)
    ]


@cache
def parts_of(sign: str) -> tuple[tuple[str, ...], ...]:
    """Return the words of each part of a sign."""
    return tuple(tuple(part.split("|")) for part in sign.removeprefix(ANYWHERE).split())


def shows(text: str, clauses: list[str], sign: str, flag: Flag) -> bool:
    """Say whether one sign stands in the clauses and nothing takes it back."""
    parts = parts_of(sign)
    if not all(says(text, part) for part in parts):
        return False
    fitting = [clause for clause in clauses if counts(clause, flag)]
    if sign.startswith(ANYWHERE):
        return all(any(in_order(clause, (part,)) for clause in fitting) for part in parts)
    return any(in_order(clause, parts) for clause in fitting)


def counts(clause: str, flag: Flag) -> bool:
    """Say whether a clause may show a flag at all."""
    past = not flag.always and says(clause, rules().past) and not says(clause, rules().now)
    return not past and not says(clause, flag.unless)


def says(text: str, words: tuple[str, ...]) -> bool:
    for word in words:  # noqa: SIM110  most of the time goes into this, and a loop takes half of it
        if word in text:
            return True
    return False


def in_order(clause: str, parts: tuple[tuple[str, ...], ...], start: int = 0) -> bool:
    """Say whether a word of each part follows the one before, from `start` on, none of them denied."""
    if not parts:
        return True
    return any(
        not denied(clause[start:place]) and in_order(clause, parts[1:], end) for place, end in places(clause, parts[0], start)
    )


def places(clause: str, words: tuple[str, ...], start: int) -> Iterator[tuple[int, int]]:
    """Yield where each of the words stands in the clause from `start` on."""
    for word in words:
        place = clause.find(word, start)
        while place >= 0:
            yield place, place + len(word)
            place = clause.find(word, place + 1)


def denied(before: str) -> bool:
    """Say whether what stands right before a sign denies it; a contrast (没发烧但胸痛) ends a denial."""
    return denial().search(CONTRAST.split(before)[-1]) is not None


def notice(found: list[Found]) -> str:
    """Return what to say first, each advice once; "" where nothing was found."""
    by_advice: dict[str, list[str]] = {}
    for flag in found:
        by_advice.setdefault(flag.advice, []).append(flag.name)
    return "\n".join(f"【{'、'.join(names)}】{advice}" for advice, names in by_advice.items())


if __name__ == "__main__":
    print(notice(find(" ".join(sys.argv[1:]))) or "-")
