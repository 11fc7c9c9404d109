"""The kinds of emergency of kinds.yaml, and the signs that a clinician has written there."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML, YAMLError

from xinglin.cli import CommandError
from xinglin.dialogues.cleaning import NARROW

LIST = Path(__file__).parent / "kinds.yaml"
CLAUSE = re.compile(r"[，。！？；：,!?;:\n…~]+")
CONTRAST = re.compile(r"但是|但|可是|不过|却|只是|就是|而是")
ANYWHERE = "anywhere "
NEAR = 40  # characters before a sign in which a denial is looked for
READ = 4000  # characters of a message in which signs are looked for
Level = Annotated[Literal["120", "hospital", "crisis"], BeforeValidator(str)]


class Kind(BaseModel):
    """A kind of emergency: what it is called, how urgent it is, what to do, and signs that are enough by themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)
    id: str
    name: str
    level: Level
    do: str = ""
    signs: tuple[str, ...] = ()
    unless: tuple[str, ...] = Field((), alias="not")
    always: bool = False
    early: bool = False


class Kinds(BaseModel):
    """The whole of kinds.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)
    levels: dict[Level, str]
    kinds: tuple[Kind, ...]
    denied: tuple[str, ...]
    between: tuple[str, ...]
    over: tuple[str, ...]
    past: tuple[str, ...]
    general: tuple[str, ...]
    now: tuple[str, ...]


@cache
def known() -> Kinds:
    """Return the list; raise CommandError, in one line that names the place, where it is not one."""
    try:
        given = YAML(typ="safe").load(LIST)
        found = Kinds.model_validate(given)
    except YAMLError as error:
        raise CommandError(f"{LIST}: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        raise CommandError(f"{LIST}: {place_of(fault['loc'], given)}: {fault['msg']}") from None
    counts = Counter(kind.id for kind in found.kinds)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise CommandError(f"{LIST}: {twice[0]}: stands there twice")
    if missing := {"120", "hospital", "crisis"} - set(found.levels):
        raise CommandError(f"{LIST}: levels: {min(missing)} is missing")
    for kind in found.kinds:
        for sign in kind.signs:
            if wrong := fault_of(sign):
                raise CommandError(f"{LIST}: {kind.id}: sign {sign!r}: {wrong}")
    return found


def place_of(place: Sequence[int | str], given: Any) -> str:
    """Return where in the list a fault is, a kind by its name."""
    if len(place) > 1 and place[0] == "kinds" and isinstance(kind := given["kinds"][place[1]], dict):
        return ".".join(map(str, (kind.get("id", f"kind {place[1]}"), *place[2:])))
    return ".".join(map(str, place)) or "the file"


def fault_of(sign: str) -> str:
    """Return why a sign could never count, or would always."""
    words = sign.removeprefix(ANYWHERE).replace("|", " ").split(" ")
    if not all(words):
        return "a word is empty: one space or one | between words"
    if sign != sign.lower():
        return "write it in lower case, as messages are read"
    if CLAUSE.search(sign) or "｜" in sign:
        return "no punctuation: a sign stands within a clause, | is an ASCII one"
    return ""


@cache
def by_id() -> dict[str, Kind]:
    return {kind.id: kind for kind in known().kinds}


@cache
def denial() -> re.Pattern[str]:
    """Return a pattern of a text that ends in a denial of what comes next: 没有, 没有明显, 没有发热和."""
    denied, between = (
        "|".join(map(re.escape, sorted(words, key=len, reverse=True))) for words in (known().denied, known().between)
    )
    return re.compile(rf"(?:{denied})(?:{between})*+(?:[^、和或及跟与]{{1,8}}+[、和或及跟与])*+(?:{between})*+$")


def shown(text: str) -> dict[str, str]:
    """Return the kinds of which a sign stands in a text, and that sign."""
    text = re.sub(r"\s+", "", text[:READ].translate(NARROW).lower())
    clauses = [clause for clause in CLAUSE.split(text) if clause]
    elsewhere = not says(text, known().now) and says(text, (*known().general, *known().over))
    found: dict[str, str] = {}
    for kind in known().kinds:
        if kind.always or not elsewhere:
            sign = next((sign for sign in kind.signs if shows(text, clauses, sign, kind)), None)
            found |= {kind.id: sign} if sign else {}
    return found


@cache
def parts_of(sign: str) -> tuple[tuple[str, ...], ...]:
    """Return the words of each part of a sign."""
    return tuple(tuple(part.split("|")) for part in sign.removeprefix(ANYWHERE).split())


def shows(text: str, clauses: list[str], sign: str, kind: Kind) -> bool:
    """Say whether one sign stands in the clauses and nothing takes it back."""
    parts = parts_of(sign)
    if not all(says(text, part) for part in parts):
        return False
    fitting = [clause for clause in clauses if counts(clause, kind)]
    if sign.startswith(ANYWHERE):
        return all(any(in_order(clause, (part,)) for clause in fitting) for part in parts)
    return any(in_order(clause, parts) for clause in fitting)


def counts(clause: str, kind: Kind) -> bool:
    """Say whether a clause may show a kind at all."""
    past = not kind.always and says(clause, known().past) and not says(clause, known().now)
    return not past and not says(clause, kind.unless)


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
    return denial().search(CONTRAST.split(before[-NEAR:])[-1]) is not None
