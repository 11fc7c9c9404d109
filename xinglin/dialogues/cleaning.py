"""The cleaning that all dialogues share; docs/data.md states its rules, and each is counted."""

import re
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from xinglin.dialogues.formats import Turn, Unusable

NEUTRAL = Path(__file__).parents[2] / "templates" / "neutral.jinja"
# Control characters but line feed and tab, marks without width or that turn the writing direction, and no characters at all.
# The joiner of emoji (U+200D) and the selector of their form (U+FE0F) stay.
INVISIBLE = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u2069"
    "\ufeff\ufff9-\ufffc\ufffe\uffff\ud800-\udfff"
)
WIDE = "\u3000０-９Ａ-Ｚａ-ｚ"  # the ideographic space, digits and letters as wide as an ideograph; punctuation stays wide
UNCLEAN = re.compile(f"[{INVISIBLE}{WIDE}]")
CONTROL = re.compile(f"[{INVISIBLE}]")
LINE_END = re.compile("\r\n?|\u2028|\u2029|\x85")
NARROW = {wide: wide - 0xFEE0 for first, last in ("０９", "ＡＺ", "ａｚ") for wide in range(ord(first), ord(last) + 1)} | {
    0x3000: " "
}


def clean(turns: list[Turn], longest: int) -> tuple[list[Turn], Counter]:
    """Return alternating turns, first user, last assistant, and how often each rule changed something.

    Neighbours of one speaker become one turn, joined by a newline; questions after the last answer are cut.
    Raises Unusable for what that cannot mend, and for a turn of more than `longest` characters.
    """
    mended: Counter = Counter()
    kept: list[Turn] = []
    for role, text in turns:
        text = tidy(text, mended)
        if not text:
            raise Unusable("an empty turn")
        if kept and kept[-1][0] == role:
            kept[-1] = (role, f"{kept[-1][1]}\n{text}")
            mended["joined"] += 1
        else:
            kept.append((role, text))
    if kept and kept[-1][0] == "user":
        kept.pop()
        mended["cut"] += 1
    if not kept:
        raise Unusable("no answer")
    if kept[0][0] != "user":
        raise Unusable("it begins with an answer")
    if any(len(text) > longest for _, text in kept):
        raise Unusable(f"a turn of more than {longest} characters")
    return kept, mended


def tidy(text: str, mended: Counter) -> str:
    """Return one text without what cannot be seen, in one way of writing, trimmed, and free of special tokens."""
    if UNCLEAN.search(text):
        text = changed(text, CONTROL.sub("", LINE_END.sub("\n", text)), "control", mended)
        text = changed(text, text.translate(NARROW), "narrowed", mended)
    if not unicodedata.is_normalized("NFC", text):
        text = changed(text, unicodedata.normalize("NFC", text), "composed", mended)
    if "\ufffd" in text:
        raise Unusable("characters lost in an earlier conversion (U+FFFD)")
    text = changed(text, text.strip(), "trimmed", mended)
    return changed(text, neutralise(text), "neutralised", mended)


def changed(before: str, after: str, rule: str, mended: Counter) -> str:
    """Return `after`, and count the rule if it changed the text."""
    if before != after:
        mended[rule] += 1
    return after


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
