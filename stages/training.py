"""LLaMA-Factory's training with what its configuration has no key for, in processes of its own that the adapter stage starts.

Usage: python -m stages.training .work/adapter/KEY/train.yaml        (as the stage wrote it; torchrun starts it on several devices)

None of it changes what is computed but for rounding. On a GPU attention over a pack goes dialogue by dialogue, without a
mask; the adapter's inputs stay in bfloat16; each decoder layer is compiled in place, one compilation for all of them.
Under ZeRO-3 whole layers travel.
"""

import sys
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
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, TrainerCallback, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.modeling_layers import GradientCheckpointingLayer

from stages.common import fail

PACKED = "packed"  # the name of our attention in transformers' registry


class Packs(SFTDataCollatorWith4DAttentionMask):
    """Makes batches that say where each dialogue begins, in place of LLaMA-Factory's mask [packs, 1, tokens, tokens]."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        self.block_diag_attn = False
        batch: dict[str, torch.Tensor] = super().__call__(features)
        del batch["attention_mask"]
        return batch | {"cu_seq_lens_q": boundaries(batch["position_ids"])}


def boundaries(positions: torch.Tensor) -> torch.Tensor:
    """Return where each dialogue begins in a batch laid end to end, and the end, int32, from positions [packs, tokens].

    Positions begin again at 0 with each dialogue; the padding at a pack's end, 0 throughout, counts as one dialogue.
    """
    first = positions == 0
    first[:, 1:] &= positions[:, :-1] != 0
    return torch.nn.functional.pad(torch.nonzero(first.flatten()).flatten(), (0, 1), value=positions.numel()).to(torch.int32)


def packed_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: None,
    *, scaling: float, cu_seq_lens_q: torch.Tensor, sliding_window: int | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Return causal attention [packs, tokens, heads, head] within each dialogue, of query, key and value [packs, heads, tokens, head].

    By torch's own FlashAttention, which runs on a GPU only.
    """
    packs, heads, tokens, head = query.shape
    q, k, v = (part.transpose(1, 2).reshape(packs * tokens, -1, head).to(value.dtype) for part in (query, key, value))  # float32 embeddings widen q and k
    window = (sliding_window - 1 if sliding_window else -1, 0)
    found = varlen_attn(q, k, v, cu_seq_lens_q, cu_seq_lens_q, tokens, tokens, scale=scaling, window_size=window, enable_gqa=True)
    assert isinstance(found, torch.Tensor)
    return found.view(packs, tokens, heads, head), None


def without_logits(model: torch.nn.Module, args: tuple, inputs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Ask Liger's forward pass for the loss alone in validation too, where it would return logits [packs, tokens, vocabulary]."""
    return args, inputs | {"skip_logits": True}


class Faster(TrainerCallback):
    """Makes a model ready before its first step."""

    def __init__(self, packed: bool, compiled: bool) -> None:
        self.packed, self.compiled = packed, compiled

    def on_init_end(self, args: TrainingArguments, *_: Any, model: Any, **__: Any) -> None:
        """Prepare the model for accelerate and DeepSpeed, which take it up after this."""
        if args.deepspeed and args.bf16:  # it brings no autocast, and keeps a float32 copy of what is trained itself
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.data = weight.data.to(torch.bfloat16)  # a float32 adapter would widen all that goes in
        if is_deepspeed_zero3_enabled():
            from deepspeed.utils import set_z3_leaf_module

            model.enable_input_require_grads()  # the first layer's gradients are collected with its input's
            for layer in layers(model):  # whole ones travel: by module, hooks would take longer than the layer itself
                set_z3_leaf_module(layer, True)

    def on_train_begin(self, args: TrainingArguments, *_: Any, model: Any, **__: Any) -> None:
        """Set what accelerate and Liger leave alone: the loss of validation, attention, the adapter's inputs, compiled layers."""
        language_model = model.get_base_model() if hasattr(model, "get_base_model") else model
        if "skip_logits" in signature(language_model.forward).parameters:  # Liger's, which transformers puts there when training begins
            model.register_forward_pre_hook(without_logits, with_kwargs=True)
        if self.packed:
            model.set_attn_implementation(PACKED)
        if torch.cuda.is_available() and args.bf16 and not args.deepspeed:
            for module in model.modules():
                if isinstance(module, LoraLayer):
                    module.cast_input_dtype_enabled = False  # PEFT widens to float32 what autocast narrows again
        if self.compiled:
            dynamo.optimize_ddp = False  # it would cut a layer's graph where a bucket of DDP's gradients is full, 1 MB the first
            for layer in layers(model):
                layer.compile()


def layers(model: torch.nn.Module) -> list[GradientCheckpointingLayer]:
    """Return the decoder layers of `model`; stop with one line if transformers marks none as such."""
    found = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not found:
        fail(f"adapter.torch_compile, adapter.deepspeed: {type(model).__name__} has no layers that transformers marks as such: set them to false and null")
    return found


def main() -> None:
    config = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
    packed = torch.cuda.is_available() and config["neat_packing"] and config["bf16"]  # FlashAttention knows no float32
    if packed:
        AttentionInterface.register(PACKED, packed_attention)
        workflow.SFTDataCollatorWith4DAttentionMask = Packs
    run_exp(config, [Faster(packed, config.pop("torch_compile"))])


if __name__ == "__main__":
    main()
