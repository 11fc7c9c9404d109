"""LLaMA-Factory's alpaca row, in which converted dialogues are kept: made from turns, and read back."""

import hashlib

import orjson

PLACE = ("source", "line", "element", "part")  # keys that tell where a row comes from, not what it says


def alpaca_row(texts: list[str], system: str, department: str) -> dict:
    """Return the row of questions and answers in turn: the last pair as instruction and output, the earlier ones as history."""
    history = [[texts[i], texts[i + 1]] for i in range(0, len(texts) - 2, 2)]
    row = {"instruction": texts[-2], "input": "", "output": texts[-1], "system": system, "history": history}
    return row | {"department": department}


def row_id(row: dict) -> str:
    """Return 16 hex digits of what a row says, wherever it stands: a line that is put before it changes no id."""
    content = {key: value for key, value in row.items() if key not in PLACE}
    return hashlib.sha256(orjson.dumps(content)).hexdigest()[:16]


def texts_of(row: dict) -> list[str]:
    """Return a row's questions and answers in the order in which they were said."""
    return [text for pair in row["history"] for text in pair] + [question(row), row["output"]]


def question(row: dict) -> str:
    return row["instruction"] + ("\n" + row["input"] if row["input"] else "")


def messages(row: dict) -> list[dict[str, str]]:
    """Return a row as chat messages, the reference answer (`output`) left out."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts_of(row)[:-1])]
    return [{"role": "system", "content": row["system"]}, *turns] if row["system"] else turns
