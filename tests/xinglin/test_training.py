"""Real trainings too long for `make test`: two processes as two GPUs would, ZeRO, packs, a base in 4 bit, every weight."""

import json
import re
import shlex
import subprocess
import time

import psutil
import pytest
from ruamel.yaml import YAML

from tests.conftest import Project
from tests.xinglin.test_faults import running_in
from xinglin.serving.server import free_port

pytestmark = pytest.mark.soak
SHORT = {"adapter.max_steps": 8, "adapter.max_samples": 64, "adapter.eval_steps": 4, "adapter.batch": "auto"}
FULL = {"adapter.finetuning_type": "full", "adapter.learning_rate": 0.0002}
ANSWERED = {
    "predictions.max_samples": 12,
    "predictions.max_new_tokens": 48,
    "merged.gate": {"scores": {}, "gains": {"bleu-4": -100.0}},
}


def command(project: Project) -> list[str]:
    return shlex.split(YAML(typ="safe").load(project.folder / "dvc.yaml")["stages"]["adapter"]["cmd"])


@pytest.mark.parametrize("kind", [{}, FULL])
def test_two_processes_reach_the_loss_of_one_whatever_is_shared_out(tmp_path, kind):
    project, losses, steps = Project(tmp_path / "xinglin"), [], []
    project.dvc("repro", "split", "base")
    for processes, zero, kept in ((1, None, True), (2, None, True), (2, 2, True), (2, 3, True), (2, 3, False)):
        devices = {"adapter.gpus": processes, "adapter.deepspeed": zero, "adapter.disable_gradient_checkpointing": kept}
        project.set(SHORT | kind | devices | {"adapter.bf16": False})
        out = project.run(*command(project)).stdout
        steps.append(re.search(r"adapter: dialogues of up to 1024 tokens, (\d+) at once, (\d+) times a step", out).groups())
        losses.append(json.loads((project.folder / "plots" / "loss" / "training.json").read_text())["best_validation_loss"])
    assert steps == [("4", "1")] + [("2", "1")] * 4
    assert losses[1:] == pytest.approx(losses[:1] * 4, rel=0.01)


def test_two_machines_without_a_shared_disk_reach_the_loss_of_one(tmp_path):
    first, second = (Project(tmp_path / name / "xinglin") for name in ("first", "second"))
    losses = []
    for project in (first, second):
        project.dvc("repro", "split", "base")
    for machines, zero in ((1, None), (2, None), (2, 3)):
        port = str(free_port())
        for project in (first, second):
            project.set(SHORT | {"adapter.nodes": machines, "adapter.deepspeed": zero, "adapter.bf16": False})
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        joined = machines == 2 and subprocess.Popen(
            command(second), cwd=second.folder, env=second.environment | where | {"NODE_RANK": "1"}
        )
        first.run(*command(first), **where, NODE_RANK="0")
        losses.append(json.loads((first.folder / "plots" / "loss" / "training.json").read_text())["last_validation_loss"])
        assert not joined or joined.wait(60) == 0
    assert losses[1:] == pytest.approx(losses[:1] * 2, rel=0.01)
    assert not (second.folder / "models" / "adapter").exists()


def test_a_dead_worker_ends_the_stage_with_the_reason_and_leaves_no_process(tmp_path):
    project = Project(tmp_path / "xinglin")
    project.dvc("repro", "split", "base")
    project.set(SHORT | {"adapter.gpus": 2, "adapter.max_steps": 400})
    log, said = project.folder / "logs" / "adapter.log", tmp_path / "said.txt"
    with said.open("wb") as output:
        stage = subprocess.Popen(command(project), cwd=project.folder, stdout=output, stderr=output)
    while not log.exists() or "'loss'" not in log.read_text(errors="replace"):
        assert stage.poll() is None, said.read_text()[-2000:]
        time.sleep(0.5)
    workers = [
        p
        for p in psutil.Process(stage.pid).children(recursive=True)
        if "xinglin.training.llamafactory" in " ".join(p.cmdline()) and not p.children()
    ]
    workers[-1].kill()
    assert stage.wait(90) == 1
    text = said.read_text(errors="replace")
    assert (
        "SIGKILL" in text
        and "ended with status 1: the reason stands above, and in logs/adapter.log" in text.strip().splitlines()[-1]
    )
    assert running_in(project.folder) == [] and not (project.folder / "models" / "adapter").exists()


@pytest.mark.parametrize("changes", [{"adapter.neat_packing": True, "adapter.batch": "fixed"}, {"adapter.quantization_bit": 4}])
def test_packs_and_a_base_in_4_bit_are_learnt_from(tmp_path, changes):
    project = Project(tmp_path / "xinglin")
    project.dvc("repro", "split", "base")
    project.set(SHORT | changes)
    project.run(*command(project))
    losses = [
        float(line.split(",")[2])
        for line in (project.folder / "plots" / "loss" / "validation.csv").read_text().splitlines()[1:]
    ]
    assert losses[-1] < losses[0] < 6 and (project.folder / "models" / "adapter" / "adapter_model.safetensors").exists()


def test_a_model_tuned_in_every_weight_goes_through_the_whole_pipeline(tmp_path):
    project = Project(tmp_path / "xinglin")
    project.set(SHORT | FULL | ANSWERED)
    project.dvc("repro")
    assert {file.name for file in (project.folder / "models" / "adapter").iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    base, tuned = (
        (project.folder / "data" / "predictions" / f"{name}.jsonl").read_text().splitlines() for name in ("base", "tuned")
    )
    assert len(base) == len(tuned) == 12 and base != tuned
    merged = project.folder / "models" / "merged"
    parity, config = (json.loads((merged / name).read_text()) for name in ("parity.json", "config.json"))
    assert 0 < parity["mean"] <= parity["tolerance"] and config["dtype"] == "bfloat16"
    assert "全参数微调" in (merged / "README.md").read_text(encoding="utf-8")
