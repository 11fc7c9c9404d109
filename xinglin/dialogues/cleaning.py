"""The cleaning that all dialogues share; docs/data.md states its rules, and each is counted."""

import re
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from xinglin.dialogues.dialogue import Unusable
from xinglin.dialogues.speakers import Turn

NEUTRAL = Path(__file__).parents[2] / "templates" / "neutral.jinja"
# Control characters but line feed and tab, marks without width or that turn the writing direction, and no characters at all.
# The joiner of emoji (U+200D) and the selector of their form (U+FE0F) stay beside one.
INVISIBLE = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff0-\ufffc\ufffe\uffff\ud800-\udfff"
)
# Letters that show nothing, selectors of a character's form, and tag characters, in which whole instructions can be hidden.
BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\ufe00-\ufe0e"
TAGS = "\U000e0000-\U000e0fff"
PRIVATE_USE = "\ue000-\uf8ff"  # characters that mean nothing outside the font or code page they are from
WIDE = "\u3000０-９Ａ-Ｚａ-ｚ"  # the ideographic space, digits and letters as wide as an ideograph; punctuation stays wide
EMOJI = "#*0-9\xa9\xae\u203c-\u3299\ufe0f\U0001f000-\U0001faff"
BEYOND = "\U000e0000-\U0010ffff"  # the tag characters and the last planes in one range, which `re` looks for faster than in two
UNCLEAN = re.compile(f"[{INVISIBLE}{BLANK}{PRIVATE_USE}{WIDE}\u200d\ufe0f{BEYOND}]")
CONTROL = re.compile(f"[{INVISIBLE}]")
HIDDEN = re.compile(
    f"[{BLANK}{TAGS}]|(?<![{EMOJI}])[\u200d\ufe0f]+|(?<=[\u200d\ufe0f])\ufe0f+|\u200d(?![\u2190-\u3299\U0001f000-\U0001faff])"
)
UNMEANT = re.compile(f"[{PRIVATE_USE}\U000f0000-\U0010ffff]")
WORD = re.compile(r"[^\W_]")  # a letter, an ideograph or a digit
CLAUSES = re.compile(r"[\W_]+")
LOOP = re.compile(r"(?s)(.{2,80}?)\1{2,}")
SMALL_TALK = 4  # characters up to which two people say the same to each other, as in 再见
STACK = 30  # as Unicode's Stream-Safe Text Format has it (UAX #15)
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
    for place, (role, text) in enumerate(kept):
        if role == "assistant":
            check_answer(kept[place - 1][1], text)
    if not WORD.search(kept[0][1]):
        raise Unusable("a first question without a word")
    return kept, mended


def check_answer(question: str, answer: str) -> None:
    """Raise Unusable for an answer that says nothing, says the question again, or one thing many times over."""
    if not WORD.search(answer):
        raise Unusable("an answer without a word")
    if answer == question and len(answer) > SMALL_TALK:
        raise Unusable("an answer equal to its question")
    if len(answer) >= 12 and repeats(answer):
        raise Unusable("an answer that repeats itself")


def repeats(text: str) -> bool:
    """Say whether most of a text is one phrase, over and over."""
    if text.count(text[:3]) < 3 and text.count(text[-4:]) < 4:
        return False
    if (loop := LOOP.match(text)) and len(loop[0]) * 4 > len(text) * 3:
        return True
    clauses = Counter(clause for clause in CLAUSES.split(text) if len(clause) > 1)
    clause, times = clauses.most_common(1)[0] if clauses else ("", 0)
    return times > 3 and times * len(clause) * 2 > sum(len(clause) * times for clause, times in clauses.items())


def tidy(text: str, mended: Counter) -> str:
    """Return one text without what cannot be seen, in one way of writing, trimmed, and free of special tokens."""
    if UNCLEAN.search(text):
        text = changed(text, CONTROL.sub("", LINE_END.sub("\n", text)), "control", mended)
        while (shown := HIDDEN.sub("", text)) != text:
            text = changed(text, shown, "hidden", mended)
        text = changed(text, UNMEANT.sub("", text), "private", mended)
        text = changed(text, text.translate(NARROW), "narrowed", mended)
    if not unicodedata.is_normalized("NFC", text):
        text = changed(text, unicodedata.normalize("NFC", unstacked(text)), "composed", mended)
    if "\ufffd" in text:
        raise Unusable("characters lost in an earlier conversion (U+FFFD)")
    text = changed(text, text.strip(), "trimmed", mended)
    return changed(text, neutralise(text), "neutralised", mended)


def unstacked(text: str) -> str:
    """Return a text with no more than STACK marks on one letter: the time to order them grows with their square."""
    kept, height = [], 0
    for character in text:
        height = height + 1 if unicodedata.combining(character) else 0
        if height <= STACK:
            kept.append(character)
    return "".join(kept)


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
