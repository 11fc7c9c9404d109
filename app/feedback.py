"""Approved and corrected answers as dialogues in HuatuoGPT's shape, the next source of `raw`.

Usage: make feedback        (writes data/feedback/dialogues.jsonl; then one of raw.sources, or raw.path)

A dialogue goes as far as its answers are good: approved by an administrator, or, where none has looked, liked or corrected; the
correction stands for the answer. What comes after an answer that nobody approved is left out, since training would learn that
answer too. Of branches each is a dialogue, but for what it has in common with a longer one.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from app.settings import Params
from app.store import Message, Store
from xinglin.cli import run_command
from xinglin.files import write_jsonl

OUT = Path("data/feedback/dialogues.jsonl")


def good(answer: Message, strict: bool) -> bool:
    """Say whether an answer may be learned; `strict`: only what an administrator approved."""
    if answer.feedback == "approved":
        return True
    return not strict and answer.feedback == "open" and bool(answer.liked or answer.correction)


def approved(messages: Sequence[Message], strict: bool = False) -> list[dict[str, list[str]]]:
    """Return the good dialogues of a conversation's tree, prefixed as the data set prefixes them."""
    children: dict[str | None, list[Message]] = {}
    for message in messages:
        children.setdefault(message.parent, []).append(message)

    def below(parent: str | None) -> Iterator[list[str]]:
        """Yield the good dialogues that go on from `parent`: at least the empty one."""
        found = False
        for question in children.get(parent, []):
            for answer in children.get(question.id, []):
                if good(answer, strict):
                    found = True
                    for rest in below(answer.id):
                        yield [f"问：{question.content}", f"答：{answer.text}", *rest]
        if not found:
            yield []

    return [{"data": texts} for texts in below(None) if texts]


def lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main() -> None:
    store = Store(os.environ.get("XINGLIN_DATABASE", Params.read().app.database))
    rows = [row for messages in store.rated() for row in approved(messages)]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(OUT, rows)
    OUT.chmod(0o600)
    source = f"{{name: feedback, source: path, path: {OUT}, licence: own}}"
    print(f"feedback: {len(rows)} dialogues -> {OUT}: read them, then add {source} to raw.sources")


if __name__ == "__main__":
    run_command(main)
