"""adapter: the LoRA adapter or a model tuned in every weight, trained by LLaMA-Factory, its loss curves and a verdict on them.

Usage: stages/run adapter --base models/base.json --split data/split --template templates/train.yaml \
           --zero templates/zero --tokenizer models/tokenizer --out models/adapter --plots plots/loss

A killed run resumes at its last whole checkpoint in .work/adapter/KEY, where KEY is a hash of the parameters, the
base, the data and the training's code: changed ones start anew. The folder goes when the adapter is in its place.
"""

import csv
import json
import math
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from xinglin.bases.folder import TOKENIZER, open_base
from xinglin.bases.shape import parameters
from xinglin.cli import CommandError, run_command, start
from xinglin.files import atomic_path, drop_work, fingerprint, need_space, read_json, remove, work_folder, write_json
from xinglin.hardware import cards, memory
from xinglin.params import ParamsFile
from xinglin.processes import call
from xinglin.timings import LOGS, write_timing
from xinglin.training.convergence import verdict
from xinglin.training.memory import USABLE, BatchPlan, candidate_plans, plan, suggest_fix
from xinglin.training.settings import Adapter

CODE = Path(__file__), Path(__file__).parents[1] / "xinglin" / "training" / "llamafactory.py"
NO_CHECKPOINTS = {
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "early_stopping_steps": None,
}  # of several machines, whose disks differ
LOADERS = 4  # processes that prepare batches beside a GPU
LOSS_ALONE = {"fused_linear_cross_entropy": True, "cross_entropy": False, "rms_norm": False, "rope": False, "swiglu": False}
# DeepSpeed's reduce_scatter_tensor, warned of at each call by torch 2.13
QUIET = "ignore::FutureWarning:torch.distributed.c10d_logger"
# bytes a weight where all are trained: three checkpoints (itself, Adam's two moments), the run's model, the output, DVC's cache
DISK = 48
CUT = {
    "batch",
    "disable_gradient_checkpointing",
    "gradient_accumulation_steps",
    "per_device_train_batch_size",
}  # how a step is cut, not what it learns
OURS = {"batch", "deepspeed", "gpus", "nodes"}  # parameters that LLaMA-Factory does not know, or takes in another form


class Params(ParamsFile):
    adapter: Adapter


class Watch:
    """Shows how far a training has come, and tells once, while it runs, that its parameters were edited."""

    def __init__(self, params: Params, run: Path) -> None:
        self.params, self.log, self.told = params, run / "trainer_log.jsonl", False
        self.bar = tqdm(desc="adapter", unit=" steps", disable=None)

    def __call__(self) -> None:
        if not self.told and (section := self.params.changed()):
            self.told = True
            print(
                f"adapter: warning: section {section} of params.yaml was edited: this "
                "training is put in place only if it is set back",
                file=sys.stderr,
                flush=True,
            )
        if self.log.is_file() and (lines := self.log.read_bytes().splitlines()):
            with suppress(ValueError):  # half a line
                last = json.loads(lines[-1])
                self.bar.total, self.bar.n = last["total_steps"], last["current_steps"]
                self.bar.set_postfix_str(f"loss {last['loss']:.3f}" if last.get("loss") else "")


def read_template(file: Path, zero: Path, adapter: Adapter) -> dict:
    """Return LLaMA-Factory's YAML in `file`, with the DeepSpeed config in the folder `zero` that `adapter` asks for."""
    template = yaml.safe_load(file.read_text(encoding="utf-8"))
    return template | ({"deepspeed": str(zero / f"{adapter.deepspeed}.json")} if adapter.deepspeed else {})


