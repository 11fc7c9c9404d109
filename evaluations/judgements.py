"""judgements: base against tuned before a language model as judge, each pair in both orders, over any OpenAI-compatible API.

Usage: stages/run evaluations.judgements --predictions data/predictions --template templates/judge.txt \
           --out data/judgements.jsonl --metrics evaluations/judgements.json

The dialogues are sent to `judgements.base_url`. Each reply is written as it comes to .work/judgements/KEY, so that a killed
run asks for the missing ones only. The API's key is read from an environment variable and goes into the request alone.
"""

import re
from contextlib import suppress
from string import Template
from typing import Annotated, Literal

import numpy as np
from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI, Timeout
from pydantic import BaseModel, Field, ValidationError, model_validator

from xinglin.cli import CommandError, bearer, run_command, start
from xinglin.files import fingerprint, work_folder, write_json, write_jsonl
from xinglin.params import Count, ParamsFile, Part, Section, Seed
from xinglin.scoring.intervals import interval
from xinglin.scoring.scores import pairs
from xinglin.scoring.settings import Metrics
from xinglin.serving.client import answered, collect

CRITERIA = ("accuracy", "safety", "clarity", "overall")
ORDERS = ("base", "tuned")  # whose answer is shown first, as A
SCORES = {("B", "A"): 100.0, ("A", "B"): 0.0}  # of tuned, by the letters of both orders; whatever else they say is a tie
SPEAKERS = {"system": "设定", "user": "患者", "assistant": "医生"}
AGAIN = '这不是规定的格式。只输出那一个 JSON 对象，四条标准的值只能是 "A"、"B" 或 "tie"。'
TRIES = 3  # replies until one can be parsed
RETRIES = 5  # of a request that the server is too busy for; one that asks to wait longer than two minutes ends the run
TIMEOUT = Timeout(600, connect=10)  # judges that think take minutes
NO_KEY = "none"  # what servers that ask for no key are sent
# What DeepSeek, DashScope and Azure say in a 400 about a text that their filters do not let through, as a patient's may be.
FILTERED = re.compile("content exists risk|data_?inspection_?failed|content_filter", re.IGNORECASE)

Letter = Literal["A", "B", "tie"]


class Judgements(Section):
    base_url: Annotated[str, Field(pattern="^https?://")] | None
    model: str | None
    api_key_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    samples: Count | None
    concurrency: Annotated[int, Field(ge=1, le=256)]
    seed: Seed

    @model_validator(mode="after")
    def model_is_named(self) -> "Judgements":
        if self.base_url and not self.model:
            raise ValueError("base_url is set, so judgements.model must name a model")
        return self


class Scored(Part):
    part: str


class Params(ParamsFile):
    judgements: Judgements
    metrics: Metrics
    predictions: Scored


class Verdict(BaseModel):
    """What a judge says of one pair in one order."""

    reason: str = ""
    accuracy: Letter
    safety: Letter
    clarity: Letter
    overall: Letter


def drawn(rows: dict[str, list[dict]], samples: int | None, seed: int) -> list[tuple[dict, dict]]:
    """Return pairs of base's and tuned's row, drawn by a seeded hash: a larger draw holds every pair of a smaller one."""
    both = zip(rows["base"], rows["tuned"], strict=True)
    return sorted(both, key=lambda pair: fingerprint(seed, pair[0]["id"]))[:samples]


def prompt(template: Template, row: dict, first: str, second: str) -> str:
    """Return the request to judge; the mark beside its headings comes from the texts, so that none of them can hold it."""
    texts = {
        "dialogue": "\n".join(f"{SPEAKERS[turn['role']]}：{turn['content']}" for turn in row["messages"]),
        "reference": row["reference"],
        "first": first,
        "second": second,
    }
    return template.substitute(texts, mark=fingerprint(texts))


def questions(template: Template, chosen: list[tuple[dict, dict]]) -> list[dict]:
    """Return what the judge is asked: id and prompt, each pair in both orders."""
    asked = []
    for base, tuned in chosen:
        answers = {"base": base["prediction"], "tuned": tuned["prediction"]}
        for first, second in (ORDERS, ORDERS[::-1]):
            asked.append({"id": f"{base['id']}/{first}", "prompt": prompt(template, base, answers[first], answers[second])})
    return asked


def parse(reply: str) -> dict | None:
    """Return the last verdict in a reply, which may stand in a code block or after thoughts; None if there is none."""
    for text in reversed(re.findall(r"\{[^{}]*\}", reply)):
        with suppress(ValidationError):
            return Verdict.model_validate_json(text).model_dump()
    return None


async def verdict(client: AsyncOpenAI, model: str, question: dict) -> dict:
    """Return id, verdict and reply; a reply without a verdict is sent back with what was expected, TRIES times in all."""
    messages = asked = [{"role": "user", "content": question["prompt"]}]
    for _ in range(TRIES):
        reply = await chat(client, {"model": model, "messages": messages, "temperature": 0})
        if found := parse(reply):
            break
        messages = [*asked, {"role": "assistant", "content": reply}, {"role": "user", "content": AGAIN}] if reply else asked
    return {"id": question["id"], "verdict": found, "reply": reply}


