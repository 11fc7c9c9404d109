"""LLaMA-Factory's training with what its configuration has no key for, in processes of its own that the adapter stage starts.

Usage: python -m xinglin.training.llamafactory .work/adapter/KEY/train.yaml
       (as the stage wrote it; torchrun starts it on several devices)

None of it changes what is computed but for rounding. On a GPU attention over a pack goes dialogue by dialogue, without a
mask; the adapter's inputs stay in bfloat16; each decoder layer is compiled in place, one compilation for all of them.
Under ZeRO-3 whole layers travel.

Each of these patches is seen to work before the second step: a library that no longer takes one ends the training.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import yaml
from llamafactory.data import SFTDataCollatorWith4DAttentionMask
from llamafactory.train.sft import workflow
from llamafactory.train.tuner import run_exp
from peft.tuners.lora import LoraLayer
from torch._dynamo import config as dynamo
from torch._dynamo.utils import counters
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, TrainerCallback, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.modeling_layers import GradientCheckpointingLayer

from xinglin.bases.shape import NOT_IN_PACKS, carries_state
from xinglin.cli import CommandError, run_command
from xinglin.files import read_json

PACKED = "packed"  # the name of our attention in transformers' registry
CALLED: set[torch.nn.Module] = set()  # what our attention was called for, outside of compiled layers
TRIED = 8  # tokens of each dialogue that is tried
LEAK = 0.01  # share of a hidden state from which another dialogue has changed it; rounding changes less
OTHERWISE = "install the versions of requirements/pipeline.txt (make setup), or set"


def must(holds: bool, library: str, what: str, setting: str) -> None:
    """Stop with one line if a patch of ours did not take hold: what `library` does instead, and the setting to do without."""
    if not holds:
        print(file=sys.stderr)  # a progress bar may stand in this line
        raise CommandError(
            f"xinglin/training/llamafactory.py: {library} {version(library)} {what}: {OTHERWISE} adapter.{setting}"
        )


class Packs(SFTDataCollatorWith4DAttentionMask):
    """Makes batches that say where each dialogue begins, in place of LLaMA-Factory's mask [packs, 1, tokens, tokens]."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        self.block_diag_attn = False
        batch: dict[str, torch.Tensor] = super().__call__(features)
        mask = batch.pop("attention_mask")
        must(mask.dim() == 2, "llamafactory", "no longer leaves out a pack's mask", "neat_packing: false")
        return batch | {"cu_seq_lens_q": boundaries(batch["position_ids"])}


