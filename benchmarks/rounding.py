"""How far a merge moves the log-probabilities by rounding alone, after few and many steps of LoRA over random weights.

Usage: python -m benchmarks.rounding [--steps 24 100] [--untied]

A base of Qwen2.5-1.5B's shape learns tokens drawn by Zipf's law. Compared are its own greedy answers, 8 of 200 tokens, by
base and adapter in float32 and by the merged weights: exact, and rounded to bfloat16 as a merge stores them.
"""

import argparse
import copy

import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.bases import SHAPES
from xinglin.cli import run_command

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WORDS, PROMPT = 20_000, 40


def random_base(tied: bool, size: str) -> torch.nn.Module:
    config = Qwen2Config(
        vocab_size=151_936, tie_word_embeddings=tied, rope_theta=1e6, rms_norm_eps=1e-6, **SHAPES["qwen2"][size]
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(DEVICE):
        base = Qwen2ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    for name, weight in base.named_parameters():
        if not name.endswith("norm.weight"):
            torch.nn.init.normal_(weight, 0, 0.02)
    return base


def tokens(rows: int, length: int) -> torch.Tensor:
    chance = 1 / torch.arange(1, WORDS + 1, device=DEVICE).float()
    return torch.multinomial(chance, rows * length, replacement=True).view(rows, length)


def train(model: torch.nn.Module, steps: int) -> float:
    """Train the adapter at a constant rate and return the last loss."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4)
    for _ in range(steps):
        ids = tokens(4, 1024)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):  # slow where a processor lacks it
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


@torch.no_grad()
def answers(model: torch.nn.Module) -> torch.Tensor:
    return (
        copy.deepcopy(model)
        .to(torch.bfloat16)
        .generate(input_ids=tokens(8, PROMPT), max_new_tokens=200, do_sample=False, eos_token_id=None, pad_token_id=0)
    )


@torch.no_grad()
def logprobs(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    rows = [model(input_ids=row[None]).logits[0, PROMPT - 1 : -1].log_softmax(-1).gather(1, row[PROMPT:, None]) for row in ids]
    return torch.stack(rows)


def moved(steps: int, tied: bool, size: str) -> list[float]:
    """Return the last loss and, in nats a token: base to adapter, exact merge, rounded merge."""
    torch.manual_seed(0)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")
    model = get_peft_model(random_base(tied, size), lora)
    for weight in model.parameters():
        weight.data = weight.data.float() if weight.requires_grad else weight.data
    loss = train(model, steps)
    ids, model = answers(model.eval()), model.float()
    tuned = logprobs(model, ids)
    with model.disable_adapter():
        base = logprobs(model, ids)
    merged = model.merge_and_unload()
    exact = logprobs(merged, ids)
    rounded = logprobs(merged.to(torch.bfloat16).float(), ids)
    return [loss, *(float((tuned - other).abs().mean()) for other in (base, exact, rounded))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[24, 100])
    parser.add_argument("--untied", action="store_true", help="an output layer of its own, as R1-Distill-Qwen has")
    parser.add_argument("--size", default="1.5b", choices=list(SHAPES["qwen2"]))
    args = parser.parse_args()
    print("| steps | loss | base to adapter | exact merge | merge rounded to bfloat16 |\n|---|---|---|---|---|")
    for steps in args.steps:
        loss, *found = moved(steps, not args.untied, args.size)
        print(f"| {steps} | {loss:.2f} | " + " | ".join(f"{value:.4f}" for value in found) + " |", flush=True)


if __name__ == "__main__":
    run_command(main)
