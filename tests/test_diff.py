import ast
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pytest
from ruamel.yaml import YAML

from stages.metrics import interval
from tests.conftest import ROOT, default_params, overlay, params_with
from tools import diff
from tools.diff import Change

NEEDED = ("Makefile", "tools/diff.py", "tools/experiments.py", *(f"stages/{name}.py" for name in ("common", "metrics", "params", "scores")))
GRAPH = {"stages": {name: {"cmd": "true", "outs": [f"data/{name}"]} for name in ("split", "predictions")}}
HOSTILE = "痛 @everyone <script>alert(1)</script></details>\n\n| a | b |\n\n# 大字 ```\n<img src=x onerror=alert(1)> [这里](http://evil) \u202e" + "长" * 300
METRICS = params_with().metrics
YAML_SAFE = YAML(typ="safe")
REVIEW = YAML_SAFE.load(ROOT / ".github/workflows/review.yml")
PIPELINE = YAML_SAFE.load(ROOT / ".github/workflows/pipeline.yml")
GITLAB = YAML_SAFE.load(ROOT / ".gitlab-ci.yml")


def run(folder: Path, *command: str, expect: int | None = 0, **environment: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_", "MAKE"))}
    who = {f"GIT_{role}_{key}": "test@localhost" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=folder, env=clean | who | {"PATH": path} | environment, capture_output=True, text=True)
    assert expect is None or done.returncode == expect, done.stdout + done.stderr
    return done


def compare(folder: Path, *words: str) -> str:
    """Return the Markdown of tools.diff, run in `folder`; it never ends in a stack trace."""
    done = run(folder, sys.executable, "-m", "tools.diff", *words)
    assert "Traceback" not in done.stderr
    return done.stdout


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def answers_csv(tuned: dict[str, float]) -> str:
    """Return plots/answers.csv in which the tuned model's answers have these scores, rouge-1 moved by chance alone."""
    noise = np.random.default_rng(len(tuned) + round(sum(tuned.values()))).normal(0, 3, len(tuned))
    rows = [f"{key},base,9,9,0,0,0\n" for key in tuned]
    rows += [f"{key},tuned,{20 + noise[at]:.4f},{score},0,0,{at % 2}\n" for at, (key, score) in enumerate(tuned.items())]
    return "".join(["id,model,rouge-1,rouge-l,truncated,empty,repetitive\n", *rows])


def metrics_json(answers: str, part: str = "test", **training) -> str:
    """Return the metrics.json that belongs to these answers."""
    found: dict = {"part": part, "training": {"steps": 110, "verdict": "converged"} | training}
    rows = list(csv.DictReader(answers.splitlines()))
    for model in ("base", "tuned"):
        mine = [row for row in rows if row["model"] == model]
        found[model] = {
            name: round(float(np.mean([float(row[name]) for row in mine])) * (100 if name in diff.RATES else 1), 4)
            for name in rows[0] if name not in ("id", "model")
        }  # fmt: skip
    return json.dumps(found)


def predictions(keys: list[str], word: str) -> str:
    question = [{"role": "user", "content": HOSTILE}]
    return lines([{"id": key, "messages": question, "reference": HOSTILE, "prediction": f"{word} {key} {HOSTILE}"} for key in keys])


def split_rows(train: range, val: range, test: range) -> dict[str, str]:
    parts = {"train": train, "val": val, "test": test}
    return {f"data/split/{part}.jsonl": lines([{"instruction": f"问题{i}", "output": "答"} for i in which]) for part, which in parts.items()}


BEFORE = {f"q{i:02}": 12 + i % 7 for i in range(40)}
AFTER = {key: score + (-2 if i % 8 == 0 else 1.5 + i % 3) for i, (key, score) in enumerate(BEFORE.items())}


def before_files() -> dict[str, str]:
    scores = answers_csv(BEFORE)
    return {
        "plots/answers.csv": scores,
        "metrics.json": metrics_json(scores),
        "plots/loss/training.csv": "step,epoch,loss\n5,1,5.1\n110,2,4.7\n",
        "plots/loss/validation.csv": "step,epoch,loss\n55,1,4.9\n110,2,4.8\n",
        "plots/data/turns.csv": "questions,train,val,test\n1,20,6,30\n2,10,4,10\n",
        "data/predictions/tuned.jsonl": predictions(list(BEFORE), "旧"),
        **split_rows(range(30), range(30, 40), range(40, 80)),
    }


def after_files() -> dict[str, str]:
    scores = answers_csv(AFTER)
    return {
        "plots/answers.csv": scores,
        "metrics.json": metrics_json(scores, verdict="cut short", reason="validation still fell | by 2 %"),
        "plots/loss/validation.csv": "step,epoch,loss\n55,1,4.85\n110,2,4.7\n",
        "data/predictions/tuned.jsonl": predictions(list(AFTER), "新"),
        **split_rows(range(1, 36), range(36, 40), range(40, 80)),
    }


def commit(folder: Path, files: dict[str, str], changes: dict | None = None) -> None:
    """Write files and parameters, and commit them by hand, as a pipeline run would leave them."""
    write(folder, files)
    YAML().dump(overlay(default_params(), changes or {}), folder / "params.yaml")
    run(folder, "dvc", "commit", "--quiet", "--force")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "A run")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with origin.git, in which a branch `rank` asks to be merged into main, and store, the DVC remote of both."""
    place = tmp_path_factory.mktemp("server")
    author = place / "author"
    run(place, "git", "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    run(place, "git", "clone", "--quiet", "origin.git", "author")
    run(author, "git", "checkout", "--quiet", "-b", "main")
    for name in NEEDED:
        (author / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, author / name)
    write(author, {"requirements/review.txt": "", ".gitignore": "/data/\n/.venv-review/\n__pycache__/\n"})
    YAML().dump(GRAPH, author / "dvc.yaml")
    run(author, "dvc", "init", "--quiet")
    run(author, "dvc", "remote", "add", "--local", "--default", "store", str(place / "store"))
    commit(author, before_files())
    run(author, "git", "push", "--quiet", "origin", "main")
    run(author, "git", "checkout", "--quiet", "-b", "rank")
    commit(author, after_files(), {"adapter.lora_rank": 16, "converted.system": "a | `b` <i> @all", "merged.gate.gains": {}})
    run(author, "dvc", "push", "--quiet", "--all-commits")
    run(author, "git", "push", "--quiet", "origin", "rank")
    return place


@pytest.fixture
def author(server: Path, tmp_path: Path) -> Path:
    """A copy of the author's checkout, on the branch, cache and all."""
    return shutil.copytree(server / "author", tmp_path / "author", symlinks=True)


