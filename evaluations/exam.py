"""exam: multiple-choice medical exams taken by base and tuned: accuracy by subject, the gain, 95 % intervals of each.

Usage: stages/run evaluations.exam --base models/base.json --adapter models/adapter --split data/split \
           --tokenizer models/tokenizer --out data/exam.jsonl --metrics evaluations/exam.json

`exam.path` is a file like CMExam's (a table of Question, Options "A …\\nB …", Answer) or CMB's (JSON of question, option
{"A": …}, answer, question_type). The servers are those of predictions; their structured outputs leave a model no other reply
than letters of the options. A question counts as right if the letters are exactly those of the answer.
"""

import json
import re
import string
import sys
from collections import Counter
from functools import partial
from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import orjson

from xinglin.bases.folder import open_base
from xinglin.cli import CommandError, run_command, start
from xinglin.dialogues.cleaning import tidy
from xinglin.dialogues.dialogue import Unusable
from xinglin.dialogues.reading import Broken, records
from xinglin.dialogues.rows import texts_of
from xinglin.files import drop_work, fingerprint, read_json, read_jsonl, work_folder, write_json, write_jsonl
from xinglin.leakage.grams import plain
from xinglin.leakage.similarity import all_pairs
from xinglin.params import Count, ParamsFile, Part, Section
from xinglin.scoring.intervals import interval
from xinglin.scoring.settings import Metrics
from xinglin.serving.answers import MODELS, endpoints, need_room, precision, server_groups
from xinglin.serving.client import Chat, answered, collect, connect
from xinglin.serving.decoding import Decoding, fields
from xinglin.serving.settings import Predictions

SUBJECTS = ("Medical Discipline", "Clinical Department", "exam_type", "exam_class", "exam_subject")  # CMExam's, CMB's
KINDS = {"single": "单项选择题", "multiple": "多项选择题"}
PROMPT = "以下是一道医学考试的{kind}，不需要分析和解释，请直接给出正确选项的字母。\n\n{question}\n{options}\n\n答案："
OPTION = re.compile(
    r"^\s*([A-Z])(?:\s*[.．、:：)）]\s*|\s+)", re.MULTILINE
)  # where an option begins in a cell with all of them
BETWEEN = re.compile(r"[\s,，、;；]+")  # letters of an answer
MAX_TOKENS = 32  # more than letters can take
SHOWN = 5


class Exam(Section):
    path: str | None
    max_questions: Count | None


class Threshold(Part):
    near_duplicate_threshold: float


class Params(ParamsFile):
    decoding: Decoding
    exam: Exam
    metrics: Metrics
    predictions: Predictions
    split: Threshold


def read_questions(file: Path) -> tuple[list[dict], list[dict]]:
    """Return the questions of an exam file, and line and reason of each row that is none."""
    questions, unusable = [], []
    for record in records(file):
        line = record.element or record.line
        try:
            questions.append({"line": line} | question(record_of(record.value)))
        except Unusable as error:
            unusable.append({"line": line, "reason": str(error)})
    return questions, unusable


def record_of(source: bytes | dict | Broken) -> dict:
    if isinstance(source, Broken):
        raise Unusable(source.reason)
    try:
        record = orjson.loads(source) if isinstance(source, bytes) else source
    except orjson.JSONDecodeError:
        raise Unusable("not JSON") from None
    if not isinstance(record, dict):
        raise Unusable("not an object")
    return record


def question(record: dict) -> dict:
    """Return id (of the content), question, options by letter, answer (letters in order), kind and subjects of a row.

    It is cleaned as training was. Raises Unusable for a row that cannot be asked or scored.
    """
    cells = {name.strip().lower(): value for name, value in record.items() if value is not None}
    text, options = cleaned(cells.get("question", "")), options_of(cells.get("options", cells.get("option", "")))
    letters = "".join(options)
    answer = "".join(sorted(set(BETWEEN.sub("", cleaned(cells.get("answer", ""))).upper())))
    if not text:
        raise Unusable("no question")
    if len(options) < 2:
        raise Unusable("fewer than two options")
    if not string.ascii_uppercase.startswith(letters):
        raise Unusable(f"the options are {letters}, expected A, B, C and so on")
    if not answer:
        raise Unusable("no answer")
    if not set(answer) <= set(letters):
        raise Unusable(f"the answer {answer} is not among the options {letters}")
    kind = "multiple" if len(answer) > 1 or "多" in str(cells.get("question_type", "")) else "single"
    subjects = {name: cleaned(record[name]) for name in SUBJECTS if record.get(name)}
    key = fingerprint(text, options, answer, kind)
    return {"id": key, "question": text, "options": options, "answer": answer, "kind": kind, "subjects": subjects}


