"""One record while it is read, and the keys that change what a row of it is: thoughts, preferences, media, tools."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from xinglin.dialogues.dialogue import Dialogue, Unusable
from xinglin.dialogues.speakers import Speakers, Turn, placed

SAID = ("content", "value", "text", "utterance", "sentence")
THOUGHTS = frozenset(
    [
        "complex_cot",
        "reasoning_content",
        "reasoning",
        "thinking",
        "thought",
        "thoughts",
        "cot",
        "chain_of_thought",
        "think",
        "思考过程",
        "思维链",
    ]
)
THOUGHT = re.compile(
    r"\s*(?:<(think|thinking|thought|reasoning)>.*?</\1>"
    r"|<\|begin_of_thought\|>.*?<\|end_of_thought\|>|## Thinking\b.*?(?=## Final Response\b))\s*",
    re.DOTALL,
)
SOLUTION = re.compile(r"^\s*(?:<\|begin_of_solution\|>|## Final Response\b)\s*|\s*<\|end_of_solution\|>\s*$")
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
FALSE = ("false", "0", "no")


class Reader:
    """One record while it is read: what it holds, and which of its keys were read."""

    def __init__(self, record: dict, speakers: Speakers) -> None:
        self.record, self.speakers = record, speakers
        self.read: set[str] = set()
        self.unread: set[str] = set()
        self.thoughts = 0
        self.marked = False  # whether the marks of its speakers were read already
        self.scripts = 0

    def take(self, key: str) -> Any:
        self.read.add(key)
        return self.record.get(key)

    def text(self, key: str) -> str:
        return text_of(self.take(key), key)

    def dialogue(self, turns: list[Turn], system: str = "", department: str = "") -> Dialogue:
        """Return the dialogue of `turns` with what else the record says; raises Unusable for what no row can hold."""
        self.refuse_media_and_tools()
        liked, rejected = self.preference()
        turns = [self.unmarked(role, self.without_thought(role, text)) for role, text in turns]
        self.count_thoughts()
        unread = {key for key in self.record if key not in self.read and empty(self.record[key]) is False}
        department = department or text_or_nothing(self.take("department"))
        unread.discard("department")
        return Dialogue(
            turns,
            system or self.text("system"),
            department.strip(),
            self.thoughts,
            liked,
            rejected,
            tuple(sorted(map(str, (unread - {"system"}) | self.unread))),
            self.scripts,
        )

    def placed(self, texts: list[str]) -> list[Turn]:
        """Return the turns of texts without roles of their own, with marks before them, or within where one was not divided."""
        self.marked = True
        return placed([piece for text in texts for piece in self.speakers.pieces(text)], self.speakers)

    def unmarked(self, role: str, text: str) -> Turn:
        """Return a turn without its speaker's mark; a text that tells of a talk, with both speakers' marks, is left whole."""
        if self.marked:
            return role, text
        if len(self.speakers.pieces(text)) > 1:
            self.scripts += 1
            return role, text
        mark, rest = self.speakers.mark(text)
        return role, rest if mark == role else text

    def refuse_media_and_tools(self) -> None:
        for key in (*MEDIA, "tools", "functions"):
            if not empty(self.take(key)):
                raise Unusable(
                    f"'{key}': it is about more than text" if key in MEDIA else f"'{key}': a dialogue that calls tools"
                )

    def preference(self) -> tuple[bool | None, str | None]:
        """Return what KTO's `kto_tag`, or a `label` of true or false, says of the answer, and a pair's rejected answer."""
        liked = None
        if not empty(tag := self.record.get("kto_tag")):
            self.read.add("kto_tag")
            liked = str(tag).strip().lower() not in FALSE
        elif isinstance(label := self.record.get("label"), bool) or str(label).strip().lower() in ("true", "false"):
            self.read.add("label")
            liked = str(label).strip().lower() == "true"
        below = next(
            (key for key in ("rejected", "rejected_response", "rejected_messages") if not empty(self.record.get(key))), None
        )
        return liked, self.answer_of(self.take(below), below) if below else None

    def answer_of(self, value: Any, key: str) -> str:
        """Return a chosen or rejected answer: a text, a message, or messages of which the last is it."""
        last = value[-1] if isinstance(value, list) and value else value
        if isinstance(last, dict):
            last = next((last[name] for name in SAID if name in last), None)
        return self.without_thought("assistant", text_of(last, key))

    def without_thought(self, role: str, text: str) -> str:
        if role == "assistant" and (found := THOUGHT.match(text)):
            self.thoughts += 1
            return SOLUTION.sub("", text[found.end() :])
        return text

    def count_thoughts(self) -> None:
        for key in self.record:
            if str(key).lower() in THOUGHTS:
                self.thoughts += not empty(self.record[key])
                self.read.add(key)


def text_of(value: Any, key: str) -> str:
    """Return a text; a list of OpenAI's content parts is the text of its parts."""
    if isinstance(value, list) and value and all(isinstance(part, dict) and "type" in part for part in value):
        if kinds := {str(part["type"]) for part in value} - {"text"}:
            raise Unusable(f"'{key}' holds more than text: {min(kinds)[:20]}")
        value = "\n".join(text_of(part.get("text"), key) for part in value)
    if value is not None and not isinstance(value, str):
        raise Unusable(f"'{key}' is not a text")
    return value or ""


def text_or_nothing(value: Any) -> str:
    return value if isinstance(value, str) else ""


def empty(value: Any) -> bool:
    """Say whether a key holds nothing."""
    return value is None or (
        isinstance(value, str | Sequence | Mapping) and not (value.strip() if isinstance(value, str) else value)
    )
