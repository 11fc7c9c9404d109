"""What a training takes of a device's memory, and the batch and checkpointing that fit: estimated from the model's shape.

The estimate is held against what an H100 used, in docs/gpu.md.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from xinglin.bases.shape import embeddings, linear_layers, parameters, sizes
from xinglin.training.settings import Adapter

LEAST_TOKENS = 4_096  # a batch of fewer takes about as long: a GPU then waits for its next instruction
GATHERING = (
    4_096  # tokens that a device could have taken while ZeRO-3 fetches every weight for a batch and hands back its gradients
)
MOST_TOKENS = 32_768  # a batch of more gains no speed
RECOMPUTED = 4 / 3  # how much longer a step takes whose activations are computed again
USABLE = 0.92  # of the memory: the allocator's gaps take the rest
CONTEXT = 1.5e9  # bytes that CUDA and its libraries take
TRAINED = 16  # bytes a trained weight: itself, its gradient and Adam's two moments, all float32
BUCKETS = 4  # bytes a trained weight takes besides on several devices: its gradient again, where it is averaged
ZERO_3 = Path(__file__).parents[2] / "templates" / "zero" / "3.json"
QUANTIZED = 0.56  # bytes a weight in 4 bit NF4, its scales included
PER_HIDDEN, PER_INTERMEDIATE = 18, 6.2  # bytes kept for the backward pass by a token and layer, for each unit of the two widths
LOGITS = 10  # bytes by token and vocabulary entry that the loss takes at once, unless Liger takes it in pieces


class BatchPlan(NamedTuple):
    """How a step is cut: dialogues (or packs) at once, how many such batches, and whether activations are computed again."""

    batch: int
    accumulation: int
    checkpointing: bool
    parts: dict[str, float]  # bytes
    work: float  # what a step takes, in the time of a token's

    @property
    def bytes(self) -> float:
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in self.parts.items())
        again = "computed again" if self.checkpointing else "kept"
        return (
            f"{self.batch} at once, {self.accumulation} times a step, activations {again}: {self.bytes / 1e9:.1f} GB ({parts})"
        )


def needed(
    config: dict[str, Any], adapter: Adapter, batch: int, checkpointing: bool, bf16: bool, liger: bool
) -> dict[str, float]:
    """Return bytes by part: weights that multiply, trained (with gradient and optimizer), activations, logits, other.

    LLaMA-Factory keeps in float32 what it trains. In bf16 the weights that multiply are a copy besides, which autocast
    makes or DeepSpeed holds. ZeRO shares out to the devices what is trained, ZeRO-3 the weights too.
    """
    size = sizes(config)
    layers, hidden = size.num_hidden_layers, size.hidden_size
    devices, number = adapter.gpus * adapter.nodes, 2 if bf16 else 4
    weights = (parameters(config) - embeddings(config)) * (QUANTIZED if adapter.quantization_bit else number) + embeddings(
        config
    ) * number
    if adapter.finetuning_type == "full":
        count = parameters(config)
        weights = weights if bf16 or adapter.deepspeed else 0
    else:
        count = layers * sum(adapter.lora_rank * (a + b) for a, b in linear_layers(config))
    trained: float = count * TRAINED
    if adapter.deepspeed == 3:
        zero = json.loads(ZERO_3.read_text(encoding="utf-8"))["zero_optimization"]
        gathered, reduced = (
            zero["stage3_max_live_parameters"],
            zero["reduce_bucket_size"],
        )  # weights held whole, gradients collected
        trained, weights = trained / devices + reduced * number, weights / devices + min(weights, gathered * number)
    elif adapter.deepspeed == 2:
        trained = (trained + count * number) / devices  # the gradient again, as it came
    elif devices > 1:
        trained += count * BUCKETS
    tokens = batch * adapter.cutoff_len
    by_layer = tokens * (PER_HIDDEN * hidden + PER_INTERMEDIATE * size.intermediate_size) * number / 2
    return {
        "weights": weights,
        "trained": trained,
        "activations": by_layer
        + (by_layer + layers * tokens * hidden * number if checkpointing else layers * by_layer),  # and one layer's gradients
        "logits": tokens * LOGITS * (hidden if liger else size.vocab_size),
        "other": CONTEXT,
    }


def candidate_plans(config: dict[str, Any], adapter: Adapter, bf16: bool, liger: bool) -> list[BatchPlan]:
    """Return ways to cut a step, fastest first: activations kept before a large batch, unless the batch is too small for a GPU.

    `batch: auto` keeps what a step learns from, dialogues or packs, whatever the device and their number; none if these
    cannot share it.
    """
    whole, devices = adapter.per_device_train_batch_size * adapter.gradient_accumulation_steps, adapter.gpus * adapter.nodes
    batches = [adapter.per_device_train_batch_size]
    if adapter.batch == "auto":
        if whole % devices:
            return []
        whole //= devices
        batches = [n for n in range(whole, 0, -1) if whole % n == 0 and (n == 1 or n * adapter.cutoff_len <= MOST_TOKENS)]
    again = [False, True] if adapter.disable_gradient_checkpointing == "auto" else [not adapter.disable_gradient_checkpointing]

    def work(batch: int, recomputed: bool) -> float:
        tokens = max(batch * adapter.cutoff_len, LEAST_TOKENS) * (RECOMPUTED if recomputed else 1)
        return whole // batch * (tokens + (GATHERING if adapter.deepspeed == 3 else 0))

    found = [
        BatchPlan(n, whole // n, redo, needed(config, adapter, n, redo, bf16, liger), work(n, redo))
        for redo in again
        for n in batches
    ]
    return sorted(found, key=lambda cut: cut.work)


def plan(config: dict[str, Any], adapter: Adapter, have: float, bf16: bool, liger: bool) -> BatchPlan | None:
    """Return the fastest cut of a step that fits into a device of `have` bytes, or None."""
    return next((cut for cut in candidate_plans(config, adapter, bf16, liger) if cut.bytes <= USABLE * have), None)


def suggest_fix(config: dict[str, Any], adapter: Adapter, have: float, bf16: bool, liger: bool, here: int) -> str:
    """Return which setting would fit where `adapter` does not, on a machine that has `here` devices."""
    free = {"batch": "auto", "disable_gradient_checkpointing": "auto"}
    lora = {**free, "finetuning_type": "lora"}
    tries: list[dict[str, Any]] = [free]
    whole = adapter.per_device_train_batch_size * adapter.gradient_accumulation_steps
    more = max(
        n for n in range(adapter.gpus, max(adapter.gpus, here) + 1) if n == adapter.gpus or whole % (n * adapter.nodes) == 0
    )
    if more * adapter.nodes > 1:
        tries += [{**free, "gpus": more, "deepspeed": stage} for stage in (2, 3)]
    tries += [lora, {**lora, "quantization_bit": 4}]
    tries += [{**lora, "quantization_bit": 4, "cutoff_len": n} for n in (1024, 512, 256) if n < adapter.cutoff_len]
    for changes in tries:
        if plan(config, adapter.model_copy(update=changes), have, bf16, liger):
            return (
                "with "
                + ", ".join(f"adapter.{name}: {value}" for name, value in changes.items() if getattr(adapter, name) != value)
                + " it would fit"
            )
    return "no setting would fit: take a smaller base"
