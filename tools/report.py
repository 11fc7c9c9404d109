"""Write report.html, one page that holds all of a run: scores, curves, data, answers side by side, environment, parameters.

Usage: make report        (python -m tools.report)

The page asks the network for nothing: style, script, charts and answers stand in it, and its policy forbids the rest.
"""

import base64
import hashlib
import platform
import re
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import jinja2
import pandas as pd
import psutil
import yaml
from markdown_it import MarkdownIt
from markupsafe import Markup

from tools import charts, doctor
from tools.stale import stale_stages
from xinglin.cli import CommandError, run_command
from xinglin.files import atomic_path, read_json
from xinglin.scoring.scores import MODELS, RATES, pairs
from xinglin.timings import read_timing

OUT = Path("report.html")
METRICS = Path("metrics.json")
ANSWERS = "plots/answers.csv"
GRAPH = Path("dvc.yaml")
TIMED = {"adapter": "plots/loss/training.csv", "predictions": "data/predictions/tuned.jsonl"}  # what stages made that took time
PROJECT = Path(__file__).parent.parent


class Missing(Exception):
    """An input that has not been made; the argument is its path."""


def need(name: str) -> Path:
    """Return the path of an input, or raise Missing."""
    if not Path(name).is_file():
        raise Missing(name)
    return Path(name)


def maker(name: str) -> str:
    """Return the command that makes a file: the stage of dvc.yaml that has it among its outputs, or git."""
    for stage, block in yaml.safe_load(GRAPH.read_text(encoding="utf-8"))["stages"].items():
        made = [out for kind in ("outs", "metrics", "plots") for out in block.get(kind, [])]
        outs = [next(iter(out)) if isinstance(out, dict) else out for out in made]
        if any(Path(name).is_relative_to(out) for out in outs):
            return f"dvc repro {stage}"
    return f"git restore {name}"


def section(make: Callable[[], dict]) -> dict:
    """Return what a section shows, or which file it lacks and the command that makes it."""
    try:
        return {"missing": None} | make()
    except Missing as error:
        return {"missing": str(error), "command": maker(str(error))}


def scores(found: dict) -> list[dict]:
    """Return the rows of the table: both means, the paired gain, its interval, and what that says."""

    def says(low: float, high: float) -> str:
        return "更高" if low > 0 else "更低" if high < 0 else "分不出"

    return [
        {"name": name, "base": found["base"][name], "tuned": found["tuned"][name], "gain": found["gain"][name]}
        | interval
        | {"says": says(**interval)}
        for name, interval in found["intervals"]["gain"].items()
    ]


def answer_scores() -> tuple[pd.DataFrame, list[str]]:
    """Return plots/answers.csv, one row an answer, and the names of the scores in it."""
    table = pd.read_csv(need(ANSWERS), dtype={"id": str})  # an id like 12e34 is no number
    return table, [name for name in table.columns if name not in ("id", "model", *RATES)]


def converted() -> dict:
    return {"found": read_json(need("data/converted/stats.json"))}


def leakage() -> dict:
    return {"found": read_json(need("data/split/report.json"))}


def loss() -> dict:
    curves = [pd.read_csv(need(f"plots/loss/{name}.csv")) for name in ("training", "validation")]
    return {"charts": [charts.loss(*curves)]}


def distributions() -> dict:
    table, names = answer_scores()
    models = {model: table[table["model"] == model] for model in MODELS}
    return {"charts": [charts.distribution(name, {model: rows[name] for model, rows in models.items()}) for name in names]}


def statistics() -> dict:
    drawn = {"topics": charts.topics, "turns": charts.turns, "characters": charts.characters, "cutoff_len": charts.cutoff}
    return {
        "found": read_json(need("plots/data/stats.json")),
        "charts": [draw(pd.read_csv(need(f"plots/data/{name}.csv"))) for name, draw in drawn.items()],
    }


def judged(rows: dict[str, list[dict]]) -> tuple[list[str], dict[str, list[dict]]]:
    """Return the names of the scores, and each model's scores and flags row by row: none before plots/answers.csv is made."""
    if not Path(ANSWERS).is_file():
        return [], {model: [{}] * len(rows[model]) for model in MODELS}
    table, names = answer_scores()
    marks = {model: table[table["model"] == model].to_dict("records") for model in MODELS}
    if any([mark["id"] for mark in marks[model]] != [row["id"] for row in rows[model]] for model in MODELS):
        raise CommandError(f"{ANSWERS}: its answers are not those of data/predictions: run 'dvc repro metrics'")
    return names, marks


