"""adapter: the LoRA adapter that LLaMA-Factory trains, its loss curves, what training took and whether it was enough.

Usage: stages/run adapter --base models/base.json --split data/split --template templates/train.yaml \
           --templates templates/chat --out models/adapter --plots plots/loss

A killed run resumes at its last whole checkpoint in .work/adapter/KEY, where KEY is a hash of the parameters, the
base and the data: changed ones start anew.
"""

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import yaml

from stages.common import (
    arguments,
    base_folder,
    call,
    fingerprint,
    need_memory,
    read_json,
    remove,
    whole,
    work_folder,
    write_json,
)
from stages.convergence import verdict
from stages.params import Adapter, read_params

KEPT = ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json")
TRAINING_BYTES = {True: 1.2, False: 2.4}  # memory that LoRA training takes at the least with bf16 and without, in multiples of bf16 weights


def training_config(template: dict, adapter: Adapter, base: Path, split: Path, run: Path) -> dict:
    """Return a LLaMA-Factory config: the template, the parameters over it, then the paths of this run."""
    config = template | {k: v for k, v in adapter.model_dump().items() if v is not None}
    rows = (split / "train.jsonl").read_bytes().count(b"\n")
    return config | {
        "model_name_or_path": str(base),
        "dataset_dir": str(split),
        "output_dir": str(run),
        "save_steps": adapter.eval_steps,
        "per_device_eval_batch_size": adapter.per_device_train_batch_size,
        "use_cpu": not on_gpu(),
        "bf16": in_bf16(adapter),
        "early_stopping_steps": adapter.early_stopping_steps,
        "preprocessing_num_workers": min(os.cpu_count() or 1, rows // 2000 + 1),
        "resume_from_checkpoint": last_checkpoint(run),
    }


def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def in_bf16(adapter: Adapter) -> bool:
    """Say whether to train in bf16: as told, or where the GPU, or the processor if there is none, multiplies in it itself."""
    import torch

    if adapter.bf16 != "auto":
        return adapter.bf16
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def last_checkpoint(run: Path) -> str | None:
    """Return the newest whole checkpoint in `run`; torn ones, which a kill left, are deleted.

    A checkpoint's trainer_state.json is the last file that transformers writes into it.
    """
    whole_ones = []
    for folder in run.glob("checkpoint-*"):
        try:
            json.loads((folder / "trainer_state.json").read_bytes())
            whole_ones.append(folder)
        except (OSError, ValueError):
            remove(folder)
    newest = max(whole_ones, key=lambda folder: int(folder.name.split("-")[1]), default=None)
    return str(newest) if newest else None


def train(config: dict, run: Path) -> None:
    """Run LLaMA-Factory on `config` in a process of its own, unless it has already come to its end in `run`."""
    done = run / "done"
    if done.exists():
        return
    file = run / "train.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    if config["resume_from_checkpoint"]:
        print(f"adapter: going on from {config['resume_from_checkpoint']}", flush=True)
    call([f"{sys.prefix}/bin/llamafactory-cli", "train", str(file)], {"HF_DATASETS_CACHE": str(run / "datasets")})
    done.touch()


def write_curves(history: list[dict], folder: Path) -> None:
    """Write training.csv and validation.csv, columns step, epoch and loss (nats a token)."""
    for name, key in (("training", "loss"), ("validation", "eval_loss")):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["step", "epoch", "loss"])
            writer.writerows([e["step"], round(e["epoch"], 4), round(e[key], 4)] for e in history if key in e)


def summary(state: dict, results: dict) -> dict:
    """Return what metrics.json says of training: steps, losses in nats a token, tokens, seconds since the last resumption, verdict."""
    training, validation = ([(e["step"], e[key]) for e in state["log_history"] if key in e] for key in ("loss", "eval_loss"))
    losses = [loss for _, loss in validation]
    return {
        "steps": state["global_step"],
        "best_step": state["best_global_step"],
        "best_validation_loss": round(min(losses), 4) if losses else None,
        "last_validation_loss": round(losses[-1], 4) if losses else None,
        "tokens": state["num_input_tokens_seen"],
        "seconds": round(results["train_runtime"], 1),
    } | verdict(training, validation)


def main() -> None:
    paths = arguments(__doc__, "base", "split", "template", "templates", "out", "plots")
    adapter = read_params().adapter
    record = read_json(paths.base)
    base = base_folder(record)
    need_memory(record, TRAINING_BYTES[in_bf16(adapter)], "adapter")
    template = yaml.safe_load(paths.template.read_text(encoding="utf-8"))
    key = fingerprint(adapter.model_dump(), template, record["files"], paths.split)
    run = work_folder("adapter", key)
    train(training_config(template, adapter, base, paths.split, run), run)
    state = read_json(run / "trainer_state.json")
    with whole(paths.out) as folder:
        folder.mkdir()
        for name in KEPT:
            shutil.copyfile(run / name, folder / name)
        shutil.copyfile(paths.templates / f"{adapter.template}.jinja", folder / "chat_template.jinja")
    found = summary(state, read_json(run / "train_results.json"))
    with whole(paths.plots) as folder:
        folder.mkdir()
        write_curves(state["log_history"], folder)
        write_json(folder / "training.json", found)
    print(f"adapter: {found['steps']} steps, best validation loss {found['best_validation_loss']} -> {paths.out}")
    print(f"adapter: {found['verdict']}: {found['reason']}; {found['advice']}")


if __name__ == "__main__":
    main()
