"""The pipeline killed at random moments, run on a full disk, and its parameters changed while it runs: always the same end."""

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from tests.conftest import Project

pytestmark = pytest.mark.soak
SHORT = {
    "adapter.max_steps": 6,
    "adapter.max_samples": 24,
    "adapter.eval_steps": 2,
    "predictions.max_samples": 12,
    "predictions.max_new_tokens": 48,
    "merged.gate": {"scores": {}, "gains": {}},
}
KILLS = [
    "raw",
    "base",
    "converted",
    "split",
    "statistics",
    *["adapter"] * 5,
    *["predictions"] * 5,
    "metrics",
    *["merged"] * 4,
]  # in order of work
LIKE = ("raw", "base", "converted", "split")  # the same bytes in every run; the others hold timings


@pytest.fixture
def short(tmp_path, monkeypatch):
    """A copy of the project whose pipeline takes a few minutes, with a folder of its own for temporary files."""
    project = Project(tmp_path / "xinglin")
    project.set(SHORT)
    project.run("git", "rm", "-qr", "dvc.lock", "metrics.json", "plots")  # so that no stage is already done
    project.run("git", "commit", "-qam", "Shortened")
    monkeypatch.setenv("TMPDIR", temporary := tempfile.mkdtemp(dir="/tmp"))
    yield project
    shutil.rmtree(temporary)


def start(project: Project, *stages: str) -> tuple[subprocess.Popen, Path]:
    log = project.folder.parent / "repro.txt"
    dvc = str(project.folder.parent / ".venv" / "bin" / "dvc")
    environment = project.environment | {"PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [dvc, "repro", *stages], cwd=project.folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    return process, log


def began(log: Path) -> list[str]:
    return re.findall("Running stage '(.*)'", log.read_text(errors="replace"))


def finished(project: Project) -> set[str]:
    lock = project.folder / "dvc.lock"
    if lock.exists() and not lock.stat().st_size:  # DVC was killed while it wrote it: what the README says to do
        lock.unlink()
    return set(YAML(typ="safe").load(lock)["stages"]) if lock.exists() else set()


def wait_for_stage(process: subprocess.Popen, log: Path, stage: str) -> bool:
    """Return whether the stage has begun, rather than DVC ended without it."""
    while stage not in began(log):
        if process.poll() is not None:
            return False
        time.sleep(0.05)
    return True


def running_in(folder: Path) -> list[str]:
    """Return the command lines of the processes that work in `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(" ".join(process.cmdline())[:200])
        except (psutil.Error, OSError):
            continue
    return found


def left_over(project: Project) -> list[str]:
    """Return what a run must not leave: processes, half-written files, temporary files."""
    parts = [str(file) for file in project.folder.rglob(".*.part") if ".dvc" not in file.parts]
    temporary = [str(file) for file in Path(os.environ["TMPDIR"]).glob("xinglin-*")]
    return running_in(project.folder) + parts + temporary


def ended(project: Project) -> dict:
    """Return what must be equal at the end: hashes, scores, losses."""
    stages = YAML(typ="safe").load(project.folder / "dvc.lock")["stages"]
    metrics = json.loads((project.folder / "metrics.json").read_text())
    return {name: stages[name]["outs"] for name in LIKE} | {
        "base": metrics["base"],
        "tuned": metrics["tuned"],
        "losses": [metrics["training"][key] for key in ("best_validation_loss", "last_validation_loss")],
        "merged": (project.folder / "models" / "merged" / "model.safetensors").read_bytes(),
    }


def test_twenty_kills_at_random_moments_reach_the_end_of_an_undisturbed_run(short, tmp_path, capsys):
    draw, table = random.Random(20), []
    process, log = start(short)
    begins: dict[str, float] = {}
    while process.poll() is None:
        for name in began(log):
            begins.setdefault(name, time.monotonic())
        time.sleep(0.05)
    assert process.returncode == 0, log.read_text()[-3000:]
    durations = {
        name: later - begin
        for (name, begin), later in zip(begins.items(), [*list(begins.values())[1:], time.monotonic()], strict=True)
    }
    undisturbed = ended(short)

    short.run(
        "rm",
        "-rf",
        "dvc.lock",
        ".dvc/cache",
        ".work",
        "data/raw",
        "data/converted",
        "data/split",
        "data/predictions",
        "models/base.json",
        "models/adapter",
        "models/merged",
        "metrics.json",
        "plots",
    )
    quota = Counter(KILLS)
    while len(table) < len(KILLS):
        done = finished(short)
        stage = next((name for name in dict.fromkeys(KILLS) if name not in done), "merged")
        if not quota[stage] and stage != "merged":  # those that a stage had left over, since it was quicker, are merged's
            short.dvc("repro", stage)
            continue
        moment = draw.uniform(0, durations[stage])
        process, log = start(short, *(("--force", "--single-item", "merged") if stage in done else ()))
        assert wait_for_stage(process, log, stage), log.read_text()[-3000:]
        time.sleep(moment)
        process.kill()
        process.wait()
        dead = time.monotonic()
        while left_over(short) and time.monotonic() < dead + 40:
            time.sleep(0.1)
        assert not done & set(began(log)) - {"merged"}, "finished work was done again"
        quota[stage] -= 1
        table.append(f"| {len(table) + 1} | {stage} | {moment:.1f} | {time.monotonic() - dead:.1f} |")
        assert left_over(short) == [], table
    process, log = start(short)
    assert process.wait() == 0, log.read_text()[-3000:]
    with capsys.disabled():
        print("\n| kill | in | s after its begin | s until nothing was left |\n|---|---|---|---|", *table, sep="\n")
    assert ended(short) == undisturbed
    assert left_over(short) == []


def test_a_full_disk_in_each_stage_is_told_and_nothing_is_half_written(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("this needs the right to mount a small disk")
    try:
        project = Project(disk / "xinglin")
        project.set(SHORT)
        for name, stage in YAML(typ="safe").load(project.folder / "dvc.yaml")["stages"].items():
            fill = disk / "fill"
            with fill.open("wb") as file:
                try:
                    while True:
                        file.write(bytes(1 << 16))
                        file.flush()
                except OSError:
                    pass
            done = project.run(*shlex.split(stage["cmd"]), expect=None, TMPDIR=str(disk))
            outs = [
                next(iter(out)) if isinstance(out, dict) else out
                for kind in ("outs", "metrics", "plots")
                for out in stage.get(kind, [])
            ]
            assert done.returncode != 0 and ("No space left" in done.stdout or "GB of disk" in done.stdout), (
                name,
                done.stdout[-2000:],
            )
            assert done.stdout.strip().splitlines()[-1].startswith("error: "), (name, done.stdout[-2000:])
            assert name == "statistics" or not any(
                (project.folder / out).exists() for out in outs if "plots" not in out and out != "metrics.json"
            ), name
            assert not [file for file in project.folder.rglob(".*.part") if ".dvc" not in file.parts], name
            fill.unlink()
            project.dvc("repro", "--single-item", name)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_parameter_that_changes_while_its_stage_runs_is_not_noted_beside_the_old_output(short):
    process, log = start(short, "adapter")
    assert wait_for_stage(process, log, "adapter")
    time.sleep(10)
    short.set({"adapter.learning_rate": 0.0007})
    assert process.wait() != 0
    assert "section adapter changed while this ran" in log.read_text()
    assert not (short.folder / "models" / "adapter").exists()
    out = short.dvc("repro", "adapter")
    assert "Running stage 'adapter'" in out and "going on from" not in out