def answers() -> dict:
    """Return what the page's script shows: each conversation, its reference, and both answers with scores and flags."""
    for model in MODELS:
        need(f"data/predictions/{model}.jsonl")
    rows = pairs(Path("data/predictions"))
    names, marks = judged(rows)

    def side(model: str, place: int) -> dict:
        mark = marks[model][place]
        return {
            "text": rows[model][place]["prediction"],
            "scores": {name: mark[name] for name in names},
            "flags": [name for name in RATES if mark.get(name)],
        }

    shown = [
        {key: row[key] for key in ("id", "messages", "reference")} | {model: side(model, place) for model in MODELS}
        for place, row in enumerate(rows[MODELS[0]])
    ]
    return {"data": {"metrics": names, "rows": shown}}


def card() -> dict:
    """Return the model card: the block between lines of --- that it may begin with, as text, and the rest as HTML."""
    text = need("models/merged/README.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2) if text.startswith("---\n") else ("", "", text)
    return {"head": head, "body": markdown(body)}


def markdown(text: str) -> Markup:
    """Return Markdown as HTML that fits below a heading of the page: no raw HTML, no images, headings two levels lower."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = parser.parse(text)
    for token in tokens:
        if token.type.startswith("heading_"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
        elif token.type == "th_open":
            token.attrSet("scope", "col")
    html = parser.renderer.render(tokens, parser.options, {})
    return Markup(html.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace("</table>", "</table></div>"))


def parameters() -> dict:
    """Return params.yaml as it stands, but for a password in an address."""
    text = need("params.yaml").read_text(encoding="utf-8")
    return {"text": re.sub(r"(://[^\s:/@]*:)[^\s/@]+@", r"\1***@", text)}


def git(*words: str) -> str:
    """Return what git says, or nothing where there is no repository."""
    return subprocess.run(["git", "-c", "core.quotePath=false", *words], capture_output=True, text=True).stdout.rstrip()


def commit() -> dict:
    """Return the commit that the tree stands on, and the files that differ from it."""
    name, day = (git("log", "-1", f"--format={what}") for what in ("%h", "%cs %s"))
    return {"name": name, "day": day, "changed": [line[3:] for line in git("status", "--porcelain").splitlines()]}


def environment() -> dict[str, str]:
    return {
        "Python": f"{platform.python_version()}, {platform.system()} {platform.machine()}",
        **{name: doctor.package(name) for name in doctor.PACKAGES},
        "vllm": doctor.vllm_version(),
        "GPU": doctor.gpu(),
        "processors": f"{psutil.cpu_count()}",
        "memory": f"{psutil.virtual_memory().total / 1e9:.1f} GB",
    }


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} 小时 {minutes} 分" if hours else f"{minutes} 分 {rest} 秒" if minutes else f"{rest} 秒"


def templates() -> jinja2.Environment:
    """Return Jinja as the page needs it: everything escaped, a missing name an error, Chinese in JSON left readable."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PROJECT / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    found.filters["duration"] = duration
    return found


def render(run: dict) -> str:
    """Return the page of the run that metrics.json tells of."""
    style, script = ((PROJECT / "templates" / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    icon = (PROJECT / "app" / "page" / "apricot.svg").read_text(encoding="utf-8")
    sections = (loss, distributions, converted, statistics, leakage, answers, card, parameters)
    return (
        templates()
        .get_template("report.html")
        .render(
            run=run,
            scores=scores(run),
            stale=stale_stages(),
            timings={name: read_timing(name, Path(made)) for name, made in TIMED.items()},
            others=[name for name in run["base"] if name not in run["gain"]],
            commit=commit(),
            environment=environment(),
            written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
            style=Markup(style),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            icon=Markup(icon),
            icon_data=base64.b64encode(icon.encode()).decode(),
            **{make.__name__: section(make) for make in sections},
        )
    )


def main() -> None:
    page = render(read_json(METRICS))
    with atomic_path(OUT) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"report: {OUT.stat().st_size / 1e6:.1f} MB -> {OUT}")


if __name__ == "__main__":
    run_command(main)
