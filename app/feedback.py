"""Approved and corrected answers as dialogues in HuatuoGPT's shape, the next source of `raw`.

Usage: make feedback        (writes data/feedback/dialogues.jsonl; then one of raw.sources, or raw.path)

A dialogue goes as far as its answers are good: liked, or corrected, the correction then standing for the answer. What comes
after an answer that nobody approved is left out, since training would learn that answer too.
"""

import os
from pathlib import Path

from app.settings import Params
from app.store import Message, Store, pairs
from xinglin.cli import run_command
from xinglin.files import write_jsonl

OUT = Path("data/feedback/dialogues.jsonl")


def approved(messages: list[Message]) -> list[str]:
    """Return the texts of a conversation up to its last good answer in a row, prefixed as the data set prefixes them."""
    found: list[str] = []
    for question, answer in pairs(messages):
        text = answer.correction or (answer.content if answer.liked else "")
        if not text:
            break
        found += [f"问：{question.content}", f"答：{text}"]
    return found


def main() -> None:
    store = Store(os.environ.get("XINGLIN_DATABASE", Params.read().app.database))
    rows = [{"data": texts} for messages in store.rated() if (texts := approved(messages))]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(OUT, rows)
    source = f"{{name: feedback, source: path, path: {OUT}, licence: own}}"
    print(f"feedback: {len(rows)} dialogues -> {OUT}: read them, then add {source} to raw.sources")


if __name__ == "__main__":
    run_command(main)
