"""The whole chain on bases with real vocabularies and random weights: which are read, trained, merged and served correctly.

Usage: python -m benchmarks.chain FOLDER [--bases qwen2.5 deepseek-r1-qwen:1.5b:deepseek-r1-1.5b …] [--out FOLDER/seen.json]

A base is NAME[:SIZE[:PROFILE]], of benchmarks.bases and of profiles/; `embedded` is models/tiny as params.yaml has it. Each
runs in a copy of this checkout: every stage's command of dvc.yaml (a GPU host may lack DVC), then `make serve` and
`make serve-check`. FOLDER keeps the copies and their logs; random weights score nothing, so the gate is open.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from benchmarks import bases
from tools.profile import editor
from xinglin.cli import end, run_command
from xinglin.hardware import cards
from xinglin.params import load, overlay
from xinglin.serving.server import free_port

ROOT = Path(__file__).parent.parent
TEMPLATES = {
    "qwen2.5": "qwen",
    "qwen2.5-base": "qwen",
    "qwen2.5-7b": "qwen",
    "qwen3": "qwen3",
    "qwen3-2507": "qwen3_nothink",
    "deepseek-r1-qwen": "deepseekr1",
    "deepseek-r1-0528-qwen3": "deepseekr1",
    "llama3": "llama3",
    "deepseek-r1-llama": "deepseekr1",
}
STAGES = ("base", "raw", "converted", "split", "statistics", "adapter", "predictions", "metrics", "merged")
UP_SECONDS = 900


class Broken(Exception):
    """A step that ended with another status than 0: its last line."""


class Chain:
    """A copy of this checkout with a base of its own, and what was seen of it."""

    def __init__(self, spec: str, args: argparse.Namespace, gpu: str) -> None:
        self.name, self.size, self.profile = [*spec.split(":"), "", ""][:3]
        self.size = self.size or "tiny"
        self.args, self.gpu = args, gpu
        self.folder = args.folder / f"{self.name}-{self.size}" / "xinglin"
        self.seen: dict[str, Any] = {"base": self.name, "size": self.size, "template": TEMPLATES.get(self.name, "qwen")}

    def environment(self) -> dict[str, str]:
        return os.environ | ({"CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu else {})

    def run(self, *line: str) -> str:
        """Run a command in the copy, its output added to log.txt; raise Broken with its error line if it fails."""
        done = subprocess.run(
            line,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        with (self.folder.parent / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(line)}\n{done.stdout}\n")
        if done.returncode:
            lines = done.stdout.strip().splitlines()
            raise Broken(
                next((text for text in reversed(lines) if text.startswith(("error:", "FAILED"))), (lines or ["?"])[-1])
            )
        return done.stdout

    def prepare(self) -> None:
        """Copy the checkout, make the base, and set its parameters."""
        self.folder.parent.mkdir(parents=True)
        shutil.copytree(
            ROOT, self.folder, ignore=shutil.ignore_patterns(".*", "adapter", "merged", "predictions", "plots", "__pycache__")
        )
        for name in (".venv", ".venv-vllm"):
            (self.folder.parent / name).symlink_to(ROOT / name)
        if self.name == "embedded":
            return
        base = bases.make(self.name, self.args.vocabularies, self.folder.parent / "base", self.size)
        file, yaml = self.folder / "params.yaml", editor()
        params = yaml.load(file)
        if self.profile:
            overlay(load(ROOT / "profiles" / f"{self.profile}.yaml"), params, "profile")
        changes = {
            "base": {"source": "path", "path": str(base)},
            "raw": {"source": "path", "path": str(self.args.data)} if self.args.data else {"source": "sample"},
            "adapter": {
                "template": TEMPLATES[self.name],
                "mask_history": TEMPLATES[self.name] in ("qwen3", "deepseekr1"),
                "max_steps": self.args.steps,
                "max_samples": self.args.samples,
            },
            "predictions": {"max_samples": self.args.questions, **({} if self.profile else {"max_new_tokens": 32})},
            "merged": {"gate": {"gains": {"bleu-4": -100.0}}},
            "serve": {"port": free_port()},
        }
        overlay(changes, params, "benchmarks.chain")
        overlay(self.args.set, params, "--set")
        yaml.dump(params, file)

    def stage(self, stage: str) -> None:
        start = time.perf_counter()
        self.run("sh", "-c", YAML(typ="safe").load(self.folder / "dvc.yaml")["stages"][stage]["cmd"])
        self.seen.setdefault("seconds", {})[stage] = round(time.perf_counter() - start, 1)

    def serve(self) -> str:
        """Start `make serve`, check it, and end it."""
        port = YAML(typ="safe").load(self.folder / "params.yaml")["serve"]["port"]
        start = time.perf_counter()
        with (self.folder.parent / "serve.log").open("w") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "tools.serve"], cwd=self.folder, env=self.environment(), stdout=log, stderr=log
            )
        try:
            while time.perf_counter() - start < UP_SECONDS:
                if server.poll() is not None:
                    raise Broken(f"serve ended with status {server.returncode}")
                try:
                    if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).is_success:
                        break
                except httpx.TransportError:
                    time.sleep(1)
            self.seen["seconds"]["serve"] = round(time.perf_counter() - start, 1)
            return self.run(sys.executable, "-m", "tools.serve_check")
        finally:
            server.terminate()
            server.wait()

    def read(self, name: str) -> dict:
        file = self.folder / name
        return json.loads(file.read_text()) if file.is_file() else {}

    def go(self) -> dict[str, Any]:
        """Run the chain to its end or to the first thing that fails."""
        try:
            self.prepare()
            for stage in STAGES:
                self.stage(stage)
            if not self.args.no_serve:
                checked = self.serve()
                self.seen["served"] = f"{sum(line.startswith('ok') for line in checked.splitlines())} checks"
        except Broken as error:
            self.seen["broken"] = str(error)
        self.seen |= self.figures()
        print(json.dumps(self.seen, ensure_ascii=False), flush=True)
        return self.seen

    def figures(self) -> dict[str, Any]:
        check, training = self.read("models/base_check.json"), self.read("plots/loss/training.json")
        speed, parity = self.read("logs/predictions.json"), self.read("models/merged/parity.json")
        found: dict[str, Any] = {"texts": check.get("texts"), "prompts": check.get("prompts")}
        if training:
            found |= {
                "loss": training["last_validation_loss"],
                "tokens_per_second": self.read("logs/adapter.json").get("tokens_per_second"),
            }
        if speed:
            found |= {
                "answers_per_second": speed["samples_per_second"],
                "chinese": chinese(self.folder / "data" / "predictions" / "tuned.jsonl"),
            }
        return found | ({"parity": parity["mean"], "tolerance": parity["tolerance"]} if parity else {})


def chinese(file: Path) -> str:
    """Return which share of an answer's characters are Chinese, over all answers."""
    text = "".join(json.loads(line)["prediction"] for line in file.read_text(encoding="utf-8").splitlines())
    return f"{sum('一' <= letter <= '鿿' for letter in text) / max(1, len(text)):.0%}"