def training_config(template: dict, adapter: Adapter, cut: BatchPlan, base: Path, split: Path, run: Path) -> dict:
    """Return a LLaMA-Factory config: the template, the parameters over it, then how a step is cut and the paths of this run."""
    config = template | {k: v for k, v in adapter.model_dump(exclude=OURS).items() if v is not None}
    rows = (split / "train.jsonl").read_bytes().count(b"\n")
    return config | {
        "model_name_or_path": str(base),
        "dataset_dir": str(split),
        "output_dir": str(run),
        "save_steps": adapter.eval_steps,
        "per_device_train_batch_size": cut.batch,
        "per_device_eval_batch_size": cut.batch,
        "gradient_accumulation_steps": cut.accumulation,
        "disable_gradient_checkpointing": not cut.checkpointing,
        "use_cpu": not on_gpu() and not adapter.deepspeed,  # accelerate would leave DeepSpeed out
        "ddp_backend": "gloo" if not on_gpu() and adapter.gpus * adapter.nodes > 1 else None,
        "bf16": in_bf16(adapter),
        **liger(adapter),
        "torch_compile": compiled(adapter),
        "dataloader_num_workers": LOADERS if on_gpu() else 0,
        "accelerator_config": {"non_blocking": on_gpu()},  # it goes on working while the next batch is copied to it
        "include_num_input_tokens_seen": "no" if adapter.neat_packing else "non_padding",  # counting makes the GPU wait
        "early_stopping_steps": adapter.early_stopping_steps,
        "preprocessing_num_workers": min(os.cpu_count() or 1, rows // 2000 + 1),
        "resume_from_checkpoint": last_checkpoint(run),
        **(NO_CHECKPOINTS if adapter.nodes > 1 else {}),
    }


def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def gpus_here() -> int:
    import torch

    return torch.cuda.device_count()


def in_bf16(adapter: Adapter) -> bool:
    """Say whether to train in bf16: as told, or where the GPU, or the processor if there is none, multiplies in it itself."""
    import torch

    if adapter.bf16 is True and on_gpu() and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise CommandError("adapter.bf16: true: this GPU does not multiply in bfloat16: set it to auto", 2)
    if adapter.bf16 is True and adapter.deepspeed and not on_gpu():
        raise CommandError("adapter.bf16: true: on a processor DeepSpeed trains in float32 only: set it to auto", 2)
    if adapter.bf16 != "auto":
        return adapter.bf16
    if adapter.deepspeed and not on_gpu():
        return False  # transformers takes it on a processor with use_cpu only
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def loaded_as(adapter: Adapter) -> str | None:
    """Return what the base is loaded as, None if as it is stored.

    A processor that does not multiply in bfloat16 itself takes 34 times as long for it as for float32 (AMD EPYC without
    AVX-512, torch 2.13: a product of 1,024 × 384 × 1,024 in 0.81 and 0.024 s).
    """
    return None if on_gpu() or in_bf16(adapter) else "float32"


def compiled(adapter: Adapter) -> bool:
    """Say whether to compile the layers: on a GPU, and not under ZeRO-3, whose hooks cut a layer's graph at each module."""
    return adapter.torch_compile and on_gpu() and adapter.deepspeed != 3


def with_liger(adapter: Adapter) -> bool:
    """Say whether to use Liger's kernels, which only a GPU runs."""
    return adapter.enable_liger_kernel and on_gpu()


def liger(adapter: Adapter) -> dict:
    """Return the configuration's keys for Liger: all its kernels, or, where the layers are compiled, its loss alone."""
    if with_liger(adapter) and compiled(adapter):
        return {"enable_liger_kernel": False, "use_liger_kernel": True, "liger_kernel_config": LOSS_ALONE}
    return {"enable_liger_kernel": with_liger(adapter)}


def cut_step(record: dict, base: Path, adapter: Adapter) -> BatchPlan:
    """Return how a step is cut to fit into memory, with the reasoning printed; stop with one line if nothing fits."""
    devices = adapter.gpus * adapter.nodes
    whole = adapter.per_device_train_batch_size * adapter.gradient_accumulation_steps
    if adapter.batch == "auto" and whole % devices:
        raise CommandError(
            f"adapter.gpus: a step of {whole} (per_device_train_batch_size × "
            f"gradient_accumulation_steps) cannot be shared out to {devices}",
            2,
        )
    have, where = memory(adapter.gpus)
    known = read_json(base / "config.json"), adapter
    precision = in_bf16(adapter), with_liger(adapter)
    ways, found = candidate_plans(*known, *precision), plan(*known, have, *precision)
    if not found:
        least = min(ways, key=lambda cut: cut.bytes)
        raise CommandError(
            f"adapter: {record['model']} needs at the least {least}; {where} has {have / 1e9:.1f}, of which {USABLE:.0%} can "
            f"be used: {suggest_fix(*known, have, *precision, gpus_here())}"
        )
    unit = (
        f"packs of {adapter.cutoff_len} tokens" if adapter.neat_packing else f"dialogues of up to {adapter.cutoff_len} tokens"
    )
    print(f"adapter: {unit}, {found} of {have / 1e9:.1f} in {where}", flush=True)
    if found.work > ways[0].work:
        print(f"adapter: faster, but too large for it: {ways[0]}", flush=True)
    return found


def need_free(cut: BatchPlan, gpus: int) -> None:
    """Stop with one line if other programs leave too little of a GPU's memory."""
    free = min(cards("free")[:gpus], default=math.inf)
    if cut.bytes > free:
        raise CommandError(
            f"adapter: the GPU has {free / 1e9:.1f} GB free, {cut.bytes / 1e9:.1f} are needed: end "
            "what else is on it (nvidia-smi names it)"
        )


def run_folder(adapter: Adapter, *known: Any) -> Path:
    """Return the folder of the training that `adapter`, our training code and all `known` name, however its step is cut.

    Several machines keep no checkpoints, so that theirs is empty, and each has its own, should they share a disk.
    """
    step = adapter.per_device_train_batch_size * adapter.gradient_accumulation_steps
    counts = adapter.model_dump(exclude=CUT) | {"step": step}
    run = work_folder("adapter", fingerprint(counts, *known, *CODE, node()))
    if adapter.nodes > 1:
        remove(run)
        run.mkdir()
    return run


def node() -> int:
    """Return which of several machines this is (NODE_RANK), 0 the first."""
    return int(os.environ.get("NODE_RANK", "0"))


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


def launched(adapter: Adapter, file: Path) -> tuple[list[str], dict[str, str]]:
    """Return a training's command line and variables: xinglin/training/llamafactory.py, through torchrun on several devices.

    Several machines: each runs the stage with NODE_RANK (0 first) and MASTER_ADDR (the first one's address) set.
    """
    environment = {"PYTHONHASHSEED": "0"}  # PEFT writes a set's order into adapter_config.json
    if adapter.deepspeed:
        environment["PYTHONWARNINGS"] = QUIET
    if on_gpu():
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = seen.split(",") if seen else [str(n) for n in range(gpus_here())]
        if len(devices) < adapter.gpus:
            raise CommandError(f"adapter.gpus: {adapter.gpus} are asked for, {len(devices)} are here", 2)
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices[: adapter.gpus])  # LLaMA-Factory takes all that it sees
    if adapter.gpus * adapter.nodes == 1:
        return [sys.executable, "-m", "xinglin.training.llamafactory", str(file)], environment
    machines = ["--standalone"]
    if adapter.nodes > 1:
        if missing := [name for name in ("NODE_RANK", "MASTER_ADDR") if name not in os.environ]:
            raise CommandError(
                f"adapter.nodes: {adapter.nodes} machines train together: set {' and '.join(missing)} on each", 2
            )
        machines = [
            "--node-rank",
            os.environ["NODE_RANK"],
            "--master-addr",
            os.environ["MASTER_ADDR"],
            "--master-port",
            os.environ.get("MASTER_PORT", "29500"),
        ]
    line = [f"{sys.prefix}/bin/torchrun", "--nnodes", str(adapter.nodes), "--nproc-per-node", str(adapter.gpus), *machines]
    return [*line, "--module", "xinglin.training.llamafactory", str(file)], environment


