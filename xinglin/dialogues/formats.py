"""The shapes that source records come in, each a function from a record to a dialogue."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

Turn = tuple[str, str]  # ("user" or "assistant", text)
Columns = dict[str, str] | None  # which column of a table is its title, question, answer, department

PREFIX = re.compile(r"\s*([问答])\s*[：:]")
ROLES = {
    "user": ("user", "human", "patient", "client", "seeker", "问", "患者", "病人", "来访者", "用户"),
    "assistant": ("assistant", "gpt", "bot", "doctor", "counselor", "counsellor", "supporter", "答", "医生", "咨询师", "助手"),
    "system": ("system",),
}
ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
COLUMNS = {  # in a table, under which names each column is known
    "title": ("title", "标题", "主题"),
    "question": ("question", "ask", "query", "问题", "提问", "咨询", "病情描述"),
    "answer": ("answer", "response", "reply", "回答", "答案", "回复"),
    "department": ("department", "科室"),
}
MESSAGE_LISTS = ("messages", "conversation", "dialogue", "dialog")


class Unusable(Exception):
    """A record that cannot become a dialogue; the message is the reason that rejects.jsonl gives."""


class Dialogue(NamedTuple):
    """Turns as they stand in the source, and what the record says beside them."""

    turns: list[Turn]
    system: str = ""
    department: str = ""


def huatuo(record: dict, columns: Columns) -> Dialogue:
    """Read `{"data": ["问：…", "答：…", …]}`, the shape of HuatuoGPT-sft-data-v1.

    The prefix names the speaker and is taken once, at the start; a turn without one is placed by its position,
    as the data set's own loader does (FreedomIntelligence/HuatuoGPT, scripts/finetune.py).
    """
    texts = items(record, "data")
    if not all(isinstance(text, str) for text in texts):
        raise Unusable("'data' is not a list of texts")
    return Dialogue([speaker(text, position) for position, text in enumerate(texts)], "", department(record))


def speaker(text: str, position: int) -> Turn:
    """Take the prefix off one Huatuo turn and return its role and text."""
    if match := PREFIX.match(text):
        return ROLE_OF[match[1]], text[match.end() :]
    return ("user", "assistant")[position % 2], text


def alpaca(record: dict, columns: Columns) -> Dialogue:
    """Read `{"instruction", "input", "output", "system", "history": [[question, answer], …]}`, all but two of them optional."""
    turns, history = [], record.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise Unusable("'history' is not a list of pairs")
    for pair in history:
        turns += [("user", text_of(pair[0], "history")), ("assistant", text_of(pair[1], "history"))]
    given = [text_of(record.get(key), key) for key in ("instruction", "input")]
    turns += [("user", "\n".join(filter(None, given))), ("assistant", text_of(record.get("output"), "output"))]
    return Dialogue(turns, text_of(record.get("system"), "system"), department(record))


def sharegpt(record: dict, columns: Columns) -> Dialogue:
    """Read `{"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}, …]}`."""
    return spoken(record, items(record, "conversations"), "from", "value")


def messages(record: dict, columns: Columns) -> Dialogue:
    """Read `{"messages": [{"role": "user", "content": …}, …]}`; the list may also be called conversation(s) or dialogue."""
    key = next((key for key in (*MESSAGE_LISTS, "conversations") if key in record), "messages")
    return spoken(record, items(record, key), "role", "content")


def spoken(record: dict, entries: list, role: str, content: str) -> Dialogue:
    """Return the dialogue of a list of objects that name a speaker and hold a text; a system text may come first."""
    system, turns = text_of(record.get("system"), "system"), []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or role not in entry or content not in entry:
            raise Unusable(f"a turn without '{role}' and '{content}'")
        who = ROLE_OF.get(str(entry[role]).strip().lower())
        if who is None:
            raise Unusable(f"a speaker that is neither user, assistant nor system: {str(entry[role])[:20]!r}")
        text = text_of(entry[content], content)
        if who != "system":
            turns.append((who, text))
        elif number == 1:
            system = text
        else:
            raise Unusable("a system text after the first turn")
    return Dialogue(turns, system, department(record))


def table(record: dict, columns: Columns) -> Dialogue:
    """Read a row with a question and an answer, perhaps a title, which goes before the question unless that repeats it."""
    cells = {name: text_of(record.get(column), column).strip() for name, column in named(record, columns).items()}
    title, question = cells.get("title", ""), cells.get("question", "")
    asked = question if question.startswith(title) else f"{title}\n{question}".strip()
    return Dialogue([("user", asked), ("assistant", cells.get("answer", ""))], "", cells.get("department", ""))


def named(record: dict, columns: Columns) -> dict[str, str]:
    """Return which of the record's columns is which, as told in `columns` or by their usual names."""
    if columns:
        return {name: column for name, column in columns.items() if column in record}
    known = {str(key).strip().lower(): key for key in record}
    return {name: known[alias] for name, aliases in COLUMNS.items() for alias in reversed(aliases) if alias in known}


SHAPES: dict[str, Callable[[dict, Columns], Dialogue]] = {
    "huatuo": huatuo,
    "alpaca": alpaca,
    "sharegpt": sharegpt,
    "messages": messages,
    "csv": table,
}


def shape_of(record: dict, columns: Columns) -> str:
    """Return the shape that a record's keys tell; raises Unusable if they tell none."""
    if "data" in record:
        return "huatuo"
    if isinstance(turns := record.get("conversations"), list):
        return "messages" if turns and isinstance(turns[0], dict) and "role" in turns[0] else "sharegpt"
    if any(key in record for key in MESSAGE_LISTS):
        return "messages"
    if "instruction" in record and "output" in record:
        return "alpaca"
    found = named(record, columns)
    if "answer" in found and ("question" in found or "title" in found):
        return "csv"
    raise Unusable(
        "no known shape: neither 'data' (huatuo), 'conversations' (sharegpt), 'messages' (messages), 'instruction' and "
        "'output' (alpaca), nor a question and an answer (csv)"
    )


def items(record: dict, key: str) -> list:
    if not isinstance(record.get(key), list):
        raise Unusable(f"'{key}' is not a list")
    return record[key]


def text_of(value: Any, key: str) -> str:
    if value is not None and not isinstance(value, str):
        raise Unusable(f"'{key}' is not a text")
    return value or ""


def department(record: dict) -> str:
    value = record.get("department")
    return value.strip() if isinstance(value, str) else ""