def table(rows: list[dict[str, Any]]) -> str:
    """Return the chains as Markdown."""
    lines = [
        "| base | template | texts read equal | prompts' ids equal | trained: loss | merged: nats | served | |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        name = row["base"] + (f", {row['size']}" if row["size"] != "tiny" else "")
        cells = [
            name,
            f"`{row['template']}`",
            row.get("texts") or "",
            row.get("prompts") or "",
            row.get("loss", ""),
            row.get("parity", ""),
            row.get("served", ""),
            row.get("broken", ""),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bases", nargs="+", default=list(TEMPLATES))
    parser.add_argument("--vocabularies", type=Path, default=bases.VOCABULARIES)
    parser.add_argument("--data", type=Path, help="a file of dialogues instead of the embedded sample")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--samples", type=int, default=64, help="dialogues that are trained on")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument(
        "--set", type=json.loads, default={}, help='more parameters, such as {"adapter": {"quantization_bit": 4}}'
    )
    parser.add_argument("--jobs", type=int, default=1, help="chains at once, each on the next GPU")
    parser.add_argument("--no-serve", action="store_true")
    parser.add_argument("--out", type=Path, help="JSON of all that was seen")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, end)  # so that a server of ours ends too
    args.folder = args.folder.resolve()
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(str(n) for n in range(len(cards()))))
    gpus = cycle(seen.split(","))
    chains = [Chain(spec, args, next(gpus)) for spec in args.bases]
    with ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(Chain.go, chains))
    if args.out:
        args.out.write_text(json.dumps(rows, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    print(table(rows))
    sys.exit(any("broken" in row for row in rows))


if __name__ == "__main__":
    run_command(main)
