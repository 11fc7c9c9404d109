"""Shapes of source records, each a function from a record to turns; and the cleaning that all of them share."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

Turn = tuple[str, str]  # ("user" or "assistant", text)

NEUTRAL = Path(__file__).parent.parent / "templates" / "neutral.jinja"
PREFIX = re.compile(r"\s*([问答])\s*[：:]")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
ROLES = {"问": "user", "答": "assistant"}


class Unusable(Exception):
    """A record that cannot become a dialogue; the message is the reason that rejects.jsonl gives."""


def huatuo(record: Any) -> list[Turn]:
    """Read `{"data": ["问：…", "答：…", …]}`, the shape of HuatuoGPT-sft-data-v1.

    The prefix names the speaker and is taken once, at the start; a turn without one is placed by its position,
    as the data set's own loader does (FreedomIntelligence/HuatuoGPT, scripts/finetune.py).
    """
    if not isinstance(record, dict) or "data" not in record:
        raise Unusable("no 'data' key")
    texts = record["data"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Unusable("'data' is not a list of texts")
    return [speaker(text, position) for position, text in enumerate(texts)]


def speaker(text: str, position: int) -> Turn:
    """Take the prefix off one Huatuo turn and return its role and text."""
    if match := PREFIX.match(text):
        return ROLES[match[1]], text[match.end() :]
    return ("user", "assistant")[position % 2], text


def clean(turns: list[Turn]) -> tuple[list[Turn], set[str]]:
    """Return alternating turns, first user, last assistant, and what was mended: `joined`, `cut`.

    Control characters go, white space at the ends too; neighbours of one role become one turn, joined by a newline;
    questions after the last answer are cut. Raises Unusable for what that cannot mend.
    """
    mended: set[str] = set()
    kept: list[Turn] = []
    for role, text in turns:
        text = neutralise(CONTROL.sub("", text).strip())
        if not text:
            raise Unusable("an empty turn")
        if kept and kept[-1][0] == role:
            kept[-1] = (role, f"{kept[-1][1]}\n{text}")
            mended.add("joined")
        else:
            kept.append((role, text))
    if kept and kept[-1][0] == "user":
        kept.pop()
        mended.add("cut")
    if not kept:
        raise Unusable("no answer")
    if kept[0][0] != "user":
        raise Unusable("it begins with an answer")
    return kept, mended


def neutralise(text: str) -> str:
    """Return `text` with what a tokenizer would take for a special token spelt so that it stays text.

    The rule is the macro in templates/neutral.jinja, which every chat template carries as its first line, so that
    conversion, predictions and serving share it.
    """
    return neutral_macro()(text) if "<" in text else text


@cache
def neutral_macro() -> Any:
    source = NEUTRAL.read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=False).from_string(source).module.text  # type: ignore[attr-defined]


def messages(row: dict) -> list[dict[str, str]]:
    """Return an alpaca row as chat messages, the reference answer (`output`) left out."""
    question = row["instruction"] + ("\n" + row["input"] if row["input"] else "")
    turns = [("system", row["system"])] if row["system"] else []
    for asked, answered in row["history"]:
        turns += [("user", asked), ("assistant", answered)]
    return [{"role": role, "content": content} for role, content in [*turns, ("user", question)]]
