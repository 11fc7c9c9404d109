"""One GPU at real sizes: training, answering and serving, each beside what users have now, in one table of ratios.

Usage: python -m benchmarks.gpu FOLDER [--size 1.5b] [--parts train fit scale answer serve] [--out benchmarks/results/NAME.json]
       (FOLDER keeps the model for the next call; --size tiny tries it all on a CPU)

The model has the shape of Qwen2.5 and random weights, the dialogues HuatuoGPT's lengths: speed needs no more.
"""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.gpu_answering import answer_all
from benchmarks.gpu_serving import serve
from benchmarks.gpu_training import Rows, fit_all, scale_all, train_all
from benchmarks.synthetic import SHAPES, make_base, make_split
from stages import predictions
from tools.all_params import read_params
from xinglin.cli import CommandError, run_command
from xinglin.serving import answers, server

ROOT = Path(__file__).parent.parent
PARTS = ("train", "fit", "scale", "answer", "serve")
PROFILES = {"tiny": "qwen2.5-1.5b", "1.5b": "qwen2.5-1.5b", "7b": "qwen2.5-7b"}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "peft", "llamafactory", "liger-kernel"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    line = [str(server.vllm_python()), "-c", "from importlib.metadata import version; print(version('vllm'))"]
    found["vllm"] = subprocess.run(line, capture_output=True, text=True).stdout.strip() or "none"
    return found


def commit() -> str:
    """Return the commit of the code, with a + if it was changed since; none outside git."""
    done = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "none"


def card() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"


def ratios(rows: dict[str, dict], key: str, peer: str) -> str:
    """Return a part as a Markdown table, with `key` over that of the row `peer`, where {} is the end of the row's own name."""
    keys = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = ["| | " + " | ".join(keys) + " | × |", "|---" * (len(keys) + 2) + "|"]
    for name, row in rows.items():
        cells = [
            f"{row[k]:,.3g}"
            if isinstance(row.get(k), float) and row[k] < 100
            else f"{row[k]:,.0f}"
            if isinstance(row.get(k), float)
            else str(row.get(k, ""))
            for k in keys
        ]
        other = rows.get(peer.format(name.rpartition(", ")[2]), {})
        times = f"{row[key] / other[key]:.1f}" if key in row and key in other else ""
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {times} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SHAPES, default="1.5b")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rows", type=int, default=4096, help="training dialogues; as many are asked at half that number")
    parser.add_argument("--only", nargs="+", help="of the rows, these")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=15, help="of each load on the server")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = args.folder.resolve()
    if not (folder / "base" / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        make_split(
            ROOT / "data" / "sample" / "dialogues.jsonl",
            {"train": args.rows, "val": 512, "test": args.rows // 2},
            folder / "split",
        )
        make_base(args.size, ROOT / "models" / "tiny", folder / "base")
        predictions.write_jsonl(folder / "asked.jsonl", answers.samples(folder / "split" / "test.jsonl", None))
    profile = read_params(profile=ROOT / "profiles" / f"{PROFILES[args.size]}.yaml")
    found: dict = {"card": card(), "size": args.size, "commit": commit(), "versions": versions()}
    if args.out and args.out.exists():
        found = json.loads(args.out.read_text()) | found
    parts: dict[str, Callable[[], Rows]] = {
        "train": lambda: train_all(profile.adapter, args.size, folder, args.steps),
        "fit": lambda: fit_all(profile.adapter, folder),
        "scale": lambda: scale_all(profile.adapter, folder, args.steps),
        "answer": lambda: answer_all(profile.predictions, profile.decoding, folder),
        "serve": lambda: serve(profile.serve, folder, args.seconds),
    }
    peers = {
        "train": ("tokens_per_second", "the web board's settings"),
        "fit": ("tokens_per_second", "LoRA"),
        "scale": ("tokens_per_second", "LoRA, 1 GPU"),
        "answer": ("answers_per_second", "LLaMA-Factory's predict"),
        "serve": ("tokens_per_second", "LLaMA-Factory's API, {}"),
    }
    for part in args.parts:
        rows = found.setdefault(part, {})
        for name, measure in parts[part]():
            if args.only and name not in args.only:
                continue
            try:
                rows[name] = measure()
            except CommandError:  # of a server that did not start: the others are still worth their time
                rows[name] = {"failed": True}
            print(name, rows[name], flush=True)
            if args.out:  # at once: a rented machine may go at any time
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps(found, indent=2) + "\n")
        print(f"\n{found['card']}, {args.size}, {part}\n{ratios(found[part], *peers[part])}", flush=True)


if __name__ == "__main__":
    run_command(main)
