"""One record while it is read, and the keys that change what a row of it is: thoughts, preferences, media, tools."""

import re
from typing import Any

from xinglin.dialogues.dialogue import Dialogue, Unusable
from xinglin.dialogues.speakers import Speakers, Turn, only_lead, placed
from xinglin.dialogues.values import empty, plain_key, text_of, text_or_nothing
from xinglin.dialogues.verdicts import OPINIONS, VERDICTS, holds_text, pair_side, verdict_of

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
TAG = re.compile(
    r"(?:<|&lt;)(?:(?P<closes>/)?\s*(?:think|thinking|thoughts?|reasoning)\s*|\|(?:begin|(?P<ends>end))_of_thought\|)(?:>|&gt;)",
    re.IGNORECASE,
)
HEADED = re.compile(r"\s*## Thinking\b.*?(?=## Final Response\b)", re.DOTALL)
BEGUN = re.compile(r"\s*## Thinking\b")
SOLUTION = re.compile(r"^\s*(?:<\|begin_of_solution\|>|## Final Response\b)\s*|\s*<\|end_of_solution\|>\s*$")
MEDIA = ("image", "images", "video", "videos", "audio", "audios")


class Reader:
    """One record while it is read: what it holds, and which of its keys were read."""

    def __init__(self, record: dict, speakers: Speakers) -> None:
        self.record, self.speakers = record, speakers
        self.read: set[str] = set()
        self.unread: set[str] = set()
        self.thoughts = 0
        self.marked = False  # whether the marks of its speakers were read already
        self.scripts = 0
        self.liked: bool | None = None  # what a column that is named as the label says

    def take(self, key: str) -> Any:
        self.read.add(key)
        return self.record.get(key)

    def text(self, key: str) -> str:
        return text_of(self.take(key), key)

    def dialogue(self, turns: list[Turn], system: str = "", department: str = "") -> Dialogue:
        """Return the dialogue of `turns` with what else the record says; raises Unusable for what no row can hold."""
        self.refuse_media_and_tools()
        liked, rejected = self.verdict(), self.rejected()
        turns = turns if self.marked else self.unmarked(turns)
        turns = [(role, self.without_thought(role, text)) for role, text in turns]
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
        pieces = [piece for text in texts for piece in self.speakers.pieces(text, alone=len(texts) == 1)]
        marked = self.speakers.marks(pieces)
        lines = [] if len(pieces) > 1 else "".join(pieces).splitlines()
        if name := self.speakers.unknown(lines or pieces, self.speakers.marks(lines) if lines else marked):
            raise Unusable(f"speaker {name!r} is not known: converted.speakers names more, such as {{{name}: user}}")
        turns = placed(marked)
        if any(role == "tool" for role, _ in turns):
            raise Unusable("a turn of a tool")
        return turns

    def unmarked(self, turns: list[Turn]) -> list[Turn]:
        """Return turns without their speakers' marks; a text that tells of a talk, with both speakers' marks, is left whole."""
        scripts = [len(self.speakers.pieces(text)) > 1 for _, text in turns]
        self.scripts += sum(scripts)
        marks = self.speakers.marks([text for _, text in turns])
        return [
            (role, rest if mark == role and not script else text)
            for (role, text), (mark, rest), script in zip(turns, marks, scripts, strict=True)
        ]

    def refuse_media_and_tools(self) -> None:
        for key in (*MEDIA, "tools", "functions"):
            if not empty(self.take(key)):
                raise Unusable(
                    f"'{key}': it is about more than text" if key in MEDIA else f"'{key}': a dialogue that calls tools"
                )

    def verdict(self) -> bool | None:
        """Return whether the record's keys, or the column `label`, call the answer desired; one that does not decides."""
        said = [self.liked]
        for key, value in self.record.items():
            if (name := plain_key(key)) in VERDICTS or name in OPINIONS:
                found = verdict_of(name, key, value)
                if found is not None:
                    self.read.add(key)
                said.append(found)
        return None if not (known := [one for one in said if one is not None]) else all(known)

    def rejected(self) -> str | None:
        """Return the answer that a pair puts below the other; a flag of true or false is none."""
        below = [key for key, value in self.record.items() if pair_side(key) == "rejected" and holds_text(value)]
        below = [key for key in below if key not in self.read]
        return self.answer_of(self.take(below[0]), below[0]) or None if below else None

    def answer_of(self, value: Any, key: str) -> str:
        """Return a chosen or rejected answer: a text, a message, or messages of which the last is it."""
        last = value[-1] if isinstance(value, list) and value else value
        if isinstance(last, dict):
            last = next((last[name] for name in SAID if name in last), None)
        return self.without_thought("assistant", text_of(last, key))

    def without_thought(self, role: str, text: str) -> str:
        """Return an answer without its thoughts: what stands between their tags, or up to a closing one that is alone."""
        if role != "assistant" or not ("<" in text or "&lt;" in text or "##" in text):
            return text
        kept, start, opened = [], 0, False
        for tag in TAG.finditer(text):
            if not (tag["closes"] or tag["ends"]):
                kept += [] if opened else [text[start : tag.start()]]
                opened = True
                continue
            if not opened:  # a thought that began before the text, or before words that are part of it
                kept = []
            self.thoughts += 1
            opened, start = False, tag.end()
        if not opened and (headed := HEADED.match(text, start)):
            self.thoughts, start = self.thoughts + 1, headed.end()
        if opened or BEGUN.match(text, start):
            raise Unusable("a thought that is not closed: nobody knows where the answer begins")
        if not start:
            return text
        mark, rest = self.speakers.mark(text[start:])
        kept = [part for part in kept if not only_lead(part)]
        return SOLUTION.sub("", "\n".join([*kept, rest if mark == role else text[start:]])).strip()

    def count_thoughts(self) -> None:
        for key in self.record:
            if str(key).lower() in THOUGHTS:
                self.thoughts += not empty(self.record[key])
                self.read.add(key)


def first_of(record: Reader, key: str) -> str:
    value = reached(record, key)
    while isinstance(value, list) and value:
        record.unread |= {f"{key}[1:]"} if len(value) > 1 else set()
        value = next((one for one in value if not empty(one)), None)
    return text_of(value, key)


def reached(record: Reader, path: str) -> Any:
    """Return what a key holds; one with dots leads through objects and lists."""
    if path in record.record:
        return record.take(path)
    record.read.add(path.split(".")[0])
    return walked(record.record, path)[1]


def walked(record: Any, path: str) -> tuple[bool, Any]:
    """Return whether a record has what a path with dots leads to, and what it holds."""
    if isinstance(record, dict) and path in record:
        return True, record[path]
    value = record
    for step in path.split("."):
        if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict) and step in value:
            value = value[step]
        else:
            return False, None
    return True, value
