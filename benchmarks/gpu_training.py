"""benchmarks.gpu's training: LLaMA-Factory with the web board's settings, the profile's, and what was tried beside them.

Timed from step to step after the first third, `start_seconds` to the third step; real tokens count, those of the dialogues,
not of the padding.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import yaml

from benchmarks.synthetic import SHAPES
from stages import adapter as trained
from xinglin.bases.shape import linear_layers
from xinglin.files import read_jsonl, remove
from xinglin.training.memory import CONTEXT, plan
from xinglin.training.settings import Adapter

ROOT = Path(__file__).parent.parent
BOARD = {  # what LLaMA-Factory's web board sets unless told otherwise
    "cutoff_len": 2048,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 8,
    "learning_rate": 5e-5,
    "neat_packing": False,
    "enable_liger_kernel": False,
    "torch_compile": False,
    "disable_gradient_checkpointing": False,
    "batch": "fixed",
}
TRIED: dict[str, dict] = {  # changes of the profile's adapter section
    "the web board's settings": BOARD,
    "packed, by LLaMA-Factory alone": {"torch_compile": False},
    "ours, not compiled": {"torch_compile": False},
    "ours": {},
    "ours, 4 bit": {"quantization_bit": 4},
}
CARDS = (8, 12, 16, 24, 32, 48, 80, 140)  # GiB
METHODS: dict[str, dict] = {"LoRA": {}, "QLoRA": {"quantization_bit": 4}, "every weight": {"finetuning_type": "full"}}
SHARED: dict[str, dict] = {"": {}, ", ZeRO-2": {"deepspeed": 2}, ", ZeRO-3": {"deepspeed": 3}}
Rows = Iterator[tuple[str, Callable[[], dict]]]
LOGGED = 3  # steps; each look at the loss makes the GPU wait
ALONE = [
    "the web board's settings",
    "packed, by LLaMA-Factory alone",
]  # run by llamafactory-cli, without xinglin/training/llamafactory.py


def used_memory() -> float:
    """Return the used memory in GB of the GPU that has most in use, of those this process may use; 0 without a GPU."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", *([f"--id={seen}"] if seen else [])]
    try:
        used = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        return max(map(int, used.split())) * (1 << 20) / 1e9
    except (OSError, subprocess.CalledProcessError):
        return 0.0


def matrix_rate() -> float:
    """Return the FLOP/s of an 8192³ bfloat16 product, the ceiling that utilisation is measured against."""
    import torch

    if not torch.cuda.is_available():
        return float("nan")
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for count in (3, 20):
        begin.record()
        for _ in range(count):
            a @ b
        end.record()
    torch.cuda.synchronize()
    return 2 * 8192**3 * 20 / (begin.elapsed_time(end) / 1000)


def multiplied(size: str) -> int:
    """Return the parameters that a token is multiplied with: the linear layers and the output layer."""
    shape = SHAPES[size]
    return shape["num_hidden_layers"] * sum(a * b for a, b in linear_layers(shape)) + shape["vocab_size"] * shape["hidden_size"]


