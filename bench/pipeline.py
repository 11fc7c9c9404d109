"""What DVC costs beside the work: a whole run, then a second one that has nothing to do.

Usage: make bench        (runs the pipeline anew in this checkout: minutes)

`dvc repro --force` is timed as a whole and each stage by itself, through stages/run; the rest is DVC's own share.
"""

import subprocess
import sys
import time
from pathlib import Path

from ruamel.yaml import YAML

DVC = f"{sys.prefix}/bin/dvc"


def seconds(command: list[str] | str) -> float:
    """Return the wall time of a command that must succeed; its output is thrown away."""
    start = time.perf_counter()
    subprocess.run(command, shell=isinstance(command, str), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    stages = YAML(typ="safe").load(Path("dvc.yaml"))["stages"]
    subprocess.run(["rm", "-rf", ".work"], check=True)  # so that training and answers are made anew, here and below
    whole = seconds([DVC, "repro", "--force"])
    again = seconds([DVC, "repro"])
    subprocess.run(["rm", "-rf", ".work"], check=True)
    alone = {name: seconds(stage["cmd"]) for name, stage in stages.items()}
    subprocess.run([DVC, "commit", "--force", "--quiet"], check=True)  # the stages ran behind DVC's back
    for name, took in alone.items():
        print(f"{name:14}{took:8.1f} s")
    print(f"{'all stages':14}{sum(alone.values()):8.1f} s\n{'dvc repro':14}{whole:8.1f} s\n{'again':14}{again:8.1f} s")
    print(f"DVC's own share: {max(0.0, 1 - sum(alone.values()) / whole):.1%}")


if __name__ == "__main__":
    main()
