"""Whether the GPU profiles' training costs quality: the embedded base trained in several ways, for equal epochs, several seeds.

Usage: python -m benchmarks.quality FOLDER --data toyhom_internal_medicine.huatuo.jsonl [--out benchmarks/results/quality.json]
       (FOLDER keeps what is done for the next call; --seeds 1 --dialogues 300 tries it on a CPU, where nothing is compiled)

The loss is that of the held-out val part, each dialogue read alone, not packed (LLaMA-Factory's do_eval). The scores are
those of greedy answers to questions of the test part, from one vLLM server that holds all adapters.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import yaml
from ruamel.yaml import YAML
from tqdm import tqdm

from benchmarks.gpu import card, commit, versions
from stages import adapter as trained
from tools.all_params import Params, read_params
from xinglin.bases.folder import open_base
from xinglin.cli import CommandError, run_command
from xinglin.files import fingerprint, read_json, write_json
from xinglin.scoring.intervals import interval
from xinglin.scoring.scores import NAMES, table
from xinglin.scoring.settings import Metrics
from xinglin.serving import answers, server
from xinglin.serving.client import answered

ROOT = Path(__file__).parent.parent
CLI = f"{sys.prefix}/bin/llamafactory-cli"
SAME = {
    "num_train_epochs": 3.0,
    "learning_rate": 2.0e-3,
    "eval_steps": 0.2,
    "early_stopping_steps": None,
    "gradient_accumulation_steps": 1,
}
PACKED = {
    "cutoff_len": 1024,
    "neat_packing": True,
    "enable_liger_kernel": True,
    "torch_compile": True,
    "batch": "auto",
    "disable_gradient_checkpointing": "auto",
}
SHOWN = ("bleu-4", "rouge-l")
PLAIN = "16 dialogues a step, padded"
WAYS: dict[str, dict] = {  # changes of the adapter section
    PLAIN: {"cutoff_len": 1024, "per_device_train_batch_size": 16},
    "nearly as many in 3 packs of 1,024": PACKED | {"per_device_train_batch_size": 3},
    "three times those: 9 packs": PACKED | {"per_device_train_batch_size": 9},
    "the same, learning rate × 2": PACKED | {"per_device_train_batch_size": 9, "learning_rate": 4.0e-3},
    "the profiles' 8 packs of 2,048": PACKED | {"cutoff_len": 2048, "per_device_train_batch_size": 8},
    "those, learning rate × 2": PACKED | {"cutoff_len": 2048, "per_device_train_batch_size": 8, "learning_rate": 4.0e-3},
}


def run(command: list[str], folder: Path, log: str) -> None:
    """Run a command in `folder`, its output in the file `log` there; stop if it fails."""
    with (folder / log).open("wb") as output:
        done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=output, stderr=output)
    if done.returncode:
        said = (folder / log).read_text(encoding="utf-8", errors="replace").split("\n")
        raise CommandError(
            f"{folder / log}: ended with status {done.returncode}: "
            f"{next((line for line in reversed(said) if line.strip()), 'no word')}"
        )


def machine() -> dict:
    """Return what a result depends on beside its settings."""
    return {"card": card(), "commit": commit(), "versions": versions()}


def stage(name: str, folder: Path, **paths: Path) -> None:
    """Run a stage of the pipeline in `folder`, with the parameters there."""
    words = [word for key, value in paths.items() for word in (f"--{key}", str(value))]
    run([sys.executable, "-m", f"stages.{name}", *words], folder, f"{name}.log")


def write_params(folder: Path, **sections: dict) -> Params:
    """Write the repository's params.yaml with these changes into `folder`, and return it checked."""
    folder.mkdir(parents=True, exist_ok=True)
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    for section, changes in sections.items():
        values[section] |= changes
    YAML().dump(values, folder / "params.yaml")
    return read_params(folder / "params.yaml")


def make_data(folder: Path, data: Path, dialogues: int | None) -> None:
    """Convert and split `data` as the pipeline does."""
    write_params(folder, raw={"source": "path", "path": str(data)}, converted={"max_dialogues": dialogues})
    stage(
        "base",
        folder,
        tiny=ROOT / "models" / "tiny",
        out=folder / "base.json",
        files=folder / "base_files.json",
        tokenizer=folder / "tokenizer",
        check=folder / "check.json",
    )
    stage("raw", folder, sample=ROOT / "data" / "sample" / "dialogues.jsonl", out=folder / "raw")
    stage("converted", folder, raw=folder / "raw", out=folder / "converted")
    stage("split", folder, converted=folder / "converted", out=folder / "split")