def token_counts(base: Path, split: Path, template: str) -> list[int]:
    """Return the tokens of each training dialogue, as LLaMA-Factory encodes it."""
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    encode = get_template_and_fix_tokenizer(tokenizer, DataArguments(template=template, enable_thinking=False)).encode_multiturn
    counts = []
    for row in read_jsonl(split / "train.jsonl"):
        turns = [*row["history"], (row["instruction"], row["output"])]
        messages = [
            {"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        counts.append(sum(len(ids) for pair in encode(tokenizer, messages) for ids in pair))
    return counts


def train(name: str, chosen: Adapter, folder: Path, steps: int, card: float | None = None, validated: bool = False) -> dict:
    """Train for `steps` through LLaMA-Factory, configured as the adapter stage does, and return rates.

    `card`: the bytes of a smaller card, whose memory torch then keeps to. `validated`: the loss of val is taken before the
    first step, when layers are compiled, and after the last.
    """
    base, split, run = folder / "base", folder / "split", folder / "runs" / "-".join(re.findall("[A-Za-z0-9]+", name))
    template = trained.read_template(ROOT / "templates" / "train.yaml", ROOT / "templates" / "zero", chosen)
    chosen = chosen.model_copy(update={"max_steps": steps, "max_samples": None})
    have, _ = trained.memory(chosen.gpus)
    cut = plan(
        json.loads((base / "config.json").read_text()),
        chosen,
        card or have,
        trained.in_bf16(chosen),
        trained.with_liger(chosen),
    )
    if not cut:
        return {"fits": False}
    remove(run)
    run.mkdir(parents=True)
    config = trained.training_config(template, chosen, cut, base, split, run) | {
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "early_stopping_steps": None,
        "eval_dataset": None,
        "plot_loss": False,
        "logging_steps": LOGGED,
        "metric_for_best_model": None,
    }
    if validated:
        config |= {"eval_strategy": "steps", "eval_on_start": True, "eval_steps": steps, "eval_dataset": "val"}
    (run / "train.yaml").write_text(yaml.safe_dump(config))
    command, environment = trained.launched(chosen, run / "train.yaml")
    if card:
        environment["PYTORCH_CUDA_ALLOC_CONF"] = f"per_process_memory_fraction:{(card - CONTEXT) / have:.4f}"
    command = [f"{sys.prefix}/bin/llamafactory-cli", "train", str(run / "train.yaml")] if name in ALONE else command
    log, peak, seen, loss, idle = run / "log.txt", 0.0, {}, 0.0, used_memory()
    start, looked = time.perf_counter(), 0.0
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | environment, cwd=ROOT)
    while process.poll() is None:
        time.sleep(0.02)
        notes = (run / "trainer_log.jsonl").read_text().splitlines() if (run / "trainer_log.jsonl").exists() else []
        for line in notes[len(seen) :]:
            if '"loss"' in line and line.endswith("}"):
                seen[json.loads(line)["current_steps"]], loss = time.perf_counter(), json.loads(line)["loss"]
        if time.perf_counter() - looked > 1:
            looked, peak = time.perf_counter(), max(peak, used_memory() - idle)
    text = log.read_text(errors="replace")
    if process.returncode or len(seen) < 3:
        print(f"{name}: failed\n{text[-1500:]}", flush=True)
        return {"failed": True}
    examples = int(text.split("Num examples = ")[1].split()[0].replace(",", ""))
    first, last = sorted(seen)[len(seen) // 3], max(seen)
    a_step = (seen[last] - seen[first]) / (last - first)
    counts = token_counts(base, split, chosen.template)
    rows_a_step = cut.batch * cut.accumulation * chosen.gpus
    tokens = sum(min(n, chosen.cutoff_len) for n in counts) / examples * rows_a_step
    return {
        "tokens_per_second": tokens / a_step,
        "seconds_a_step": a_step,
        "batch": cut.batch,
        "accumulation": cut.accumulation,
        "checkpointing": cut.checkpointing,
        "filled": tokens / (rows_a_step * chosen.cutoff_len) if chosen.neat_packing else None,
        "peak_gb": peak,
        "estimated_gb": cut.bytes / 1e9,
        "start_seconds": seen[min(seen)] - start,
        "last_loss": loss,
        **(validation(run, split) if validated else {}),
    }


def validation(run: Path, split: Path) -> dict:
    """Return the loss of val (nats a token) after the last step of `run`, and how many of its dialogues were read a second."""
    notes = json.loads((run / "trainer_state.json").read_text())["log_history"]
    last = next(note for note in reversed(notes) if "eval_loss" in note)
    rows = (split / "val.jsonl").read_bytes().count(b"\n")
    return {"validation_loss": last["eval_loss"], "validation_dialogues_per_second": rows / last["eval_runtime"]}


def train_all(profile: Adapter, size: str, folder: Path, steps: int) -> Rows:
    """Yield a way to train and a function that returns its rates, with the share of the card's matrix rate."""

    def measured(name: str, changes: dict) -> dict:
        row = train(name, profile.model_copy(update=changes), folder, 9 if changes is BOARD else steps)
        if "tokens_per_second" in row:  # forward and backward to the activations: the frozen weights need no gradient
            row["matrix_flops_per_second"] = matrix_rate()
            row["utilisation"] = 4 * multiplied(size) * row["tokens_per_second"] / row["matrix_flops_per_second"]
        return row

    for name, changes in TRIED.items():
        yield name, partial(measured, name, changes)


def scale_all(profile: Adapter, folder: Path, steps: int) -> Rows:
    """Yield a way to train on one GPU or all, each with as much a step as one alone, and a function that returns its rates."""
    alone, count = profile.gradient_accumulation_steps, trained.gpus_here()
    ways: dict[str, dict] = {"1 GPU": {}}
    if count > 1:
        ways |= {
            f"{count} GPUs{name}": {"gpus": count, "gradient_accumulation_steps": alone * count, **changes}
            for name, changes in SHARED.items()
        }
    for method in ("LoRA", "every weight"):
        for way, changes in ways.items():
            name = f"{method}, {way}"
            yield name, partial(train, name, profile.model_copy(update=METHODS[method] | changes), folder, steps)


def fit_all(profile: Adapter, folder: Path) -> Rows:
    """Yield a method and a function that returns the smallest card that the estimate accepts, and the rates in its memory."""

    def smallest(method: str, changes: dict, validated: bool = False) -> dict:
        rows = (
            train(f"{method}, {size} GB", profile.model_copy(update=changes), folder, 12, float(size << 30), validated)
            for size in CARDS
        )
        return next(
            ({"card_gib": size} | row for size, row in zip(CARDS, rows, strict=True) if row != {"fits": False}), {"fits": False}
        )

    for method, changes in METHODS.items():
        yield method, partial(smallest, method, changes)
    yield "LoRA, validated", partial(smallest, "LoRA, validated", {}, True)