def boundaries(positions: torch.Tensor) -> torch.Tensor:
    """Return where each dialogue begins in a batch laid end to end, and the end, int32, from positions [packs, tokens].

    Positions begin again at 0 with each dialogue; the padding at a pack's end, 0 throughout, counts as one dialogue.
    """
    first = positions == 0
    first[:, 1:] &= positions[:, :-1] != 0
    return torch.nn.functional.pad(torch.nonzero(first.flatten()).flatten(), (0, 1), value=positions.numel()).to(torch.int32)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return causal attention [packs, tokens, heads, head] within each dialogue.

    Query, key and value are [packs, heads, tokens, head]. By torch's own FlashAttention, which runs on a GPU only.
    """
    must(mask is None, "transformers", "now makes a mask for attention of our own", "neat_packing: false")
    if not torch.compiler.is_compiling():
        CALLED.add(module)
    packs, heads, tokens, head = query.shape
    q, k, v = (
        part.transpose(1, 2).reshape(packs * tokens, -1, head).to(value.dtype) for part in (query, key, value)
    )  # float32 embeddings widen q and k
    window = (sliding_window - 1 if sliding_window else -1, 0)
    found = varlen_attn(
        q, k, v, cu_seq_lens_q, cu_seq_lens_q, tokens, tokens, scale=scaling, window_size=window, enable_gqa=True
    )
    assert isinstance(found, torch.Tensor)
    return found.view(packs, tokens, heads, head), None


class Faster(TrainerCallback):
    """Makes a model ready before its first step, and sees that what was changed is used."""

    def __init__(self, *, packing: bool, packed: bool, keep_inputs: bool, liger: bool, compiled: bool) -> None:
        """Take what is wanted: packs, our attention over them, adapter inputs as they come, Liger's loss, compiled layers."""
        self.packing, self.packed, self.keep_inputs, self.liger, self.compiled = packing, packed, keep_inputs, liger, compiled

    def on_init_end(self, args: TrainingArguments, *_: Any, model: Any, **__: Any) -> None:
        """Prepare the model for accelerate and DeepSpeed, which take it up after this."""
        if args.deepspeed and args.bf16:  # it brings no autocast, and keeps a float32 copy of what is trained itself
            for weight in trained(model):
                weight.data = weight.data.to(torch.bfloat16)  # a float32 adapter would widen all that goes in
        if is_deepspeed_zero3_enabled():
            from deepspeed.utils import set_z3_leaf_module

            model.enable_input_require_grads()  # the first layer's gradients are collected with its input's
            for layer in layers(model):  # whole ones travel: by module, hooks would take longer than the layer itself
                set_z3_leaf_module(layer, True)

    def on_train_begin(self, args: TrainingArguments, *_: Any, model: Any, train_dataloader: Any = None, **__: Any) -> None:
        """Set what accelerate and Liger leave alone: validation loss, attention, the adapter's inputs, compiled layers."""
        if args.deepspeed:
            check_deepspeed(args, model)
        if self.liger:
            use_liger_loss(model)
        if self.packed:
            model.set_attn_implementation(PACKED)
            model.register_forward_pre_hook(has_boundaries, with_kwargs=True)
        if self.keep_inputs:
            keep_adapter_inputs(model)
        if self.packing or ((self.keep_inputs or args.deepspeed) and args.bf16):
            self.check_forward(args, model, train_dataloader.collate_fn)
        if self.compiled:
            must(hasattr(dynamo, "optimize_ddp"), "torch", "no longer has dynamo.optimize_ddp", "torch_compile: false")
            dynamo.optimize_ddp = (
                False  # it would cut a layer's graph where a bucket of DDP's gradients is full, 1 MB the first
            )
            for layer in layers(model):
                layer.compile()
            self.graphs = counters["stats"]["unique_graphs"]

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """See after the first step that the layers ran compiled: they are when they are first called."""
        if self.compiled:
            ran = counters["stats"]["unique_graphs"] > self.graphs
            must(ran, "transformers", "no longer runs layers as they were compiled", "torch_compile: false")
            self.compiled = False

    def check_forward(self, args: TrainingArguments, model: Any, collate: Callable[[list[dict]], dict]) -> None:
        """Read two rows that differ in their first half; look at attention, a pack's second dialogue, the adapter's inputs."""
        CALLED.clear()
        with input_widths(model) as (to_layers, to_adapters):
            rows = (collate([row(first, self.packing)]) for first in (5, 6))
            one, other = (hidden_states(model, batch, args.device)[0, TRIED : 2 * TRIED] for batch in rows)
        if self.packed:
            of = language_model(model).config.get_text_config().num_hidden_layers
            what = f"calls our attention in {len(CALLED)} of {of} layers"
            must(len(CALLED) >= of, "transformers", what, "neat_packing: false")
        if self.packing:
            apart = ((one - other).norm(dim=-1) < LEAK * one.norm(dim=-1)).all()
            what = f"lets a pack's dialogues run into each other in {type(language_model(model)).__name__}"
            must(bool(apart), "transformers", what, "neat_packing: false")
        if self.keep_inputs or (args.deepspeed and args.bf16):
            must(to_layers == to_adapters, "peft", "no longer leaves the adapter's inputs as they come", "bf16: false")