def train(config: dict, params: Params, cut: BatchPlan, run: Path) -> None:
    """Run LLaMA-Factory on `config` in processes of its own, unless it has already come to its end in `run`."""
    done = run / "done"
    if done.exists():
        return
    adapter = params.adapter
    need_free(cut, adapter.gpus)
    file = run / "train.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    if config["resume_from_checkpoint"]:
        print(f"adapter: going on from {config['resume_from_checkpoint']}", flush=True)
    command, environment = launched(adapter, file)
    call(command, environment | {"HF_DATASETS_CACHE": str(run / "datasets")}, LOGS / "adapter.log", Watch(params, run))
    done.touch()


def kept(run: Path, adapter: Adapter) -> list[str]:
    """Return the names of the files in `run` that are the adapter, or the tuned model itself."""
    if adapter.finetuning_type == "lora":
        return ["adapter_config.json", "adapter_model.safetensors"]
    return ["config.json", "generation_config.json", *sorted(file.name for file in run.glob("model*.safetensors*"))]


def name_base(file: Path, model: str) -> None:
    """Make the adapter's configuration, where there is one, name the base as its hub does, not by a folder of this machine."""
    if file.is_file():
        write_json(file, read_json(file) | {"base_model_name_or_path": model})


def write_curves(history: list[dict], folder: Path) -> None:
    """Write training.csv and validation.csv, columns step, epoch and loss (nats a token)."""
    for name, key in (("training", "loss"), ("validation", "eval_loss")):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["step", "epoch", "loss"])
            writer.writerows([e["step"], round(e["epoch"], 4), round(e[key], 4)] for e in history if key in e)


