"""Who speaks: by the names that the records give, never by place where there is one."""

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

Turn = tuple[str, str]  # ("user" or "assistant", text)
MARKS = {  # that stand before a text as well
    "user": "问 患者 病人 患儿家长 患者家属 来访者 求助者 咨询者 用户 user human patient client q",
    "assistant": "答 医生 医师 大夫 主治医生 主治医师 住院医师 主任医师 副主任医师 咨询师 心理咨询师 心理医生 治疗师 助手 "
    "assistant doctor counselor counsellor therapist gpt a",
}
NAMES = {
    "user": "seeker asker usr 提问 提问者 问题 家属 网友 病友",
    "assistant": "bot physician supporter model ai chatgpt 回答 回复 主任 护士 药师 专家 客服 助理",
    "system": "system 系统 设定",
    "tool": "tool function function_call tool_call tool_calls observation function_response",
}
ROLES = {name: role for names in (NAMES, MARKS) for role, known in names.items() for name in known.split()}


LETTERS = ("q", "a")


class Speakers(NamedTuple):
    """The role of each name, and the patterns of the names as marks: before a text, and within one."""

    roles: dict[str, str]
    first: re.Pattern
    within: re.Pattern

    def role(self, name: object) -> str | None:
        return self.roles.get(str(name).strip().strip("<>[]【】").lower())

    def mark(self, text: str, letters: bool = False) -> tuple[str | None, str]:
        """Return the role that a mark before the text names (None without one), and the text behind the mark.

        Q and A are marks with `letters` only: an answer "A：…" may name a choice.
        """
        found = self.first.match(text)
        if not found or (named(found) in LETTERS and not letters):
            return None, text
        return self.roles[named(found)], text[found.end() :].removesuffix("</s>")

    def pieces(self, text: str) -> list[str]:
        """Return the pieces, each with its mark, into which marks of both speakers divide a text; else the text alone."""
        if text.count("：") + text.count(":") < 2:
            return [text]
        marks = list(self.within.finditer(text))
        if len({self.roles[named(mark)] for mark in marks}) < 2:
            return [text]
        starts = sorted({0, *(mark.start() for mark in marks)})
        return [
            piece for start, end in zip(starts, [*starts[1:], len(text)], strict=True) if (piece := text[start:end].strip())
        ]


def named(found: re.Match) -> str:
    return next(filter(None, found.groups())).lower()


@cache
def speakers(*more: tuple[str, str]) -> Speakers:
    """Return the speakers known by name, and `more`, each as a name and user, assistant or system."""
    roles = ROLES | {name.strip().lower(): role for name, role in more}
    marks = {name for names in MARKS.values() for name in names.split()} | {
        name.strip() for name, role in more if role != "system"
    }
    names = "|".join(sorted(map(re.escape, marks), key=len, reverse=True))
    bracketed = rf"[<\[【]\s*({names})\s*[>\]】]"
    mark = rf"(?:{bracketed}\s*[：:]?|({names})\s*[：:])"
    within = rf"(?:^|(?<=[\s。！？!?>]))(?:</?s>)?(?:{bracketed}|({names}))\s*[：:]|{bracketed}\s*[：:]"
    return Speakers(roles, re.compile(rf"\s*(?:</?s>\s*)?{mark}", re.I), re.compile(within, re.I))


def placed(texts: Sequence[str], speakers: Speakers) -> list[Turn]:
    """Return the turns of texts that a mark may stand before; one without goes by its neighbours, or all of them by place.

    So it is in HuatuoGPT-sft-data-v1, whose own loader goes by place (FreedomIntelligence/HuatuoGPT, scripts/finetune.py).
    """
    letters = any((found := speakers.first.match(text)) and named(found) == "q" for text in texts)
    marked = [speakers.mark(text, letters) for text in texts]
    first = next((place for place, (role, _) in enumerate(marked) if role), None)
    if first is None:
        return [(("user", "assistant")[place % 2], text) for place, text in enumerate(texts)]
    last = marked[first][0] if first % 2 else other(marked[first][0])  # who would speak before the first text
    turns: list[Turn] = []
    for role, text in marked:
        last = role or other(last)
        turns.append((last, text))
    return turns


def other(role: str | None) -> str:
    return "assistant" if role == "user" else "user"
