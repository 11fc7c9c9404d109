"""The shapes that source records come in, each a function from a record to a dialogue."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from xinglin.dialogues.dialogue import Dialogue, Unusable
from xinglin.dialogues.reader import SAID, THOUGHTS, Reader, empty, text_of
from xinglin.dialogues.speakers import Turn, speakers

Columns = Mapping[str, str | int] | None  # which key of a record is its question, answer, …; dots lead into objects and lists

ALIASES = {  # under which names each part of a record is known
    "title": "title 标题 主题",
    "question": "question questions ask query prompt question_text 问题 提问 咨询 咨询内容 病情描述 患者提问 "
    "input human user patient instruction",
    "answer": "answer answers response reply output completion target answer_text 回答 答案 回复 医生回答 医生回复 "
    "assistant gpt doctor chosen",
    "department": "department 科室",
    "system": "system",
}
NAMED = {alias: part for part, aliases in ALIASES.items() for alias in aliases.split()}
RANK = {alias: place for place, alias in enumerate(NAMED)}  # of two names of one part the first counts
MAPPED = ("title", "question", "answer", "department", "system", "turns")
TURN_LISTS = ("messages", "conversation", "conversations", "dialogue", "dialog", "turns", "data")
WHO = ("role", "from", "speaker", "sender")
PAIRS = (
    ("human", "assistant"),
    ("user", "assistant"),
    ("question", "answer"),
    ("prompt", "response"),
    ("query", "response"),
    ("instruction", "output"),
    ("input", "output"),
    ("patient", "doctor"),
    ("问", "答"),
    ("患者", "医生"),
)


def huatuo(record: Reader, columns: Columns) -> Dialogue:
    """Read `{"data": ["问：…", "答：…", …]}`, the shape of HuatuoGPT-sft-data-v1."""
    texts = record.take("data")
    if isinstance(texts, str):
        return record.dialogue(record.placed([texts]))
    if not isinstance(texts, list):
        raise Unusable("'data' is not a list")
    if not all(isinstance(text, str) for text in texts):
        raise Unusable("'data' is not a list of texts")
    return record.dialogue(record.placed(texts))


def alpaca(record: Reader, columns: Columns) -> Dialogue:
    """Read `{"instruction", "input", "output", "system", "history": [[question, answer], …]}`, all but two of them optional.

    `chosen` may stand in the place of `output`, as in LLaMA-Factory's pairs of preferences.
    """
    turns = list(pairs(record, record.take("history"), "history"))
    given = [record.text(key) for key in ("instruction", "input")]
    key = next((key for key in ("output", "chosen", "response", "answer") if not empty(record.record.get(key))), "output")
    output = record.answer_of(record.take(key), key) if key == "chosen" else record.text(key)
    one_of(record, "answer", key)
    return record.dialogue([*turns, ("user", "\n".join(filter(None, given))), ("assistant", output)])


def pairs(record: Reader, history: Any, key: str) -> Iterator[Turn]:
    """Yield the turns of earlier questions and answers: pairs, or objects with one of each, or with a speaker each."""
    if not isinstance(history or [], list):
        raise Unusable(f"'{key}' is not a list of pairs")
    for pair in history or []:
        if isinstance(pair, dict):
            yield from said(record, pair, key)
        elif isinstance(pair, list | tuple) and len(pair) == 2:
            yield "user", text_of(pair[0], key)
            yield "assistant", text_of(pair[1], key)
        else:
            raise Unusable(f"'{key}' is not a list of pairs")


def said(record: Reader, entry: dict, key: str) -> Iterator[Turn]:
    """Yield the turns of one object of a list: a text with its speaker, or a question and an answer."""
    who = next((name for name in WHO if name in entry), None)
    if who is None:
        keys = {str(name).lower(): name for name in entry}
        asked = next((pair for pair in PAIRS if pair[0] in keys and pair[1] in keys), None)
        if asked is None:
            raise Unusable(f"a turn of '{key}' without a speaker and a text")
        yield "user", text_of(entry[keys[asked[0]]], key)
        yield "assistant", text_of(entry[keys[asked[1]]], key)
        return
    if not empty(entry.get("tool_calls")) or not empty(entry.get("function_call")):
        raise Unusable("a turn that calls a tool")
    content = next((name for name in SAID if name in entry), None)
    if content is None:
        raise Unusable(f"a turn without '{who}' and '{'value' if who == 'from' else 'content'}'")
    role = record.speakers.role(entry[who])
    if role is None:
        raise Unusable(
            f"a speaker that is neither user, assistant nor system: {str(entry[who])[:20]!r}: converted.speakers names more"
        )
    if role == "tool":
        raise Unusable(f"a turn of a tool: {str(entry[who])[:20]!r}")
    for name in entry.keys() - {who, content}:
        if str(name).lower() in THOUGHTS:
            record.thoughts += not empty(entry[name])
        elif not empty(entry[name]):
            record.unread.add(f"{key}[].{name}")
    yield role, text_of(entry[content], content)


def messages(record: Reader, columns: Columns) -> Dialogue:
    """Read `{"messages": [{"role": "user", "content": …}, …]}`, under any name of TURN_LISTS and with any of WHO and SAID.

    The entries may be texts with the speaker before them, pairs, or objects of a question and an answer. `chosen` and
    `rejected` may follow, as in pairs of preferences.
    """
    key = next((key for key in (*TURN_LISTS, "chosen") if key in record.record), "messages")
    turns = turns_of(record, record.take(key), key)
    if key != "chosen" and not empty(record.record.get("chosen")):
        turns.append(("assistant", record.answer_of(record.take("chosen"), "chosen")))
    return with_system(record, turns)


def turns_of(record: Reader, value: Any, key: str) -> list[Turn]:
    if isinstance(value, str):  # a dialogue in one text
        return record.placed([value])
    entries = items(value, key)
    if all(isinstance(entry, str) for entry in entries):
        return record.placed(entries)
    return list(pairs(record, entries, key))


def with_system(record: Reader, turns: list[Turn]) -> Dialogue:
    system = record.text("system")
    if turns and turns[0][0] == "system":
        system, turns = turns[0][1], turns[1:]
    if any(role == "system" for role, _ in turns):
        raise Unusable("a system text after the first turn")
    return record.dialogue(turns, system)


def table(record: Reader, columns: Columns) -> Dialogue:
    """Read a record with a question and an answer, perhaps a title, which goes before the question unless that repeats it.

    Which key is which is told by `columns`, or by their usual names. A list holds the ways to ask one question, or answers,
    of which the first counts (Huatuo-26M).
    """
    cells = {part: first_of(record, key) for part, key in parts(record, columns).items() if part != "turns"}
    title, question = cells.get("title", "").strip(), cells.get("question", "").strip()
    if columns is None and (given := str(record.record.get("input") or "").strip()) and "input" not in record.read:
        question, _ = f"{question}\n{given}".strip(), record.take("input")
    asked = question if question.startswith(title) else f"{title}\n{question}".strip()
    turns = list(pairs(record, record.take("history"), "history"))
    if columns and "turns" in columns:
        turns += turns_of(record, reached(record, str(columns["turns"])), str(columns["turns"]))
        return with_system(record, turns)
    return record.dialogue(
        [*turns, ("user", asked), ("assistant", cells.get("answer", "").strip())],
        cells.get("system", ""),
        cells.get("department", ""),
    )


def parts(record: Reader, columns: Columns) -> dict[str, str]:
    """Return which of the record's keys is which part, as told in `columns` or by their usual names."""
    if columns:
        return {part: str(key) for part, key in columns.items()}
    found: dict[str, str] = {}
    for key in sorted(record.record, key=lambda key: RANK.get(str(key).strip().lower(), len(RANK))):
        part = NAMED.get(str(key).strip().lower())
        if part and part not in found and not empty(record.record[key]):
            found[part] = key
    if "answer" in found:
        one_of(record, "answer", found["answer"])
    return found


