"""Pull request review workflows played on a bare repository; GitHub's program is a fake, GitLab's notes a loopback server."""

import ast
import json
import os
import re
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT
from tests.reviewed import make_server, run, write
from tools import diff

YAML_SAFE = YAML(typ="safe")
REVIEW = YAML_SAFE.load(ROOT / ".github/workflows/review.yml")
PIPELINE = YAML_SAFE.load(ROOT / ".github/workflows/pipeline.yml")
GITLAB = YAML_SAFE.load(ROOT / ".gitlab-ci.yml")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("server")
    make_server(place)
    return place


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


def test_a_pull_request_gets_one_comment_that_says_what_it_does(server, runner, tmp_path):
    program(tmp_path / "bin" / "gh", 'echo "$@" >> "$CALLS"\ncase "$*" in *--jq*) echo "$EXISTING" ;; esac')
    values = {
        "vars.DVC_REMOTE_URL": str(server / "store"),
        "github.event.pull_request.number": "7",
        "github.event.pull_request.head.repo.full_name == github.repository": "true",
    }
    calls, summary = tmp_path / "calls", tmp_path / "summary"
    environment = {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "CALLS": str(calls),
        "EXISTING": "",
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_REPOSITORY": "us/xinglin",
    }
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
    play(
        REVIEW["jobs"]["review"],
        runner,
        {},
        PATH=path,
        GITHUB_STEP_SUMMARY=str(tmp_path / "summary"),
        GITHUB_REPOSITORY="us/xinglin",
    )
    found = (tmp_path / "summary").read_text(encoding="utf-8")
    assert ": better\n" in found
    assert re.search(
        r"The rows of `HEAD\^1` and `workspace` are in neither .*dvc pull.*train 30, val 10, test 40, \d+ bytes → train 30",
        found,
    )
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
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "CI_MERGE_REQUEST_DIFF_BASE_SHA": base,
            "REVIEW_TOKEN": "t",
            "CI_API_V4_URL": f"http://127.0.0.1:{host.server_port}",
            "CI_PROJECT_ID": "1",
            "CI_MERGE_REQUEST_IID": "2",
            "DVC_REMOTE_URL": str(server / "store"),
            "no_proxy": "127.0.0.1",
        }
        for _ in range(2):
            run(runner, "bash", "-e", "-c", "\n".join(GITLAB["review"]["script"]), **environment)
        host.shutdown()
    place = "/projects/1/merge_requests/2/notes"
    get = ("GET", f"{place}?per_page=100", "t")
    assert asked == [get, ("POST", place, "t"), get, ("PUT", f"{place}/4", "t")]
    assert notes[-1]["body"] == (runner / "review.md").read_text(encoding="utf-8") and ": better\n" in notes[-1]["body"]
    assert "5 that got better" in notes[-1]["body"]


def test_the_review_installs_what_its_modules_load_and_no_more():
    code = (
        "import sys, tools.diff; print(*(m.__file__ for n, m in sys.modules.items() if "
        "n.startswith(('xinglin.', 'tools.')) and m.__file__))"
    )
    loaded = set()
    for file in run(ROOT, sys.executable, "-c", code).stdout.split():
        for node in ast.parse(Path(file).read_text(encoding="utf-8")).body:
            loaded |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            loaded |= {node.module} if isinstance(node, ast.ImportFrom) else set()
    others = {name.split(".")[0] for name in loaded} - sys.stdlib_module_names - {"tools", "xinglin"}
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
    assert PIPELINE["on"] == {"pull_request": None, "push": {"branches": ["main"]}} and PIPELINE["permissions"] == {
        "contents": "read"
    }
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
