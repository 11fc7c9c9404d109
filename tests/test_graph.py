"""dvc.yaml against the code: what a stage imports is what it depends on, and the README's table says the same."""

import ast
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT, module_of
from tools import knobs
from tools.all_params import Params

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
ALL = STAGES | YAML(typ="safe").load(ROOT / "evaluations" / "dvc.yaml")["stages"]


ROOMS = ("stages", "evaluations", "xinglin")
PLUMBING = {
    f"xinglin/{name}.py" for name in ("cli", "files", "params", "processes", "timings")
}  # how a stage reads and writes, not what


def files_of(module: str) -> list[Path]:
    """Return the file of a module of ours, none where `module` is a room or somebody else's."""
    file = ROOT / (module.replace(".", "/") + ".py")
    return [file] if module.split(".")[0] in ROOMS and file.is_file() else []


def imports(file: Path, seen: set[Path]) -> set[Path]:
    """Add to `seen` a file and those of ours that it loads, or starts as a program of its own, and theirs."""
    if file in seen:
        return seen
    seen.add(file)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and re.fullmatch(r"(xinglin|evaluations)(\.\w+)+", str(node.value)):
            names = [str(node.value)]
        else:
            continue
        for name in names:
            for found in files_of(name):
                imports(found, seen)
    return seen


def modules(stage: str) -> set[str]:
    """Return the modules that can change what a stage makes."""
    (file,) = files_of(module_of(stage))
    return {str(found.relative_to(ROOT)) for found in imports(file, set())} - PLUMBING


@pytest.mark.parametrize("name", ALL)
def test_a_stage_depends_on_every_module_that_can_change_its_output(name):
    deps = {dep for dep in ALL[name]["deps"] if dep.endswith(".py")}
    assert deps == modules(name)


@pytest.mark.parametrize("name", ALL)
def test_a_stage_is_described_and_reads_its_own_parameters(name):
    assert ALL[name]["desc"]
    assert f"stages/run {module_of(name).removeprefix('stages.')} " in ALL[name]["cmd"]
    assert {name} <= {key.split(".")[0] for key in ALL[name]["params"]} or name not in Params.model_fields


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_the_readmes_table_of_stages_is_the_graph(readme):
    lines = (ROOT / readme).read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    listed = {row[0].strip("`"): row[1] for row in rows if row[0].strip("`") in STAGES}
    assert list(listed) == list(STAGES)
    for name, cell in listed.items():
        made = [out for kind in ("outs", "metrics", "plots") for out in STAGES[name].get(kind, [])]
        outs = [out if isinstance(out, str) else next(iter(out)) for out in made]
        assert set(cell.replace("`", "").split(", ")) == set(outs), name


@pytest.mark.parametrize("name", ALL)
def test_what_is_in_git_does_not_keep_a_stage_out_of_the_run_cache(name):
    if name in STAGES:
        assert not [out for out in STAGES[name].get("outs", []) if isinstance(out, dict)], "list it under plots or metrics"


@pytest.mark.parametrize("name", ALL)
def test_no_output_is_put_in_place_before_the_parameters_are_seen_to_be_the_same(name):
    (file,) = files_of(module_of(name))
    calls = [
        node.func.attr
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    assert "ensure_unchanged" in calls


FLOORS = {"xinglin": 0, "stages": 1, "evaluations": 2, "app": 3, "tools": 3, "benchmarks": 3}  # what stands on what


def imported(file: Path) -> set[str]:
    """Return the modules that a file names after import, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("room", FLOORS)
def test_imports_go_down_and_no_stage_imports_a_stage(room):
    for file in (ROOT / room).rglob("*.py"):
        if "node_modules" in file.parts:  # packages that build the page
            continue
        for name in imported(file):
            floor = FLOORS.get(name.split(".")[0], -1)
            assert floor <= FLOORS[room], f"{file} imports {name}"
            assert not (room == "stages" and name.startswith("stages.")), f"{file} imports {name}"
            assert not (room == "app" and name.startswith("tools.")), "the application's environment has no tools"


def test_the_table_of_what_runs_again_is_the_graph(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    knobs.main()
    assert capsys.readouterr().out == (ROOT / "docs" / "knobs.md").read_text(encoding="utf-8"), (
        "python -m tools.knobs > docs/knobs.md"
    )


def test_what_serves_and_shows_trains_nothing():
    stale = knobs.by_parameter() | knobs.by_module()
    for name in stale:
        if name.startswith(("app", "serve.", "tools/")) or name in (
            "xinglin/scoring/scores.py",
            "xinglin/cli.py",
            "stages/predictions.py",
        ):
            assert "adapter" not in stale[name], name