@pytest.fixture
def runner(server: Path, tmp_path: Path) -> Path:
    """A clean clone in which the branch is merged, as the hosts check it out; the environment of the review is this one."""
    run(tmp_path, "git", "clone", "--quiet", str(server / "origin.git"), "runner")
    clone = tmp_path / "runner"
    run(clone, "git", "merge", "--quiet", "--no-ff", "--message", "Merge", "origin/rank")
    (clone / ".venv-review").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (clone / ".venv-review" / name).symlink_to(Path(sys.prefix) / name)
    (clone / ".venv-review" / "ready").touch()
    program(tmp_path / "bin" / "uv", "exit 9")  # make asks whether it is there; nothing may be installed
    return clone


def program(file: Path, script: str) -> None:
    write(file.parent, {file.name: f"#!/bin/sh\n{script}\n"})
    file.chmod(0o755)


def play(job: dict, folder: Path, values: dict[str, str], **environment: str) -> None:
    """Run a job's `run` steps as GitHub does: expressions only in `env` and `if`, from `values` (else empty)."""

    def filled(text: str) -> str:
        return re.sub(r"\$\{\{ (.+?) }}", lambda found: values.get(found[1], ""), text)

    for step in job["steps"]:
        if "run" in step and ("if" not in step or values.get(step["if"])):
            given = {name: filled(text) for name, text in step.get("env", {}).items()}
            run(folder, "bash", "-e", "-c", step["run"], **environment | given)


class Rendered(HTMLParser):
    """The tags and the text of Markdown, rendered with the HTML in it."""

    def __init__(self, markdown: str) -> None:
        from markdown_it import MarkdownIt

        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[int] = []
        self.text = ""
        self.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.cells.append(0)
        elif tag in ("td", "th"):
            self.cells[-1] += 2 if ("colspan", "2") in attrs else 1

    def handle_data(self, data):
        self.text += data


