"""One record while it is read, and the keys that change what a row of it is: thoughts, preferences, media, tools."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from xinglin.dialogues.dialogue import Dialogue, Unusable
from xinglin.dialogues.speakers import Speakers, Turn, only_lead, placed

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
NOTHING = frozenset(["", "nan", "none", "null", "n/a", "na", "-"])  # what tables write where nothing is
TRUTH = {
    word: said
    for said, words in {
        True: "true yes y t good up thumbs_up thumb_up like liked correct right chosen desired desirable accepted positive "
        "helpful 是 对 好 正确 赞 有用 满意 采纳 合格 👍",
        False: "false no n f bad down thumbs_down thumb_down dislike disliked incorrect wrong rejected undesired undesirable "
        "negative unhelpful poor 否 不 不是 错 错误 差 踩 无用 没用 不满意 不合格 不正确 未采纳 👎",
    }.items()
    for word in words.split()
}
PRAISE = [
    "correct",
    "right",
    "good",
    "desired",
    "desirable",
    "chosen",
    "preferred",
    "accepted",
    "approved",
    "helpful",
    "liked",
    "positive",
    "acceptable",
]
BLAME = ["incorrect", "wrong", "bad", "undesired", "undesirable", "rejected", "negative", "disliked", "unhelpful"]
VERDICTS = {  # keys that say whether an answer is desired, and whether true does or false; what they hold must be understood
    **dict.fromkeys(["kto_tag", "desirable", "是否正确", "是否采纳", "是否合格", *(f"is_{word}" for word in PRAISE)], True),
    **dict.fromkeys([f"is_{word}" for word in BLAME], False),
}
OPINIONS = {  # keys that often hold something else: they count only where it is understood
    **dict.fromkeys(
        [
            "label",
            "chosen",
            "correct",
            "desired",
            "accepted",
            "approved",
            "liked",
            "thumbs_up",
            "rating",
            "feedback",
            "user_feedback",
            "human_feedback",
            "vote",
            "thumbs",
            "reaction",
            "quality",
            "verdict",
            "judgement",
            "judgment",
            "evaluation",
            "评价",
            "反馈",
            "标签",
            "质量",
        ],
        True,
    ),
    **dict.fromkeys(["rejected", "reject", "thumbs_down", "disliked", "incorrect", "wrong", "undesired"], False),
}
SCORES = ("rating", "feedback", "user_feedback", "human_feedback", "vote", "thumbs", "reaction", "quality", "evaluation")
CHOSEN = re.compile(r"chosen|(?<!non_)(?<!not_)(?<!dis)(?<!un)preferred")
REJECTED = re.compile(r"rejected|reject|unchosen|not_chosen|(?:non_|not_|dis|un)preferred")
ANSWERS = frozenset(
    ["answer", "answers", "response", "responses", "output", "text", "message", "messages", "completion", "reply", "content"]
)
UNDESIRABLE = re.compile(r"reject|negative|bad|wrong|incorrect|undesir|dispref|non_?pref|worse", re.IGNORECASE)
NOT_LEARNED = ("weight", "loss", "train", "trainable")  # keys of a message that say whether its text is learned


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


def holds_text(value: Any) -> bool:
    """Say whether a key may hold an answer, and not a flag."""
    return not empty(value) and not isinstance(value, bool | int | float) and not flag(value)


def flag(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower() in ("true", "false", "0", "1", "0.0", "1.0", "nan", "none", "null")


def truth(value: Any) -> bool | None:
    """Return what a value says of something, None if that is not understood."""
    if isinstance(value, str):
        word = re.sub(r"[\s-]+", "_", value.strip().lower()) if value.strip() not in ("-1", "-1.0") else "false"
        return {"1": True, "1.0": True, "0": False, "0.0": False}.get(word, TRUTH.get(word))
    return {1.0: True, 0.0: False, -1.0: False}.get(value) if isinstance(value, bool | int | float) else None


def verdict_of(name: str, key: object, value: Any) -> bool | None:
    """Return what a key says of the answer, None if nothing; raises Unusable where it must say something, and does not."""
    if empty(value) or (isinstance(value, str) and value.strip().lower() in NOTHING):
        return None
    said = truth(value)
    if name in VERDICTS:
        if said is None:
            raise Unusable(
                f"'{key}': {str(value)[:20]!r} does not say whether the answer is desired, expected true or false, 1 or 0"
            )
        return said is VERDICTS[name]
    if name in ("chosen", "rejected", "reject") and holds_text(value):
        return None
    if name in SCORES and (number := as_number(value)) is not None:
        return False if number <= 0 else None  # a score above may be one star of five
    if said is None or (name == "label" and as_number(value) == -1) or (said is False and not OPINIONS[name]):
        return None
    return said is OPINIONS[name]


def as_number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


@lru_cache(1 << 12)
def plain_key(key: object) -> str:
    """Return a key in small letters, its words joined by underscores."""
    return re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(key).strip())).lower()


@lru_cache(1 << 12)
def pair_side(key: object) -> str | None:
    """Return which answer of a pair of preferences a key holds, "chosen" or "rejected", however it is spelt."""
    name = plain_key(key)
    for side, pattern in (("rejected", REJECTED), ("chosen", CHOSEN)):
        if found := pattern.search(name):
            rest = {*(name[: found.start()] + name[found.end() :]).split("_")} - {""}
            return side if rest <= ANSWERS else None
    return None
