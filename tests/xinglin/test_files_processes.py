import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from xinglin import cli, files, hardware

POOL = """
import sys, time
from xinglin.cli import start
from xinglin.processes import workers
sys.argv = ["stage"]
start("")
with workers() as pool:
    for _ in range(50):
        pool.apply_async(time.sleep, (60,))
    print("begun", flush=True)
    time.sleep(60)
"""


KILLED = """
import os, signal, sys
from xinglin.cli import start
from xinglin.processes import workers
sys.argv = ["stage"]
start("")
with workers() as pool:
    pool.apply_async(os.kill, (0, 0)).get()
    print(len(pool.map(abs, range(99))), flush=True)
    pool.apply(os._exit, (7,))
"""


def test_a_worker_that_dies_ends_the_stage_with_a_line():
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.stdout == "99\n" and done.returncode == 1
    assert done.stderr.startswith("error: a worker ended with status 7;") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("death", [signal.SIGTERM, signal.SIGKILL])
def test_a_stage_that_is_killed_ends_at_once_with_all_its_workers(death):
    with subprocess.Popen([sys.executable, "-c", POOL], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"begun\n"
        children = psutil.Process(process.pid).children()
        assert len(children) == psutil.cpu_count()
        process.send_signal(death)
        assert process.wait(10) == (143 if death == signal.SIGTERM else -9)
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_a_process_whose_parent_died_before_it_asked_to_die_with_it_ends():
    orphan = (
        "import os, time; from xinglin.cli import die_with_parent; parent = os.getpid(); os.fork() or (time.sleep(1), "
        "die_with_parent(parent), print('alive'))"
    )
    done = subprocess.run([sys.executable, "-c", orphan], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("", "")


def test_an_output_is_put_in_its_place_whole_or_not_at_all(tmp_path):
    (tmp_path / "out").write_text("before")
    with pytest.raises(ValueError, match="half"), files.atomic_path(tmp_path / "out") as new:
        new.write_text("ha")
        raise ValueError("half")
    assert (tmp_path / "out").read_text() == "before" and [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_was_there_stays_until_the_new_one_is_in_its_place(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()

    def filled(name):
        with files.atomic_path(tmp_path / "out") as new:
            new.mkdir()
            (new / name).touch()

    with monkeypatch.context() as patch:
        rename = Path.rename

        def interrupted(path, target):
            if path.name == ".out.part":
                raise KeyboardInterrupt
            return rename(path, target)

        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            filled("new")
    assert [str(file.relative_to(tmp_path)) for file in sorted(tmp_path.rglob("*"))] == ["out", "out/old"]
    filled("new")
    assert [str(file.relative_to(tmp_path)) for file in sorted(tmp_path.rglob("*"))] == ["out", "out/new"]


def test_an_error_is_one_line_and_a_status(capsys):
    lines = {
        cli.CommandError("raw.path: no such file", 2): (2, "raw.path: no such file"),
        OSError(28, "No space left on device", "data/raw"): (
            1,
            "data/raw: No space left on device; nothing was half-written, run it again when that is mended",
        ),
        KeyboardInterrupt(): (130, "interrupted; what was finished is kept, run it again to go on"),
    }
    for error, (status, line) in lines.items():

        def main(error=error):
            raise error

        with pytest.raises(SystemExit) as end:
            cli.run_command(main)
        assert end.value.code == status and capsys.readouterr().err == f"error: {line}\n"
    with pytest.raises(KeyError), cli.errors_as_lines():
        raise KeyError("x")


def test_only_the_gpus_that_a_process_may_use_count(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("""#!/bin/sh
case "$*" in
*memory.free*) echo 512;;
*--id=1) echo 81559;;
*--id=*) echo "No devices were found" >&2; exit 6;;
*) printf '4096\\n81559\\n';;
esac
""")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert hardware.cards() == [4096 << 20, 81559 << 20] and hardware.memory(1) == (4096 << 20, "the GPU")
    assert hardware.cards("free") == [512 << 20]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert hardware.cards() == [81559 << 20] and hardware.memory() == (81559 << 20, "the GPU")
    for hidden in ("", "9"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert hardware.cards() == [] and hardware.memory()[1] == "the machine"


def test_unfinished_work_of_the_setting_before_stays_and_what_is_in_use(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, key in enumerate(("a", "b", "c", "d")):
        folder = files.work_folder("adapter", key)
        os.utime(folder, (number, number))
        if key != "b":
            files.owner(folder).write_text(str(1 << 30))  # no process has such a number
    files.work_folder("adapter", "e")
    assert {folder.name for folder in (tmp_path / ".work" / "adapter").iterdir()} == {"b", "b.pid", "d", "d.pid", "e", "e.pid"}


def test_experiments_in_dvcs_copies_share_the_unfinished_work_of_the_checkout():
    assert files.work_root(Path("/home/me/xinglin")) == Path(".work")
    assert files.work_root(Path("/home/me/xinglin/.dvc/tmp/exps/tmp1")) == Path("/home/me/xinglin/.work")


def test_only_what_takes_hours_is_shared(tmp_path, monkeypatch):
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr(files, "WORK", tmp_path / ".work")
    assert files.work_folder("adapter", "a").is_relative_to(tmp_path / ".work")
    assert files.work_folder("base", "a").resolve().is_relative_to(tmp_path / "copy")
