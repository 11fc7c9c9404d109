"""A question of an exam with its options, and the answer that is a letter of one."""

import re
from typing import Any

from xinglin.dialogues.dialogue import Unusable
from xinglin.dialogues.reader import Reader, first_of
from xinglin.dialogues.values import empty, loaded, plain_key

OPTIONS = ("option", "options", "choices", "选项")
OPTION_KEY = re.compile(r"(?:option[_ ]?|opt[_ ]?|选项)?([A-H])", re.IGNORECASE)
CHOICE = re.compile(r"[A-H](?:\s*[,，、;；和|]?\s*[A-H]){0,7}")


def with_options(record: Reader, question: str, answer: str) -> tuple[str, str]:
    """Return an exam's question with its options, one a line, and the answer that is a letter with its option's text.

    Raises Unusable for options of a kind that cannot be read.
    """
    key = next((name for name in record.record if plain_key(name) in OPTIONS and not empty(record.record[name])), None)
    chosen = re.findall("[A-H]", answer) if CHOICE.fullmatch(answer) else []
    options = options_of(record, key, bool(chosen))
    if not options:
        return question, answer
    if any(letter not in options for letter in chosen):
        raise Unusable(f"an exam: its options would be lost, '{key or 'A'}' does not hold '{answer[:20]}'")
    if not all(text in question for text in options.values()):
        question = "\n".join([question, *(f"{letter}. {text}" for letter, text in options.items())])
    return question, "\n".join(f"{letter}. {options[letter]}" for letter in chosen) or answer


def options_of(record: Reader, key: str | None, is_exam: bool) -> dict[str, str]:
    """Return the options of an exam by their letters; without a key of its own they may be columns A, B, C …"""
    if key is None:
        columns = {found[1].upper(): name for name in record.record if (found := OPTION_KEY.fullmatch(str(name).strip()))}
        if not is_exam or not {"A", "B"} <= columns.keys():
            return {}
        texts = {letter: first_of(record, name).strip() for letter, name in sorted(columns.items())}
        return {letter: text for letter, text in texts.items() if text}
    value = record.take(key)
    value = loaded(value) if isinstance(value, str) else value
    if isinstance(value, str):
        value = [line for line in map(str.strip, value.splitlines()) if line]
    if isinstance(value, list):
        value = dict(option(place, entry) for place, entry in enumerate(value))
    given = value if isinstance(value, dict) else {}
    texts = {str(letter).strip(): text for letter, text in given.items() if not empty(text)}
    if len(texts) < 2 or not all(isinstance(text, str) and re.fullmatch("[A-Z]", letter) for letter, text in texts.items()):
        if is_exam:
            raise Unusable(f"an exam: its options would be lost, '{key}' does not hold one text for each letter")
        record.read.discard(key)
        return {}
    return {letter: text.strip() for letter, text in texts.items()}


def option(place: int, entry: Any) -> tuple[str, Any]:
    """Return the letter and the text of an option: a text, which may begin with its letter, or an object of both."""
    if isinstance(entry, dict) and len(entry) == 2:
        letter, text = sorted(entry.values(), key=lambda value: len(str(value)))
        return str(letter), text
    found = re.match(r"[(（]?([A-H])(?:\s*[.．、:：)）]\s*|\s+)(?=\S)", entry) if isinstance(entry, str) else None
    return (found[1], entry[found.end() :]) if found else ("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[place % 26], entry)