def train(folder: Path, name: str, seed: int) -> tuple[Path, float]:
    """Return the adapter's folder and the loss of val, in nats a token."""
    settings = SAME | WAYS[name] | {"seed": seed}
    here = folder / fingerprint(settings, folder / "split")
    write_params(here, adapter=settings)
    if not (here / "adapter").exists():
        write_json(here / "made.json", machine())
        stage(
            "adapter",
            here,
            base=folder / "base.json",
            split=folder / "split",
            template=ROOT / "templates" / "train.yaml",
            zero=ROOT / "templates" / "zero",
            tokenizer=folder / "tokenizer",
            out=here / "adapter",
            plots=here / "loss",
        )
    if not (here / "eval" / "eval_results.json").exists():
        config = {
            "model_name_or_path": str(ROOT / "models" / "tiny"),
            "adapter_name_or_path": str(here / "adapter"),
            "stage": "sft",
            "do_eval": True,
            "finetuning_type": "lora",
            "eval_dataset": "val",
            "dataset_dir": str(folder / "split"),
            "template": "qwen",
            "enable_thinking": False,
            "cutoff_len": 1024,
            "per_device_eval_batch_size": 1,
            "bf16": trained.on_gpu(),
            "use_cpu": not trained.on_gpu(),
            "report_to": "none",
            "output_dir": str(here / "eval"),
        }
        (here / "eval.yaml").write_text(yaml.safe_dump(config))
        run([CLI, "train", str(here / "eval.yaml")], here, "eval.log")
    return here / "adapter", json.loads((here / "eval" / "eval_results.json").read_text())["eval_loss"]


def scores(folder: Path, adapters: list[Path], questions: int, memory: float) -> list[np.ndarray]:
    """Return each adapter's scores [questions, NAMES] in percent."""
    every = write_params(folder, predictions={"concurrency": 256, "gpu_memory_utilization": memory})
    params = every.predictions
    asked = answers.samples(folder / "split" / "test.jsonl", questions)
    named = {adapter.parent.name: adapter for adapter in adapters}
    launch = server.vllm(
        open_base(read_json(folder / "base.json"), folder / "tokenizer"),
        folder / "vllm.log",
        trained.on_gpu(),
        served_model_name="base",
        generation_config="vllm",
        dtype="bfloat16" if trained.on_gpu() else "float32",
        max_model_len=params.max_model_len,
        enable_lora="",
        max_lora_rank=answers.lora_rank(read_params().adapter.lora_rank),
        **server.device_options(params),
    )
    launch.line.extend(["--lora-modules", *(f"{name}={adapter}" for name, adapter in named.items())])
    with server.serving(launch) as [url]:
        for name in named:
            answers.answer_all([url], name, asked, folder / f"{name}.jsonl", params, every.decoding)
    given = [answered(folder / f"{name}.jsonl") for name in named]
    return [table([rows[one["id"]] for one in asked], name)[:, : len(NAMES)] for name, rows in zip(named, given, strict=True)]


def compared(losses: dict[str, list[float]], scored: dict[str, list[np.ndarray]], metrics: Metrics) -> dict[str, dict]:
    """Return each way's losses and scores by seed, and its scores less the plain way's, with 95 % intervals over questions."""
    means = {name: np.mean(each, axis=0) for name, each in scored.items()}
    found = {}
    for name, each in scored.items():
        less = means[name] - means[PLAIN]
        gains = [
            {"mean": round(float(mean), 4)} | band for mean, band in zip(less.mean(0), interval(less, metrics), strict=True)
        ]
        found[name] = {
            "losses": losses[name],
            "scores": {score: [round(float(one[:, n].mean()), 4) for one in each] for n, score in enumerate(NAMES)},
            "less_plain": dict(zip(NAMES, gains, strict=True)),
        }
    return found


def show(ways: dict[str, dict]) -> str:
    """Return a Markdown table."""
    lines = ["| | loss | BLEU-4 | ROUGE-L | less plain, BLEU-4 | ROUGE-L |", "|---" * 6 + "|"]
    for name, row in ways.items():
        cells = [", ".join(f"{loss:.4f}" for loss in row["losses"])]
        cells += [", ".join(f"{mean:.2f}" for mean in row["scores"][score]) for score in SHOWN]
        cells += ["{mean:+.2f} [{low:+.2f}, {high:+.2f}]".format(**row["less_plain"][score]) for score in SHOWN]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--dialogues", type=int, help="of the data; all of them")
    parser.add_argument("--questions", type=int, default=500, help="that each adapter answers")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 4), help="trainings at once")
    parser.add_argument("--memory", type=float, default=0.9, help="the share of the GPU's that vLLM takes")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = args.folder.resolve()
    if not (folder / "split").exists():
        make_data(folder, args.data.resolve(), args.dialogues)
    runs = [(folder, name, seed) for name in WAYS for seed in args.seeds]
    with ThreadPoolExecutor(args.jobs) as pool:
        trained_ones = list(tqdm(pool.map(train, *zip(*runs, strict=True)), total=len(runs), desc="trainings", disable=None))
    given = scores(folder, [adapter for adapter, _ in trained_ones], args.questions, args.memory)
    losses: dict[str, list[float]] = {name: [] for name in WAYS}
    scored: dict[str, list[np.ndarray]] = {name: [] for name in WAYS}
    for (_, name, _), (_, loss), one in zip(runs, trained_ones, given, strict=True):
        losses[name].append(loss)
        scored[name].append(one)
    ways = compared(losses, scored, read_params().metrics)
    print(show(ways))
    if args.out:
        for name, row in ways.items():
            row["trained"] = [
                read_json(adapter.parent / "made.json")
                for (_, way, _), (adapter, _) in zip(runs, trained_ones, strict=True)
                if way == name
            ]
        rows = read_json(folder / "split" / "report.json")["rows"]
        write_json(
            args.out, {"answered": machine(), "rows": rows, "questions": args.questions, "seeds": args.seeds, "ways": ways}
        )


if __name__ == "__main__":
    run_command(main)