def options_of(cell: Any) -> dict[str, str]:
    """Return the options by letter, empty ones left out, of {"A": …}, [{"key": "A", "value": …}] or "A …\\nB …"."""
    if isinstance(cell, list):
        cell = {item.get("key"): item.get("value") for item in cell if isinstance(item, dict)}
    if not isinstance(cell, dict):
        pieces = OPTION.split(cleaned(cell))  # what stands before A, then letter and text in turn
        letters = pieces[1::2]
        if len(set(letters)) < len(letters):
            raise Unusable(f"the options are {''.join(letters)}, expected A, B, C and so on")
        cell = dict(zip(letters, pieces[2::2], strict=True))
    return {str(letter).strip(): text for letter, value in cell.items() if value is not None and (text := cleaned(value))}


def cleaned(value: Any) -> str:
    return tidy(str(value), Counter())


def messages(question: dict) -> list[dict[str, str]]:
    text = PROMPT.format(kind=KINDS[question["kind"]], question=question["question"], options=listed(question))
    return [{"role": "user", "content": text}]


def listed(question: dict) -> str:
    return "\n".join(f"{letter}. {text}" for letter, text in question["options"].items())


def allowed(question: dict) -> str:
    """Return the pattern of a reply: one letter, or letters in order, each at most once (alternatives by the last one)."""
    letters = "".join(question["options"])
    if question["kind"] == "single":
        return f"[{letters}]"
    return f"({'|'.join(''.join(f'{before}?' for before in letters[:i]) + last for i, last in enumerate(letters))})"


async def ask(chat: Chat, question: dict, model: str, decoding: dict) -> dict:
    """Return id and the letters that a model replies with."""
    pattern = allowed(question)
    request = {"model": model, "messages": messages(question), "max_tokens": MAX_TOKENS, **decoding}
    status, text = await chat(request | {"structured_outputs": {"regex": pattern}})
    if status != 200:
        raise CommandError(f"{model}: line {question['line']}: the server says {status}: {text[:300]}")
    letters = (json.loads(text)["choices"][0]["message"]["content"] or "").strip()
    if not re.fullmatch(pattern, letters):
        raise CommandError(
            f"{model}: line {question['line']}: the reply {letters[:40]!r} is no choice: is the "
            "server a vLLM that knows structured_outputs?"
        )
    return {"id": question["id"], "letters": letters}


def of_letters(decoding: Decoding) -> dict:
    """Return the decoding of a choice: without a penalty, which would weigh the letters, those in the question among them."""
    return fields(decoding) | {"repetition_penalty": 1.0}


def leaked(questions: list[dict], train: Path, threshold: float) -> set[int]:
    """Return the lines of the questions that stand in the training part, equal or near, with their options or without."""
    given = [(row["line"], plain(text)) for row in questions for text in (row["question"], f"{row['question']}{listed(row)}")]
    known = list(dict.fromkeys(plain(text) for row in read_jsonl(train) for text in texts_of(row)))
    pairs = all_pairs([text for _, text in given], known, threshold)
    return {given[mine][0] for mine, _ in pairs.tolist()}


def wilson(right: int, questions: int) -> dict[str, float]:
    """Return the 95 % score interval of a share, in percent (Wilson 1927)."""
    z, share = NormalDist().inv_cdf(0.975), right / questions
    middle = share + z * z / (2 * questions)
    half = z * sqrt(share * (1 - share) / questions + z * z / (4 * questions**2))
    scale = 100 / (1 + z * z / questions)
    return {"low": round(max(0.0, middle - half) * scale, 4), "high": round(min(100.0, (middle + half) * scale), 4)}


def accuracy(right: np.ndarray, metrics: Metrics) -> dict:
    """Return both models' accuracy in percent and the paired gain with intervals; `right` is [questions, MODELS] of bool."""
    gain = 100.0 * (right[:, 1].astype(int) - right[:, 0])
    found: dict = {name: round(100 * float(column.mean()), 2) for name, column in zip(MODELS, right.T, strict=True)}
    bounds = {name: wilson(int(column.sum()), len(right)) for name, column in zip(MODELS, right.T, strict=True)}
    return {
        "questions": len(right),
        **found,
        "gain": round(float(gain.mean()), 2),
        "intervals": bounds | {"gain": interval(gain.reshape(-1, 1), metrics)[0]},
    }


