"""Keys that say whether an answer is desired, and pairs of a better and a worse one, however they are spelt."""

import re
from functools import lru_cache
from typing import Any

from xinglin.dialogues.dialogue import Unusable
from xinglin.dialogues.values import empty, plain_key

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
def pair_side(key: object) -> str | None:
    """Return which answer of a pair of preferences a key holds, "chosen" or "rejected", however it is spelt."""
    name = plain_key(key)
    for side, pattern in (("rejected", REJECTED), ("chosen", CHOSEN)):
        if found := pattern.search(name):
            rest = {*(name[: found.start()] + name[found.end() :]).split("_")} - {""}
            return side if rest <= ANSWERS else None
    return None