def test_a_pull_request_gets_one_comment_that_says_what_it_does(server, runner, tmp_path):
    program(tmp_path / "bin" / "gh", 'echo "$@" >> "$CALLS"\ncase "$*" in *--jq*) echo "$EXISTING" ;; esac')
    values = {
        "vars.DVC_REMOTE_URL": str(server / "store"),
        "github.event.pull_request.number": "7",
        "github.event.pull_request.head.repo.full_name == github.repository": "true",
    }
    calls, summary = tmp_path / "calls", tmp_path / "summary"
    environment = {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "CALLS": str(calls), "EXISTING": "",
        "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_REPOSITORY": "us/xinglin",
    }  # fmt: skip
    play(REVIEW["jobs"]["review"], runner, values, **environment)
    found = (runner / "review.md").read_text(encoding="utf-8")
    assert summary.read_text(encoding="utf-8") == found and len(found) < 65536, "what a comment may hold"
    assert re.match(r"tuned rouge-l 14\.88 → 16\.79, \+1\.91 \[\+1\.\d\d, \+2\.\d\d]: better\n", found)
    for line in (
        "| `adapter.lora_rank` | `8` | `16` |",
        "Paired bootstrap over the same 40 questions of the test part.",
        "| `verdict` | `converged` | `cut short` |",
        "    line [4.9, 4.8]",
        "    line [4.85, 4.7]",
        "| train | 30 | 35 | 6 | 1 |",
        "| val | 10 | 4 | 0 | 6 |",
        "| test | 40 | 40 | 0 | 0 |",
        "6 of them went from one part to another.",
        "By rouge-l, 35 answers got better, 5 worse, 0 stayed.",
        "<details><summary>5 that got worse</summary>",
    ):
        assert line in found.splitlines()
    assert re.search(r"tuned rouge-1 .* within noise", found) and "base rouge" not in found
    assert calls.read_text().splitlines()[-1] == "api --silent repos/us/xinglin/issues/7/comments -F body=@review.md"
    play(REVIEW["jobs"]["review"], runner, values, **environment | {"EXISTING": "41\n42"})
    assert calls.read_text().splitlines()[-1] == "api --silent -X PATCH repos/us/xinglin/issues/comments/41 -F body=@review.md"
    assert diff.MARK in found and diff.MARK in calls.read_text(), "by which it is found again"


def test_a_fork_gets_the_summary_and_what_git_alone_knows(runner, tmp_path):
    program(tmp_path / "bin" / "gh", "exit 9")
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    play(REVIEW["jobs"]["review"], runner, {}, PATH=path, GITHUB_STEP_SUMMARY=str(tmp_path / "summary"), GITHUB_REPOSITORY="us/xinglin")
    found = (tmp_path / "summary").read_text(encoding="utf-8")
    assert ": better\n" in found
    assert re.search(r"The rows of `HEAD\^1` and `workspace` are in neither .*dvc pull.*train 30, val 10, test 40, \d+ bytes → train 30", found)
    assert "The answers of `HEAD^1` and `workspace` are in neither DVC's cache nor a remote" in found


@pytest.mark.skipif(not shutil.which("curl"), reason="the job of GitLab posts by curl")
def test_a_merge_request_gets_one_note_that_is_kept_up_to_date(server, runner, tmp_path):
    notes, asked = [{"id": 3, "body": "LGTM"}], []

    class Notes(BaseHTTPRequestHandler):
        def answer(self):
            asked.append((self.command, self.path, self.headers["PRIVATE-TOKEN"]))
            if self.command != "GET":
                body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["body"][0]
                notes.append({"id": 4, "body": body})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(notes).encode())

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Notes) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        base = run(runner, "git", "merge-base", "origin/main", "origin/rank").stdout.strip()
        run(runner, "git", "checkout", "--quiet", "origin/rank")
        environment = {
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "CI_MERGE_REQUEST_DIFF_BASE_SHA": base,
            "REVIEW_TOKEN": "t", "CI_API_V4_URL": f"http://127.0.0.1:{host.server_port}", "CI_PROJECT_ID": "1",
            "CI_MERGE_REQUEST_IID": "2", "DVC_REMOTE_URL": str(server / "store"), "no_proxy": "127.0.0.1",
        }  # fmt: skip
        for _ in range(2):
            run(runner, "bash", "-e", "-c", "\n".join(GITLAB["review"]["script"]), **environment)
        host.shutdown()
    place = "/projects/1/merge_requests/2/notes"
    get = ("GET", f"{place}?per_page=100", "t")
    assert asked == [get, ("POST", place, "t"), get, ("PUT", f"{place}/4", "t")]
    assert notes[-1]["body"] == (runner / "review.md").read_text(encoding="utf-8") and ": better\n" in notes[-1]["body"]
    assert "5 that got better" in notes[-1]["body"]


def test_nobodys_words_become_markup_or_a_mention(author):
    found = compare(author, "main")
    page = Rendered(found)
    assert page.tags <= {"p", "h3", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "details", "summary"}
    assert "alert(1)</script>" in page.text and "http://evil" in page.text
    assert set(page.cells) == {2, 3, 5, 6}, "example, parameters, data, scores: no row has a cell too many"
    assert re.sub(r"`[^`\n]*`", "", found).count("@") == found.count("@&#8203;") == 40
    assert "\u202e" not in found and "长" * diff.SHOWN not in found
    assert "| `converted.system` | `\"\"` | `a \\| 'b' <i> @all` |" in found
    assert "| `merged.gate.gains.bleu-4` | `0.0` | – |" in found and "| `merged.gate.gains` | – | `{}` |" in found