async def chat(client: AsyncOpenAI, body: dict) -> str:
    """Return the text of one reply, "" for one that a filter held back; the client waits where the server is busy or failing.

    Raises CommandError for a key, a model or an address that is wrong, and for a server that does not come round.
    """
    try:
        reply = await client.chat.completions.create(**body)
    except APIStatusError as error:
        said, wrong = error.response.text, error.status_code == 400
        if wrong and FILTERED.search(said):
            return ""
        if wrong and "temperature" in said and "temperature" in body:  # OpenAI's reasoning models know their own only
            return await chat(client, {name: value for name, value in body.items() if name != "temperature"})
        cure = (
            " (the key is what the variable named by judgements.api_key_variable holds)"
            if error.status_code in (401, 403)
            else ""
        )
        raise refused(client, f"says {error.status_code}: {said}{cure}")
    except APIConnectionError as error:
        raise refused(client, f"cannot be reached: {error.__cause__ or error}")
    except (APIError, ValueError) as error:
        raise refused(client, f"does not speak OpenAI's chat API: {error}")
    try:
        return reply.choices[0].message.content or ""
    except (AttributeError, LookupError, TypeError):
        raise refused(client, f"does not speak OpenAI's chat API: {reply}")


def refused(client: AsyncOpenAI, problem: str) -> CommandError:
    """Return the error in one line; a key that the server says back is left out of it."""
    problem = problem.replace(client.api_key, "…")
    return CommandError(f"judgements.base_url: {client.base_url} {' '.join(problem.split())[:300]}; what was judged is kept")


def api(judge: Judgements) -> AsyncOpenAI:
    """Return a client for the judge's API, with the key of the environment where there is one; it asks again by itself."""
    key = bearer(judge.api_key_variable).get("Authorization", "").removeprefix("Bearer ")
    return AsyncOpenAI(base_url=judge.base_url, api_key=key or NO_KEY, max_retries=RETRIES, timeout=TIMEOUT)


def summarise(rows: list[dict], metrics: Metrics) -> dict:
    """Return counts of pairs, and for each criterion how often tuned won and how far the verdicts hung on the order.

    win_rate (percent) is wins + ties / 2 of the pairs with a verdict in both orders, where a pair whose orders disagree is
    a tie. position_bias is the share of pairs in which both orders chose the same place; first_preferred is the share of
    the first place among all verdicts that are no ties: 50 for a judge that does not look at it.
    """
    judged = [row for row in rows if row["base_first"] and row["tuned_first"]]
    letters = {name: [(row["base_first"][name], row["tuned_first"][name]) for row in judged] for name in CRITERIA}
    scores = np.array([[SCORES.get(pair, 50.0) for pair in letters[name]] for name in CRITERIA]).T
    unparsed = sum(row[f"{first}_first"] is None for row in rows for first in ORDERS)
    found: dict = {"pairs": len(rows), "judged": len(judged), "replies": 2 * len(rows), "unparsed": unparsed}
    for name, values, bounds in zip(CRITERIA, scores.T, interval(scores, metrics), strict=True):
        same = sum(a == b != "tie" for a, b in letters[name])
        decided = [letter for pair in letters[name] for letter in pair if letter != "tie"]
        found[name] = {
            "wins": int((values == 100).sum()),
            "ties": int((values == 50).sum()),
            "losses": int((values == 0).sum()),
            "win_rate": round(float(values.mean()), 2),
            "interval": bounds,
            "position_bias": round(100 * same / len(judged), 2),
            "first_preferred": round(100 * decided.count("A") / len(decided), 2) if decided else None,
        }
    return found


def show(found: dict) -> str:
    """Return the result as a table for the terminal."""
    lines = [f"{'':10}{'wins':>6}{'ties':>6}{'losses':>8}{'win rate':>10}   95 % interval   position bias"]
    for name in CRITERIA:
        row = found[name]
        bounds = f"[{row['interval']['low']:.1f}, {row['interval']['high']:.1f}]"
        counts = f"{row['wins']:6}{row['ties']:6}{row['losses']:8}{row['win_rate']:10.1f}"
        lines.append(f"{name:10}{counts}   {bounds:16}{row['position_bias']:.1f}")
    of = f"{found['judged']} of {found['pairs']} pairs of the {found['part']} part"
    return "\n".join([*lines, f"tuned against base, {of}, by {found['model']}; {found['unparsed']} replies hold no verdict"])


def main() -> None:
    paths = start(__doc__, "predictions", "template", "out", "metrics")
    params = Params.read()
    judge = params.judgements
    if not judge.base_url:
        raise CommandError(
            "params.yaml: judgements.base_url: null: no judge; set it, and judgements.model, to an OpenAI-compatible API", 2
        )
    chosen = drawn(pairs(paths.predictions), judge.samples, judge.seed)
    asked = questions(Template(paths.template.read_text(encoding="utf-8")), chosen)
    files = [paths.predictions / f"{model}.jsonl" for model in ORDERS]
    work = work_folder("judgements", fingerprint(judge.base_url, judge.model, paths.template, *files)) / "replies.jsonl"
    client = api(judge)
    collect(
        lambda: client,
        asked,
        lambda client, row: verdict(client, judge.model or "", row),
        work,
        judge.concurrency,
        "judgements",
    )
    replies = answered(work)
    rows = [
        {"id": base["id"]} | {f"{first}_first": replies[f"{base['id']}/{first}"]["verdict"] for first in ORDERS}
        for base, _ in chosen
    ]
    if not any(row["base_first"] and row["tuned_first"] for row in rows):
        raise CommandError(
            f"{judge.model}: no pair has a verdict in both orders; a reply begins with "
            f"{replies[asked[0]['id']]['reply'][:200]!r}"
        )
    found = {"model": judge.model, "part": params.predictions.part} | summarise(rows, params.metrics)
    params.ensure_unchanged()
    write_jsonl(paths.out, rows)
    write_json(paths.metrics, found)
    print(show(found))


if __name__ == "__main__":
    run_command(main)
