"""Everything that a machine without a network needs, in one folder: the repository, wheels, the base model, DVC's cache.

Usage: make bundle [OUT=bundle] [VLLM=gpu]         here; the other machine has the same processor family and Python 3.11
       git clone bundle/xinglin.git xinglin && cd xinglin && make setup OFFLINE=$PWD/../bundle      there
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from xinglin.bases.folder import recorded
from xinglin.cli import CommandError, run_command
from xinglin.files import atomic_path, read_json

DVC = f"{sys.prefix}/bin/dvc"
PIP = "pip==26.0.1"
BASE = Path("models/base.json")


def call(*command: str | Path) -> None:
    done = subprocess.run(command)
    if done.returncode:
        raise CommandError(f"{' '.join(map(str, command[:6]))} …: ended with status {done.returncode}: the reason stands above")


def in_git(folder: Path, names: Iterable[str]) -> bool:
    """Return whether git tracks each of these files of `folder`."""
    return not subprocess.run(
        ["git", "ls-files", "--error-unmatch", *(folder / name for name in names)], capture_output=True
    ).returncode


def pack_base(out: Path) -> None:
    """Copy the base that base.json names, unless it comes with the repository, as the embedded one does."""
    if not BASE.exists():
        return
    record = read_json(BASE)
    folder = recorded(record).resolve()
    if not in_git(folder, record["files"]):
        with atomic_path(out / "base") as part:
            shutil.copytree(folder, part)


def pack(out: Path, uv: str, uv_version: str, vllm: str) -> None:
    """Write the bundle; what is not committed is no part of it."""
    if subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout:
        print("bundle: warning: what is not committed is not in it", file=sys.stderr)
    out.mkdir(parents=True, exist_ok=True)
    call("git", "bundle", "create", "--quiet", out / "xinglin.git", "HEAD", "--branches")
    wheels = out / "wheels"
    pip = [
        uv,
        "tool",
        "run",
        "--python",
        "3.11",
        "--from",
        PIP,
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(wheels),
    ]
    for wanted in ("pipeline", f"vllm-{vllm}", "export"):
        lines = Path(f"requirements/{wanted}.txt").read_text(encoding="utf-8").splitlines()
        exact = (
            out / f"{wanted}.txt"
        )  # === takes no local build such as torch 2.13.0+cpu, which pip would prefer where an index has it
        exact.write_text("\n".join(line.replace("==", "===", 1) for line in lines), encoding="utf-8")
        call(*pip, "-r", exact)
        exact.unlink()
    call(*pip, f"uv=={uv_version}")
    call(DVC, "remote", "add", "--quiet", "--local", "--force", "bundle", out / "cache")
    call(DVC, "push", "--quiet", "--remote", "bundle")
    call(DVC, "remote", "remove", "--quiet", "--local", "bundle")
    pack_base(out)
    for part in sorted(out.iterdir()):
        size = sum(file.stat().st_size for file in [part, *part.rglob("*")] if file.is_file())
        print(f"bundle: {part} {size / 1e9:.2f} GB")


def unpack(bundle: Path) -> None:
    """Make the bundle's cache the remote, take from it what this commit's dvc.lock names, lay the base where base.json says."""
    call(DVC, "remote", "add", "--quiet", "--local", "--force", "--default", "bundle", bundle / "cache")
    call(DVC, "pull", "--quiet")
    if (bundle / "base").exists():
        folder = Path(os.path.expanduser(read_json(BASE)["path"]))
        if not folder.exists():
            with atomic_path(folder) as part:
                shutil.copytree(bundle / "base", part)
    print("bundle: taken in; 'dvc repro' has nothing to do, 'make serve' works")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pack", "unpack"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--uv", default="uv", help="the program that runs pip")
    parser.add_argument("--uv-version", help="the version that the other machine's Makefile installs")
    parser.add_argument("--vllm", choices=("cpu", "gpu"), default="cpu")
    args = parser.parse_args()
    folder = args.folder.resolve()
    if args.what == "pack":
        pack(folder, args.uv, args.uv_version, args.vllm)
    elif not (folder / "wheels").is_dir():
        raise CommandError(f"{folder}: no bundle: 'make bundle' on a connected machine makes one", 2)
    else:
        unpack(folder)


if __name__ == "__main__":
    run_command(main)
