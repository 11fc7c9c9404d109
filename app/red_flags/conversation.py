"""What a patient has told: their messages in turn, and what they affirm or deny of what they were asked.

Among the messages stands a question that was put to the patient before the next one as 医生：…？; who begins with 医生： and
asks nothing addresses the doctor.
"""

import re
from collections.abc import Iterator, Sequence

ASKED = "医生："
SHORT = 8  # characters: a shorter message answers what it was asked
SENTENCE = re.compile(r"[。！!\n]")
DENIES = re.compile(
    r"^(?:都|也|倒|完全|暂时|目前|好像)*(?:没有?|没的?|不是?|无|否|木有|冇|no|not|nope)(?:有|的|啊|呀|哦|过|疼|痛|喘|了)*[。！!，,.]*$",
    re.IGNORECASE,
)
AFFIRMS = re.compile(
    r"^(?:都|也|嗯|恩|哦|确实|好像)*(?:有|是|对|会|嗯|恩|疼|痛|yes)"
    r"(?:的|啊|呀|点|一点|一些|过|呢|疼|痛)*[。！!，,.]*$",
    re.IGNORECASE,
)
ASKING = re.compile(r"有没有|是不是|会不会|能不能|还有|请问|吗|呢|[？?]|您|你")
LAST = (1, 2, 3)  # messages that are read by themselves too, so that small talk before them hides nothing


def told(turns: Sequence[dict[str, str]]) -> list[str]:
    """Return what a patient has told in the turns of a conversation; what was asked stands before a short answer."""
    found, asked = [], ""
    for turn in turns:
        if turn["role"] == "assistant":
            asked = asked_in(turn["content"])[-100:].strip()
        elif turn["role"] == "user":
            found += [f"{ASKED}{asked}"] if asked and len(turn["content"]) <= SHORT else []
            found.append(turn["content"].removeprefix(ASKED))
            asked = ""
    return found


def asked_in(text: str) -> str:
    """Return what a text asks: its sentences as far as they are questions."""

    def asked(sentence: str) -> str:
        return sentence if sentence.endswith(("吗", "呢")) else sentence[: max(map(sentence.rfind, "？?")) + 1]

    return "".join(map(asked, SENTENCE.split(text)))


def is_question(message: str) -> bool:
    return message.startswith(ASKED) and asked_in(message) != ""


def heard(messages: Sequence[str]) -> list[str]:
    """Return the messages with what was asked and affirmed as if the patient had said it, and without what was denied."""
    found: list[str] = []
    for message in messages:
        asked = found[-1] if found and is_question(found[-1]) else ""
        if asked and DENIES.match(message.strip()):
            found.pop()
        elif asked and AFFIRMS.match(message.strip()):
            found[-1] = ASKING.sub(" ", asked.removeprefix(ASKED)).strip()
        else:
            found.append(message)
    return found


def readings(messages: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the messages together, and the last ones by themselves; a question stays with its answer."""
    yield messages
    for count in LAST:
        start = len(messages) - count
        if start > 0:
            yield messages[start - is_question(messages[start - 1]) :]