def test_two_revisions_are_compared_whatever_lies_in_the_workspace(author):
    (author / "metrics.json").write_text("{}")
    found = compare(author, "rank", "main", "--by", "rouge-1")
    assert re.match(r"tuned rouge-1 [\d.]+ → [\d.]+, \S+ \[\S+ \S+: within noise\n", found)
    assert re.search(r"tuned rouge-l 16\.79 \| 14\.88 \| -1\.91 \|.* worse", found.replace("tuned rouge-l |", "tuned rouge-l"))
    assert "| train | 35 | 30 | 1 | 6 |" in found


def test_the_same_run_again_changes_nothing(author):
    found = compare(author, "HEAD")
    assert found.startswith("tuned rouge-l 16.79 → 16.79, +0.00 [+0.00, +0.00]: within noise\n")
    assert found.count("None changed.") == 2 and "The same rows in train, val and test" in found
    assert "By rouge-l, 0 answers got better, 0 worse, 40 stayed." in found and "mermaid" not in found


def test_without_scores_of_single_answers_nothing_is_called_better(author):
    (author / "plots/answers.csv").unlink()
    found = compare(author, "main")
    assert found.startswith("tuned rouge-l 14.88 → 16.79, +1.91 (no interval)\n")
    assert "No `plots/answers.csv` at `workspace`: nothing says whether a difference is noise." in found
    assert not re.search(r"\| (better|worse|within noise) \|", found)


def test_another_part_is_not_compared(author):
    (author / "metrics.json").write_text(metrics_json(answers_csv(AFTER), part="val"))
    found = compare(author, "main")
    assert found.startswith("not comparable: the test part was answered before, the val part after\n")
    assert not re.search(r"\| (better|worse|within noise) \|", found)