def language_model(model: Any) -> Any:
    """Return transformers' model, out of PEFT's where there is an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def row(first: int, packing: bool) -> dict[str, list[int]]:
    """Return a row of one dialogue, or of two as LLaMA-Factory packs them: `first` throughout, then what has the loss."""
    second = list(range(7, 7 + TRIED))
    return {
        "input_ids": [first] * TRIED + second,
        "attention_mask": [1] * TRIED + [1 + packing] * TRIED,
        "position_ids": [*range(TRIED)] * 2 if packing else [*range(2 * TRIED)],
        "labels": [-100] * TRIED + second,
    }


@contextmanager
def input_widths(model: torch.nn.Module) -> Iterator[tuple[set[torch.dtype], set[torch.dtype]]]:
    """Yield the types of the numbers that reach layers with an adapter, and the adapters in them, while the block runs."""
    layers: set[torch.dtype] = set()
    adapters: set[torch.dtype] = set()
    hooks = []
    for module in model.modules():
        if isinstance(module, LoraLayer):
            hooks += [module.register_forward_pre_hook(lambda _, inputs: layers.add(inputs[0].dtype))]
            for part in module.lora_A.values():
                hooks += [part.register_forward_pre_hook(lambda _, inputs: adapters.add(inputs[0].dtype))]
    yield layers, adapters
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def hidden_states(model: Any, batch: dict[str, torch.Tensor], device: torch.device) -> torch.Tensor:
    """Return what the last layer makes of a batch, [packs, tokens, hidden], through the whole model as in validation."""
    found: list[torch.Tensor] = []
    hook = language_model(model).get_decoder().register_forward_hook(lambda _, __, out: found.append(out.last_hidden_state))
    before = model.training
    model.eval()
    model(**{name: part.to(device) for name, part in batch.items()}, use_cache=False)
    model.train(before)
    hook.remove()
    return found[0].float()


def check_deepspeed(args: TrainingArguments, model: Any) -> None:
    """See that DeepSpeed took the model up as on_init_end left it."""
    if args.bf16:
        kept = {weight.dtype for weight in trained(model)} == {torch.bfloat16}
        must(kept, "deepspeed", "no longer takes up in bfloat16 what is trained", "bf16: false")
    if is_deepspeed_zero3_enabled():
        inner = [part for layer in layers(model) for part in layer.modules() if part is not layer]
        must(not any(part._forward_pre_hooks for part in inner), "deepspeed", "no longer fetches whole layers", "deepspeed: 2")
        layers(model)[0].register_forward_pre_hook(asks_for_gradient)


def asks_for_gradient(layer: torch.nn.Module, inputs: tuple) -> None:
    asked = not torch.is_grad_enabled() or any(part.requires_grad for part in inputs)
    must(asked, "transformers", "no longer has the first layer's input ask for its gradient", "deepspeed: 2")


def use_liger_loss(model: Any) -> None:
    """Ask Liger's forward pass for the loss alone in validation too, not for logits [packs, tokens, vocabulary]."""
    inner = language_model(model)
    puts = "skip_logits" in signature(inner.forward).parameters  # put there when training begins, or when the model was loaded
    must(puts, "liger-kernel", f"puts no loss of its own into {type(inner).__name__}", "enable_liger_kernel: false")
    model.register_forward_pre_hook(lambda _, args, inputs: (args, inputs | {"skip_logits": True}), with_kwargs=True)
    model.register_forward_hook(has_no_logits)


def has_no_logits(model: torch.nn.Module, args: tuple, found: Any) -> None:
    must(found.logits is None, "liger-kernel", "no longer computes the loss without logits", "enable_liger_kernel: false")


def has_boundaries(model: torch.nn.Module, args: tuple, inputs: dict[str, Any]) -> None:
    ours = "cu_seq_lens_q" in inputs and "attention_mask" not in inputs
    must(ours, "llamafactory", "no longer makes its batches by our collator", "neat_packing: false")


def keep_adapter_inputs(model: Any) -> None:
    """Have PEFT leave the adapter's inputs alone: it widens to float32 what autocast narrows again."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            must(hasattr(module, "cast_input_dtype_enabled"), "peft", "no longer has cast_input_dtype_enabled", "bf16: false")
            module.cast_input_dtype_enabled = False


def layers(model: torch.nn.Module) -> list[GradientCheckpointingLayer]:
    """Return the decoder layers of `model`; stop with one line if transformers marks none as such."""
    found = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not found:
        raise CommandError(
            f"adapter.torch_compile, adapter.deepspeed: {type(model).__name__} has no layers that transformers "
            "marks as such: set them to false and null"
        )
    return found


def train(config: dict[str, Any], packed: bool, keep_inputs: bool) -> None:
    """Run LLaMA-Factory on `config`, where asked to with our attention over packs and the adapter's inputs as they come."""
    if packed:
        AttentionInterface.register(PACKED, packed_attention)
        workflow.SFTDataCollatorWith4DAttentionMask = Packs
    packing, compiled = config["neat_packing"], config.pop("torch_compile")
    liger = config["enable_liger_kernel"] or config.get("use_liger_kernel", False)
    run_exp(config, [Faster(packing=packing, packed=packed, keep_inputs=keep_inputs, liger=liger, compiled=compiled)])


def main() -> None:
    config = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
    base = read_json(Path(config["model_name_or_path"]) / "config.json")
    if config["neat_packing"] and carries_state(base):
        raise CommandError(NOT_IN_PACKS.format(base.get("model_type")))
    on_gpu = torch.cuda.is_available() and config["bf16"]  # FlashAttention knows no float32
    train(config, on_gpu and config["neat_packing"], on_gpu and not config.get("deepspeed"))


if __name__ == "__main__":
    run_command(main)
