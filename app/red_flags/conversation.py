"""What a patient has told: their messages in turn, and what they affirm or deny of what they were asked.

Read are messages; one that begins with ASKED is a question that was put to the patient before the next one.
"""

import re
from collections.abc import Iterator, Sequence

ASKED = "医生："
SHORT = 8  # characters: a shorter message answers what it was asked
QUESTION = re.compile(r"[^。！!\n]*(?:[？?]|[吗呢](?=[。！!\n]|$))")
DENIES = re.compile(
    r"^(?:都|也|倒|完全|暂时|目前|好像)*(?:没有?|没的?|不是?|无|否|木有|冇|no|not|nope)(?:有|的|啊|呀|哦|过|疼|痛|喘|了)*[。！!，,.]*$",
    re.IGNORECASE,
)
LAST = (1, 2, 3)  # messages that are read by themselves too, so that small talk before them hides nothing


def told(turns: Sequence[dict[str, str]]) -> list[str]:
    """Return what a patient has told in the turns of a conversation; what was asked stands before a short answer."""
    found, asked = [], ""
    for turn in turns:
        if turn["role"] == "assistant":
            asked = "".join(QUESTION.findall(turn["content"]))[-100:].strip()
        elif turn["role"] == "user":
            found += [f"{ASKED}{asked}"] if asked and len(turn["content"]) <= SHORT else []
            found.append(turn["content"])
            asked = ""
    return found


def heard(messages: Sequence[str]) -> list[str]:
    """Return the messages without what was asked and denied: that says nothing of the patient."""
    found: list[str] = []
    for message in messages:
        if found and found[-1].startswith(ASKED) and DENIES.match(message.strip()):
            found.pop()
        else:
            found.append(message)
    return found


def readings(messages: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the messages together, and the last ones by themselves; a question stays with its answer."""
    yield messages
    for count in LAST:
        start = len(messages) - count
        if start > 0:
            yield messages[start - messages[start - 1].startswith(ASKED) :]
