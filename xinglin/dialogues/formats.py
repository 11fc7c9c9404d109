"""The shapes that source records come in, each a function from a record to a dialogue."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from xinglin.dialogues.dialogue import Dialogue, Unusable
from xinglin.dialogues.exams import with_options
from xinglin.dialogues.reader import SAID, THOUGHTS, Reader, first_of, reached
from xinglin.dialogues.speakers import Turn, speakers
from xinglin.dialogues.values import empty, loaded, plain_key, text_of
from xinglin.dialogues.verdicts import NOT_LEARNED, UNDESIRABLE, holds_text, pair_side, truth, verdict_of

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
SAYS_WHO = ("human", "user", "patient")  # that may name the patient as well as hold the question
MAPPED = ("title", "question", "answer", "department", "system", "turns", "label")
TURN_LISTS = ("messages", "conversation", "conversations", "dialogue", "dialog", "turns", "data")
JSON_LISTS = {*TURN_LISTS, "history", "prompt", "chosen", "rejected", "completion"}  # which a table's cell may hold as JSON
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
        return with_system(record, record.placed([texts]))
    if not isinstance(texts, list):
        raise Unusable("'data' is not a list")
    if not all(isinstance(text, str) for text in texts):
        raise Unusable("'data' is not a list of texts")
    return with_system(record, record.placed(texts))


def alpaca(record: Reader, columns: Columns) -> Dialogue:
    """Read `{"instruction", "input", "output", "system", "history": [[question, answer], …]}`, all but two of them optional.

    `chosen`, `response` or `answer` may stand in the place of `output`.
    """
    turns = list(pairs(record, record.take("history"), "history"))
    given = [record.text(key) for key in ("instruction", "input")]
    key = next(iter(named(record.record, "answer")), "output")
    output = record.answer_of(record.take(key), key) if pair_side(key) == "chosen" else record.text(key)
    one_of(record, "answer", key)
    one_of(record, "question", "instruction")
    question, output = with_options(record, "\n".join(filter(None, given)), output)
    return record.dialogue([*turns, ("user", question), ("assistant", output)])


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
    refuse_unlearned(record.speakers.role(entry[who]), entry)
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


def refuse_unlearned(role: str | None, entry: dict) -> None:
    """Raise Unusable for an answer that its own key keeps out of training: a row is learned as a whole."""
    for name in NOT_LEARNED:
        if role == "assistant" and name in entry and truth(entry[name]) is False:
            raise Unusable(f"an answer that is not to be learned, as its '{name}' says: a row is learned as a whole")


def messages(record: Reader, columns: Columns) -> Dialogue:
    """Read `{"messages": [{"role": "user", "content": …}, …]}`, under any name of TURN_LISTS and with any of WHO and SAID.

    The entries may be texts with the speaker before them, pairs, or objects of a question and an answer. `chosen` and
    `rejected` may follow, or stand beside a `prompt`, as in pairs of preferences.
    """
    key = turn_key(record.record)
    if key is None:
        return prompted(record)
    turns = turns_of(record, record.take(key), key)
    if chosen := next(
        (name for name in record.record if pair_side(name) == "chosen" and holds_text(record.record[name])), None
    ):
        turns.append(("assistant", record.answer_of(record.take(chosen), chosen)))
    return with_system(record, turns)


def turn_key(record: Mapping[str, Any]) -> str | None:
    """Return under which name a record lists its turns: a list goes before a text, and one that is empty comes last."""
    for kind in (list, str):
        if found := [key for key in TURN_LISTS if isinstance(record.get(key), kind) and not empty(record[key])]:
            return found[0]
    return None if listed_answer(record) else next((key for key in TURN_LISTS if key in record), "messages")


def listed_answer(record: Mapping[str, Any]) -> str | None:
    """Return the key of an answer that is a list of messages."""
    return next((key for key in named(record, "answer") if messages_in(record[key])), None)


def messages_in(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and set(WHO) & one.keys() for one in value)


def prompted(record: Reader) -> Dialogue:
    """Read a prompt and an answer to it, each a list of messages; an answer may hold the prompt as well (TRL)."""
    key = listed_answer(record.record) or "messages"
    turns = turns_of(record, record.take(key), key)
    prompt = record.take("prompt")
    before = [("user", prompt)] if isinstance(prompt, str) and prompt.strip() else list(pairs(record, prompt, "prompt"))
    return with_system(record, turns if turns[: len(before)] == before else [*before, *turns])


def turns_of(record: Reader, value: Any, key: str) -> list[Turn]:
    value = parsed(value, key)
    if isinstance(value, str):  # a dialogue in one text
        return record.placed([value])
    entries = items(value, key)
    if all(isinstance(entry, str) for entry in entries):
        return record.placed(entries)
    return list(pairs(record, entries, key))


def with_system(record: Reader, turns: list[Turn]) -> Dialogue:
    first = next((place for place, (role, _) in enumerate(turns) if role != "system"), len(turns))
    system = "\n".join(text for _, text in turns[:first]) or record.text("system")
    if any(role == "system" for role, _ in turns[first:]):
        raise Unusable("a system text after the first turn")
    return record.dialogue(turns[first:], system)


def table(record: Reader, columns: Columns) -> Dialogue:
    """Read a record with a question and an answer, perhaps a title, which goes before the question unless that repeats it.

    Which key is which is told by `columns`, or by their usual names. A list holds the ways to ask one question, or answers,
    of which the first counts (Huatuo-26M).
    """
    keys = parts(record, columns)
    cells = {part: first_of(record, key) for part, key in keys.items() if part not in ("turns", "label")}
    if "label" in keys:
        record.liked = verdict_of("kto_tag", keys["label"], reached(record, keys["label"]))
    title, question = cells.get("title", "").strip(), cells.get("question", "").strip()
    if columns is None:
        for key in named(record.record, "question"):
            if plain_key(key) in ("input", "instruction") and key not in record.read:
                both = (question, record.text(key).strip())
                question = "\n".join(filter(None, both if plain_key(key) == "input" else both[::-1]))
    asked = question if question.startswith(title) else f"{title}\n{question}".strip()
    turns = list(pairs(record, record.take("history"), "history"))
    if columns and "turns" in columns:
        turns += turns_of(record, reached(record, keys["turns"]), keys["turns"])
        return with_system(record, turns)
    asked, answer = with_options(record, asked, cells.get("answer", "").strip())
    return record.dialogue(
        [*turns, ("user", asked), ("assistant", answer)], cells.get("system", ""), cells.get("department", "")
    )


def parts(record: Reader, columns: Columns) -> dict[str, str]:
    """Return which of the record's keys is which part, as told in `columns` or by their usual names."""
    if columns:
        return {part: str(key) for part, key in columns.items()}
    found = {part: keys[0] for part in ALIASES if (keys := named(record.record, part))}
    for part in ("question", "answer"):
        if part in found:
            one_of(record, part, found[part])
    return found


