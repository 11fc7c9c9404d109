"""What a record becomes when it is read: a dialogue, or the reason why it is none."""

from typing import NamedTuple

from xinglin.dialogues.speakers import Turn


class Unusable(Exception):
    """A record that cannot become a dialogue; the message is the reason that rejects.jsonl gives."""


class Dialogue(NamedTuple):
    """Turns as they stand in the source, and what the record says beside them."""

    turns: list[Turn]
    system: str = ""
    department: str = ""
    thoughts: int = 0  # that stood before or beside answers
    liked: bool | None = None  # the last answer, as KTO's labels say
    rejected: str | None = None  # the answer that a pair of preferences puts below the last one
    unread: tuple[str, ...] = ()  # keys that nobody reads
    scripts: int = 0  # texts that tell of a talk, with the marks of both speakers
