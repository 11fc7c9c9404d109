"""What a key of a record holds: a text, nothing, or JSON in a text; and the key in plain letters."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson

from xinglin.dialogues.dialogue import Unusable


def text_of(value: Any, key: str) -> str:
    """Return a text; a list of OpenAI's content parts is the text of its parts."""
    if isinstance(value, list) and value and all(isinstance(part, dict) and "type" in part for part in value):
        if kinds := {str(part["type"]) for part in value} - {"text"}:
            raise Unusable(f"'{key}' holds more than text: {min(kinds)[:20]}")
        value = "\n".join(text_of(part.get("text"), key) for part in value)
    if is_nan(value):
        return ""
    if value is not None and not isinstance(value, str):
        raise Unusable(f"'{key}' is not a text")
    return value or ""


def text_or_nothing(value: Any) -> str:
    return value if isinstance(value, str) else ""


def is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def empty(value: Any) -> bool:
    """Say whether a key holds nothing."""
    return (
        value is None
        or is_nan(value)
        or (isinstance(value, str | Sequence | Mapping) and not (value.strip() if isinstance(value, str) else value))
    )


@lru_cache(1 << 12)
def plain_key(key: object) -> str:
    """Return a key in small letters, its words joined by underscores."""
    return re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(key).strip())).lower()


def loaded(text: str) -> Any:
    if text.lstrip()[:1] not in ("[", "{"):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