def summary(state: dict, tokens_a_step: int) -> dict:
    """Return what metrics.json says of training: steps, losses in nats a token, tokens, verdict.

    `tokens_a_step`: of a step of packs, their padding counted; the state counts the tokens of dialogues only.
    """
    training, validation = ([(e["step"], e[key]) for e in state["log_history"] if key in e] for key in ("loss", "eval_loss"))
    losses = [loss if math.isfinite(loss) else None for _, loss in validation]
    best = min((loss for loss in losses if loss is not None), default=None)
    return {
        "steps": state["global_step"],
        "best_step": state["best_global_step"],
        "best_validation_loss": best and round(best, 4),
        "last_validation_loss": losses[-1] and round(losses[-1], 4) if losses else None,
        "tokens": state["num_input_tokens_seen"] or state["global_step"] * tokens_a_step,
    } | verdict(training, validation)


def main() -> None:
    paths = start(__doc__, "base", "split", "template", "zero", "tokenizer", "out", "plots")
    params = Params.read()
    adapter = params.adapter
    record = read_json(paths.base)
    base = open_base(record, paths.tokenizer, loaded_as(adapter))
    cut = cut_step(record, base, adapter)
    template = read_template(paths.template, paths.zero, adapter)
    run = run_folder(adapter, template, record["files"], paths.tokenizer, paths.split, paths.zero)
    if adapter.finetuning_type == "full" and not last_checkpoint(run):
        need_space(run, DISK * parameters(read_json(base / "config.json")), "training every weight, checkpoints and all,")
    train(training_config(template, adapter, cut, base, paths.split, run), params, cut, run)
    if adapter.nodes > 1 and node():
        drop_work(run)
        print("adapter: this machine's part is done; the adapter is on the machine of NODE_RANK 0")
        return
    state = read_json(run / "trainer_state.json")
    with atomic_path(paths.out) as folder:
        folder.mkdir()
        for name in kept(run, adapter):
            shutil.copyfile(run / name, folder / name)
        for name in TOKENIZER:  # not what LLaMA-Factory wrote, which only this version of transformers reads
            shutil.copyfile(paths.tokenizer / name, folder / name)
        name_base(folder / "adapter_config.json", record["model"])
        params.ensure_unchanged()
    tokens_a_step = cut.batch * cut.accumulation * adapter.gpus * adapter.nodes * adapter.cutoff_len
    found = summary(state, tokens_a_step)
    with atomic_path(paths.plots) as folder:
        folder.mkdir()
        write_curves(state["log_history"], folder)
        write_json(folder / "training.json", found)
    seconds = read_json(run / "train_results.json")["train_runtime"]  # since the last resumption
    write_timing(
        "adapter", paths.plots / "training.csv", seconds=round(seconds, 1), tokens_per_second=round(found["tokens"] / seconds)
    )
    print(f"adapter: {found['steps']} steps, best validation loss {found['best_validation_loss']} -> {paths.out}")
    print(f"adapter: {found['verdict']}: {found['reason']}; {found['advice']}")
    drop_work(run)


if __name__ == "__main__":
    run_command(main)