def one_of(record: Reader, part: str, key: str) -> None:
    """Raise Unusable if another key of the record is known as the same part."""
    others = [str(name) for name in record.record if NAMED.get(str(name).strip().lower()) == part and name != key]
    if others := [name for name in others if not empty(record.record[name])]:
        raise Unusable(
            f"two {part}s, '{key}' and '{others[0]}': say which by converted.columns: {{question: …, {part}: {others[0]}}}"
        )


def first_of(record: Reader, key: str) -> str:
    value = reached(record, key)
    while isinstance(value, list) and value:
        record.unread |= {f"{key}[1:]"} if len(value) > 1 else set()
        value = value[0]
    return text_of(value, key)


def reached(record: Reader, path: str) -> Any:
    """Return what a key holds; one with dots leads through objects and lists."""
    if path in record.record:
        return record.take(path)
    value: Any = record.record
    for step in path.split("."):
        if isinstance(value, list):
            value = value[int(step)] if step.isdecimal() and int(step) < len(value) else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    record.read.add(path.split(".")[0])
    return value


SHAPES: dict[str, Callable[[Reader, Columns], Dialogue]] = {
    "huatuo": huatuo,
    "alpaca": alpaca,
    "sharegpt": messages,
    "messages": messages,
    "csv": table,
}


def read(record: Any, shape: str, columns: Columns = None, more: Mapping[str, str] | None = None) -> Dialogue:
    """Return the dialogue of a record; `more` are speakers beside those that are known."""
    return SHAPES[shape](Reader(as_object(record), speakers(*(more or {}).items())), columns)


def as_object(record: Any) -> dict:
    """Return a record that is a list of turns as an object that holds it."""
    if isinstance(record, list) and record:
        return {"data" if all(isinstance(one, str) for one in record) else "messages": record}
    if not isinstance(record, dict):
        raise Unusable("not a JSON object")
    return record


def shape_of(given: Any, columns: Columns) -> str:
    """Return the shape that a record's keys tell; raises Unusable if they tell none."""
    record = as_object(given)
    if columns:
        return "csv"
    if isinstance(data := record.get("data"), list | str):
        return "messages" if data and all(isinstance(one, dict | list) for one in data) else "huatuo"
    if isinstance(turns := record.get("conversations"), list):
        return "sharegpt" if turns and isinstance(turns[0], dict) and "from" in turns[0] else "messages"
    if any(isinstance(record.get(key), list | str) for key in TURN_LISTS):
        return "messages"
    if isinstance(record.get("chosen"), list):
        return "messages"
    if "instruction" in record and {"output", "chosen"} & record.keys():
        return "alpaca"
    found = {NAMED.get(str(key).strip().lower()) for key in record}
    if "answer" in found and ("question" in found or "title" in found):
        return "csv"
    raise Unusable(f"no known shape{suggestion(record)}")


def suggestion(record: Mapping[str, Any]) -> str:
    """Return the mapping to set, ready to paste, with the two texts of the record that are likeliest question and answer."""
    texts = sorted((len(value), str(key)) for key, value in flat(record) if isinstance(value, str) and value.strip())
    if len(texts) < 2:
        return f": its keys are {', '.join(map(str, record))}"
    (_, question), (_, answer) = texts[-2:]
    return f": set converted.columns: {{question: {question}, answer: {answer}}} (of its keys {', '.join(map(str, record))})"


def flat(record: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def items(value: Any, key: str) -> list:
    if not isinstance(value, list):
        raise Unusable(f"'{key}' is not a list")
    return value