def summarise(rows: list[dict], metrics: Metrics) -> dict:
    """Return the accuracy on all questions, by kind, and by each subject that the exam names."""
    right = np.array([[row[model] == row["answer"] for model in MODELS] for row in rows])

    def by(values: list[str | None]) -> dict:
        groups = {value: np.array([other == value for other in values]) for value in sorted(filter(None, set(values)))}
        return {value: accuracy(right[chosen], metrics) for value, chosen in groups.items()}

    columns = {name: by([row["subjects"].get(name) for row in rows]) for name in SUBJECTS}
    kinds = by([row["kind"] for row in rows])
    return accuracy(right, metrics) | {"kinds": kinds, "subjects": {name: found for name, found in columns.items() if found}}


def first(lines: list[str]) -> str:
    return "; ".join(lines[:SHOWN]) + ("; …" if len(lines) > SHOWN else "")


def sheet(exam: Exam) -> tuple[list[dict], list[dict]]:
    """Return the questions to ask, drawn by their content where there are more than asked for, and the unusable rows."""
    if not exam.path:
        raise CommandError("params.yaml: exam.path: null: no exam; set it to a file like CMExam's or CMB's", 2)
    file = Path(exam.path).expanduser()
    if not file.is_file():
        raise CommandError(f"params.yaml: exam.path: {file}: no such file", 2)
    questions, unusable = read_questions(file)
    reasons = [f"line {row['line']}: {row['reason']}" for row in unusable]
    if not questions:
        raise CommandError(f"{file}: no row is a question: {first(reasons)}")
    if unusable:
        print(f"exam: {len(unusable)} rows cannot be used: {first(reasons)}", file=sys.stderr)
    once = {row["id"]: row for row in reversed(questions)}  # the first of equal ones
    drawn = sorted(once)[: exam.max_questions]
    return [row for row in questions if row["id"] in drawn and row is once[row["id"]]], unusable


def main() -> None:
    paths = start(__doc__, "base", "adapter", "split", "tokenizer", "out", "metrics")
    params = Params.read()
    asked, unusable = sheet(params.exam)
    known = leaked(asked, paths.split / "train.jsonl", params.split.near_duplicate_threshold)
    if known:
        lines = first([str(line) for line in sorted(known)])
        print(
            f"exam: warning: {len(known)} of {len(asked)} questions stand in the training part, lines {lines}", file=sys.stderr
        )
    record = read_json(paths.base)
    predictions = params.predictions
    base, groups, decoding = (
        open_base(record, paths.tokenizer),
        server_groups(predictions, paths.adapter),
        of_letters(params.decoding),
    )
    dtype = precision(predictions, base, MODELS in groups)
    if not predictions.base_url:
        need_room(record, base, dtype, "exam")
    engine = predictions.model_dump(include={"base_url", "max_model_len", "tensor_parallel_size"})
    what_counts = engine | {"dtype": dtype} | decoding
    work = work_folder("exam", fingerprint(what_counts, record["files"], paths.adapter, paths.tokenizer, PROMPT, KINDS))
    answer = partial(ask, decoding=decoding)
    for models in groups:
        with endpoints(predictions, base, paths.adapter, work / "vllm.log", models) as urls:
            for model in models:
                client_of = partial(connect, urls, predictions.concurrency)
                file = work / f"{model}.jsonl"
                collect(client_of, asked, partial(answer, model=model), file, predictions.concurrency, model)
    replies = {model: answered(work / f"{model}.jsonl") for model in MODELS}
    rows = [
        row | {model: replies[model][row["id"]]["letters"] for model in MODELS} | {"in_training": row["line"] in known}
        for row in asked
    ]
    found = summarise(rows, params.metrics)
    found["in_training"] = {"questions": len(known), "lines": sorted(known)}
    found["unusable"] = {"rows": len(unusable), "reasons": unusable}
    params.ensure_unchanged()
    write_jsonl(paths.out, rows)
    write_json(paths.metrics, found)
    if predictions.base_url:
        drop_work(work)  # what that server holds is not part of KEY
    gain = found["intervals"]["gain"]
    print(
        f"exam: {len(rows)} questions, base {found['base']:.1f} %, tuned {found['tuned']:.1f} %, "
        f"gain {found['gain']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}] -> {paths.metrics}"
    )


if __name__ == "__main__":
    run_command(main)
