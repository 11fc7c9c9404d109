"""What DVC costs beside the work: a whole run, then a second one that has nothing to do.

Usage: make bench        (runs the pipeline anew in this checkout, .work/adapter and .work/predictions deleted: minutes)

`dvc repro --force` is timed as a whole and each stage by itself, through stages/run; the rest is DVC's own share.
"""

import subprocess
import sys
import time
from pathlib import Path

from ruamel.yaml import YAML

from xinglin.cli import CommandError, run_command
from xinglin.files import WORK, remove

DVC = f"{sys.prefix}/bin/dvc"


def seconds(command: list[str] | str) -> float:
    """Return the wall time of a command that must succeed; its output is thrown away, its errors are shown if it fails."""
    start = time.perf_counter()
    done = subprocess.run(
        command, shell=isinstance(command, str), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    if done.returncode:
        print(done.stderr, end="", file=sys.stderr)
        raise CommandError(
            f"{command if isinstance(command, str) else ' '.join(command)}: ended with status "
            f"{done.returncode}: the reason stands above"
        )
    return time.perf_counter() - start


def forget() -> None:
    """Delete what the stages keep of trainings and answers, to make them anew; stop if a training could go on from there."""
    for run in (WORK / "adapter").glob("*"):
        if run.is_dir() and not (run / "done").exists():
            raise CommandError(
                f"{run}: a training that has not come to its end, which would be lost: end it by "
                "'dvc repro adapter', or remove the folder"
            )
    remove(WORK / "adapter")
    remove(WORK / "predictions")


def main() -> None:
    stages = YAML(typ="safe").load(Path("dvc.yaml"))["stages"]
    forget()
    whole = seconds([DVC, "repro", "--force"])
    again = seconds([DVC, "repro"])
    forget()
    alone = {name: seconds(stage["cmd"]) for name, stage in stages.items()}
    subprocess.run([DVC, "commit", "--force", "--quiet"], check=True)  # the stages ran behind DVC's back
    for name, took in alone.items():
        print(f"{name:14}{took:8.1f} s")
    print(f"{'all stages':14}{sum(alone.values()):8.1f} s\n{'dvc repro':14}{whole:8.1f} s\n{'again':14}{again:8.1f} s")
    print(f"DVC's own share: {max(0.0, 1 - sum(alone.values()) / whole):.1%}")


if __name__ == "__main__":
    run_command(main)