def test_answers_of_another_run_are_not_shown_beside_the_scores(author):
    (author / "data/predictions/tuned.jsonl").write_text(predictions(["other"], "别"))
    assert "The answers of `workspace` are in neither DVC's cache nor a remote" in compare(author, "main")


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["nowhere"], 2, "REV=nowhere: no such revision here"),
        ([""], 2, "REV=: no such revision here"),
        (["--", "--all"], 2, "REV=--all: no such revision here"),
        (["bare"], 1, "bare: no metrics.json there"),
        (["torn"], 1, "metrics.json at torn: not the scores of base and tuned"),
        (["main", "--by", "rouge-9"], 2, "--by rouge-9: no such metric, expected one of rouge-1, rouge-l"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(author, words, status, line):
    for name, change in (("bare", ["rm", "metrics.json"]), ("torn", ["cp", "dvc.yaml", "metrics.json"])):
        run(author, "git", "checkout", "--quiet", "-b", name, "main")
        run(author, *change)
        run(author, "git", "commit", "--quiet", "--all", "--message", name)
    run(author, "git", "checkout", "--quiet", "rank")
    done = run(author, sys.executable, "-m", "tools.diff", *words, expect=status)
    assert done.stdout == "" and done.stderr.startswith(f"error: {line}") and done.stderr.count("\n") == 1


def scores_of(values: dict[str, float], name: str = "rouge-l") -> diff.Scores:
    return {key: {name: value} for key, value in values.items()}


def test_the_interval_is_of_the_paired_differences():
    found = diff.differences(scores_of(BEFORE), scores_of(AFTER), METRICS)["rouge-l"]
    expected = interval(np.array([[AFTER[key] - BEFORE[key]] for key in sorted(BEFORE)]), METRICS)[0]
    assert (found.low, found.high) == (expected["low"], expected["high"])
    assert found.after - found.before == pytest.approx(np.mean(list(AFTER.values())) - np.mean(list(BEFORE.values())))


def test_only_questions_in_common_count_where_there_are_any():
    after = {key: value + 1 for key, value in BEFORE.items() if key > "q09"} | {"new": 99.0, "newer": 98.0}
    found = diff.differences(scores_of(BEFORE), scores_of(after), METRICS)["rouge-l"]
    assert found.before == pytest.approx(np.mean([BEFORE[key] for key in BEFORE if key > "q09"]))
    assert (found.low, found.high) == (1, 1)


def test_other_questions_are_compared_apart_and_with_less_certainty():
    paired = diff.differences(scores_of(BEFORE), scores_of(AFTER), METRICS)["rouge-l"]
    apart = diff.differences(scores_of(BEFORE), scores_of({f"other {key}": value for key, value in AFTER.items()}), METRICS)["rouge-l"]
    assert apart.after - apart.before == pytest.approx(paired.after - paired.before)
    spread = 1.96 * np.sqrt(sum(np.var(list(side.values())) / len(side) for side in (BEFORE, AFTER)))
    assert apart.low == pytest.approx(apart.after - apart.before - spread, abs=0.1)
    assert apart.high == pytest.approx(apart.after - apart.before + spread, abs=0.1)
    assert apart.high - apart.low > paired.high - paired.low


def test_one_answer_has_no_interval():
    assert diff.differences(scores_of({"a": 1.0}), scores_of({"a": 2.0}), METRICS) == {}


@pytest.mark.parametrize(
    ("name", "low", "high", "said"),
    [
        ("rouge-l", 0.1, 1.0, "better"),
        ("rouge-l", -1.0, -0.1, "worse"),
        ("rouge-l", -0.1, 1.0, "within noise"),
        ("rouge-l", 0.0, 1.0, "within noise"),
        ("truncated", 0.1, 1.0, "worse"),
        ("repetitive", -1.0, -0.1, "better"),
        ("length-ratio", None, None, "–"),
    ],
)
def test_a_difference_is_noise_unless_the_interval_leaves_out_zero(name, low, high, said):
    assert diff.verdict(name, Change(1.0, 2.0, low, high)) == said


def test_curves_of_other_steps_are_a_table_and_long_ones_are_thinned():
    assert diff.curves({10: 5.0}, {20: 4.0, 30: 3.5})[2:] == ["| 10 | 5.0000 | – |", "| 20 | – | 4.0000 |", "| 30 | – | 3.5000 |"]
    long = {step: 5 - step / 1000 for step in range(1, 501)}
    chart = diff.curves(long, {step: loss - 0.1 for step, loss in long.items()})
    assert chart[0] == "```mermaid" and chart[4].endswith(" 500]") and chart[4].count(",") < 25
    assert "mermaid" not in str(diff.curves({1: 5.0, 2: 4.0}, {1: 5.0, 2: float("nan")})), "no chart can draw it"


def test_the_review_installs_what_its_modules_load_and_no_more():
    code = "import sys, tools.diff; print(*(m.__file__ for n, m in sys.modules.items() if n.startswith(('stages.', 'tools.'))))"
    loaded = set()
    for file in run(ROOT, sys.executable, "-c", code).stdout.split():
        for node in ast.parse(Path(file).read_text(encoding="utf-8")).body:
            loaded |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            loaded |= {node.module} if isinstance(node, ast.ImportFrom) else set()
    others = {name.split(".")[0] for name in loaded} - sys.stdlib_module_names - {"stages", "tools"}
    asked = re.findall(r"^[a-z]+", (ROOT / "requirements/review.in").read_text(encoding="utf-8"), re.M)
    assert sorted(asked) == sorted(others | {"dvc"})
    pins = [set((ROOT / f"requirements/{name}.txt").read_text(encoding="utf-8").split()) for name in ("review", "pipeline")]
    assert pins[0] <= pins[1], "one version of each"


@pytest.mark.parametrize("workflow", [REVIEW, PIPELINE], ids=["review", "pipeline"])
def test_a_workflow_is_safe_with_anybodys_branch(workflow):
    assert "pull_request_target" not in str(workflow["on"]) and "pull_request" in workflow["on"]
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60 and "permissions" not in job
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), "whatever a stranger may name stays out of the shell"
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/x@v1"))
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_workflows_may_do_what_they_must_and_no_more():
    assert REVIEW["on"] == "pull_request" and REVIEW["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert PIPELINE["on"] == {"pull_request": None, "push": {"branches": ["main"]}} and PIPELINE["permissions"] == {"contents": "read"}
    checkout = REVIEW["jobs"]["review"]["steps"][0]
    assert checkout["with"]["fetch-depth"] == 0, "the base is needed too"
    assert [step["name"] for step in REVIEW["jobs"]["review"]["steps"] if "GH_TOKEN" in step.get("env", {})] == ["Comment"]


def test_both_hosts_run_what_a_person_types():
    for host in (str(REVIEW), str(GITLAB["review"])):
        assert "make -s review BASE=" in host and diff.MARK in host
    for host in (str(PIPELINE), str(GITLAB["demo"])):
        assert "make demo" in host and ".venv/bin/dvc diff HEAD --targets data/raw data/converted data/split" in host
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^review: \.venv-review/ready ##", makefile, re.M) and re.search(r"^demo:", makefile, re.M)
