"""dvc.yaml against the code: what a stage imports is what it depends on, and the README's table says the same."""

import ast
import re

import pytest
from ruamel.yaml import YAML

from stages.params import Params
from tests.conftest import ROOT

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
ALL = STAGES | YAML(typ="safe").load(ROOT / "evaluations" / "dvc.yaml")["stages"]


def imports(module: str) -> set[str]:
    """Return the files of stages/ that stages/MODULE.py loads, or starts as a program of its own, itself and theirs included."""
    file = ROOT / "stages" / f"{module}.py"
    found = {f"stages/{module}.py"}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "stages":
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages."):
            names = [str(node.module).split(".")[1]]
        elif isinstance(node, ast.Constant) and re.fullmatch(r"stages\.\w+", str(node.value)):
            names = [node.value.split(".")[1]]
        else:
            continue
        for name in names:
            found |= imports(name)
    return found


@pytest.mark.parametrize("name", ALL)
def test_a_stage_depends_on_every_module_that_it_imports(name):
    deps = {dep for dep in ALL[name]["deps"] if dep.startswith("stages/")}
    assert deps == imports(name)


@pytest.mark.parametrize("name", ALL)
def test_a_stage_is_described_and_reads_its_own_parameters(name):
    assert ALL[name]["desc"]
    assert f"stages/run {name} " in ALL[name]["cmd"]
    assert {name} <= {key.split(".")[0] for key in ALL[name]["params"]} or name not in Params.model_fields


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_the_readmes_table_of_stages_is_the_graph(readme):
    lines = (ROOT / readme).read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    listed = {row[0].strip("`"): row[1] for row in rows if row[0].strip("`") in STAGES}
    assert list(listed) == list(STAGES)
    for name, cell in listed.items():
        outs = [out if isinstance(out, str) else next(iter(out)) for out in STAGES[name].get("outs", []) + STAGES[name].get("metrics", [])]
        assert set(cell.replace("`", "").split(", ")) == set(outs), name