@lru_cache(1 << 12)
def part_of(key: object) -> str | None:
    """Return which part a key is known as."""
    return NAMED.get(str(key).strip().lower()) or ("answer" if pair_side(key) == "chosen" else None)


def named(record: Mapping[str, Any], part: str) -> list[str]:
    """Return the keys that are known as a part and hold something, the usual name first."""
    found = [key for key, value in record.items() if part_of(key) == part and not empty(value) and not isinstance(value, bool)]
    return sorted(found, key=lambda key: RANK.get(str(key).strip().lower(), len(RANK)))


def one_of(record: Reader, part: str, key: str) -> None:
    """Raise Unusable if another key of the record is known as the same part, and says something else."""
    joined = ["input", *(["instruction"] if plain_key(key) == "input" else []), *(SAYS_WHO if key not in SAYS_WHO else [])]
    for other in named(record.record, part):
        if other == key or (part == "question" and plain_key(other) in joined):
            continue
        if part == "answer" or str(record.record[other]).strip() != str(record.record.get(key)).strip():
            rest = "answer: …" if part == "question" else "question: …"
            mapped = ", ".join(sorted([f"{part}: {other}", rest], reverse=True))
            raise Unusable(f"two {part}s, '{key}' and '{other}': say which by converted.columns: {{{mapped}}}")


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
    """Return a record that is a list of turns as an object that holds it, and one whose lists are JSON text with the lists."""
    if isinstance(record, list) and record:
        return {"data" if all(isinstance(one, str) for one in record) else "messages": record}
    if not isinstance(record, dict):
        raise Unusable("not a JSON object")
    texts = {key: parsed(value, key) for key, value in record.items() if isinstance(value, str) and key in JSON_LISTS}
    return record | texts if any(not isinstance(value, str) for value in texts.values()) else record


def parsed(value: Any, key: str) -> Any:
    """Return what a text that is JSON holds, any other text as it is; raises Unusable for JSON that breaks off."""
    found = loaded(value) if isinstance(value, str) else value
    if isinstance(found, str) and re.match(r"\s*\[\s*[\[{]", found):
        raise Unusable(f"'{key}' begins like a list in JSON and is none")
    return found


def shape_of(given: Any, columns: Columns) -> str:
    """Return the shape that a record's keys tell; raises Unusable if they tell none."""
    record = as_object(given)
    if columns:
        return "csv"
    key = turn_key(record)
    if key and isinstance(record.get(key), list) and record[key]:
        return listed(key, record[key])
    answers = [name for name in named(record, "answer") if not isinstance(record[name], int | float)]
    answered, asked = bool(answers), bool(named(record, "question") or named(record, "title"))
    if not (answered and asked) and key and isinstance(record.get(key), str) and record[key].strip():
        return "huatuo" if key == "data" else "messages"
    if listed_answer(record):
        return "messages"
    if "instruction" in record and ({"output", "chosen"} & record.keys() or (answered and not empty(record["instruction"]))):
        return "alpaca"
    known = {part_of(name) for name in record}
    if "answer" in known and ("question" in known or "title" in known):
        return "csv"
    if key and isinstance(record.get(key), list | str):
        return listed(key, record[key])
    raise Unusable(f"no known shape{suggestion(record)}")


def listed(key: str, turns: list | str) -> str:
    """Return the shape of turns by the key of their list and what it holds."""
    if key == "data":
        return "messages" if turns and all(isinstance(one, dict | list) for one in turns) else "huatuo"
    by_name = key == "conversations" and bool(turns) and isinstance(turns[0], dict) and "from" in turns[0]
    return "sharegpt" if by_name else "messages"


def suggestion(record: Mapping[str, Any]) -> str:
    """Return the mapping to set, ready to paste: what holds a talk, or the two texts likeliest to be question and answer."""
    known, keys = speakers(), f"(of its keys {', '.join(map(str, record))})"
    told = [(str(key), value) for key, value in flat(record) if not empty(value) and not UNDESIRABLE.search(str(key))]
    for key, value in told:
        if (isinstance(value, list) and len(value) > 1 and all(isinstance(one, str | dict | list) for one in value)) or (
            isinstance(value, str) and len(known.pieces(value, alone=True)) > 1
        ):
            return f": set converted.columns: {{turns: {key}}} {keys}"
    texts = sorted((len(value), key) for key, value in told if isinstance(value, str))
    if len(texts) < 2:
        return f": its keys are {', '.join(map(str, record))}"
    (_, question), (_, answer) = texts[-2:]
    return f": set converted.columns: {{question: {question}, answer: {answer}}} {keys}"


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
