"""The scores in models/tiny/README.md: the embedded base against itself, LoRA-tuned on real questions.

Usage: python -m benchmarks.tiny --data toyhom_internal_medicine.huatuo.jsonl        (a GPU: 3 minutes; two CPU cores: hours)

One row in ten is held out, by a hash of its question. Answers are greedy, 160 new tokens, scored as the metrics stage
scores them. The defaults were chosen on another tenth, taken out of the training rows. Data:
Toyhom/Chinese-medical-dialogue-data (MIT), in the shape of HuatuoGPT-sft-data-v1.
"""

import argparse
import hashlib
import json
import math
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from xinglin.cli import run_command
from xinglin.scoring.scores import NAMES, table

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HELD_OUT = 10  # one question in so many
BATCH = 1024 if DEVICE == "cuda" else 32  # answers at once


def read(file: Path) -> tuple[list[list[str]], list[list[str]]]:
    """Return the training and the held-out rows, each question and answer without their prefixes."""
    rows = [[text[2:].strip() for text in json.loads(line)["data"]] for line in file.open(encoding="utf-8")]
    held = [int(hashlib.sha256(row[0].encode()).hexdigest(), 16) % HELD_OUT == 0 for row in rows]
    return [r for r, h in zip(rows, held, strict=True) if not h], [r for r, h in zip(rows, held, strict=True) if h]


def prompt(tokenizer, question: str) -> str:
    return tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True)


def batches(samples: list[tuple[list[int], list[int]]], size: int, pad: int):
    """Yield ids and labels [size, length] of samples of like length; what is not to be learnt has the label -100."""
    for i in range(0, len(samples), size):
        some = samples[i : i + size]
        width = max(len(ids) for ids, _ in some)
        ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in some], device=DEVICE)
        labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in some], device=DEVICE)
        yield ids, labels


@torch.no_grad()
def loss(model, samples: list[tuple[list[int], list[int]]], pad: int) -> float:
    """Return the mean loss in nats a token that counts."""
    total, tokens = 0.0, 0
    for ids, labels in batches(sorted(samples, key=lambda s: len(s[0])), 32, pad):
        count = int((labels[:, 1:] != -100).sum())
        total += float(model(input_ids=ids, labels=labels).loss) * count
        tokens += count
    return total / tokens


def tune(model, samples: list[tuple[list[int], list[int]]], args: argparse.Namespace, pad: int):
    """Return the model with a LoRA adapter of rank 16 on every linear layer, trained with a cosine schedule."""
    torch.manual_seed(args.seed)
    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=args.learning_rate, weight_decay=0.0)
    steps = math.ceil(len(samples) / args.batch) * args.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.05 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    draw = torch.Generator().manual_seed(args.seed)
    with tqdm(total=steps, desc="tuning", unit=" steps", mininterval=10) as bar:
        for _ in range(args.epochs):
            order = [samples[i] for i in torch.randperm(len(samples), generator=draw).tolist()]
            for ids, labels in batches(order, args.batch, pad):
                model(input_ids=ids, labels=labels).loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                bar.update()
    return model.eval()


@torch.no_grad()
def answers(model, tokenizer, rows: list[list[str]], penalty: float, tokens: int) -> list[dict]:
    """Return the greedy answers to the rows' questions as the predictions stage would write them."""
    found = []
    for i in tqdm(range(0, len(rows), BATCH), desc=f"penalty {penalty}"):
        some = rows[i : i + BATCH]
        given = tokenizer(
            [prompt(tokenizer, row[0]) for row in some], return_tensors="pt", padding=True, add_special_tokens=False
        )
        out = model.generate(
            **given.to(DEVICE),
            max_new_tokens=tokens,
            do_sample=False,
            repetition_penalty=penalty,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )[:, given["input_ids"].shape[1] :]
        for row, ids in zip(some, out, strict=True):
            finish = "stop" if tokenizer.eos_token_id in ids else "length"
            text = tokenizer.decode(ids, skip_special_tokens=True)
            found.append({"reference": row[1], "prediction": text, "finish_reason": finish})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("models/tiny"))
    parser.add_argument("--penalties", type=float, nargs="+", default=[1.0, 1.2])
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=160)
    parser.add_argument("--max-rows", type=int, help="as many rows of either part at the most, to try it out")
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()

    train, held = (rows[: args.max_rows] for rows in read(args.data))
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).to(DEVICE).eval()
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id

    def plain(row: list[str]) -> tuple[list[int], list[int]]:
        ids = tokenizer(f"问：{row[0]}\n答：{row[1]}", add_special_tokens=False)["input_ids"]
        return ids, ids

    def chat(row: list[str]) -> tuple[list[int], list[int]]:
        question = tokenizer(prompt(tokenizer, row[0]), add_special_tokens=False)["input_ids"]
        answer = [*tokenizer(row[1], add_special_tokens=False)["input_ids"], end]
        return (question + answer)[:768], ([-100] * len(question) + answer)[:768]

    text = [plain(row) for row in held]
    rate = sum(len(ids) for ids, _ in text) / sum(len(row[0]) + len(row[1]) + 5 for row in held)
    nats = loss(model, text, pad)
    print(f"{len(train)} rows to tune on, {len(held)} held out, {DEVICE}")
    print(f"base on the held-out text: {nats:.3f} nats a token, {nats * rate / math.log(2):.3f} bits a character")
    print(f"base on the held-out answers: {loss(model, [chat(row) for row in held], pad):.3f} nats a token")
    written = {("base", p): answers(model, tokenizer, held, p, args.max_new_tokens) for p in args.penalties}
    model = tune(model, [chat(row) for row in train], args, pad)
    print(f"tuned on the held-out answers: {loss(model, [chat(row) for row in held], pad):.3f} nats a token")
    written |= {("tuned", p): answers(model, tokenizer, held, p, args.max_new_tokens) for p in args.penalties}

    print("\n| | repetition penalty | BLEU-4 | ROUGE-1 | ROUGE-2 | ROUGE-L | repetitive |\n|---|---|---|---|---|---|---|")
    for (name, penalty), rows in written.items():
        means = table(rows, f"{name} {penalty}").mean(0).tolist()
        scores = " | ".join(f"{mean:.2f}" for mean in means[: len(NAMES)])
        print(f"| {name} | {penalty} | {scores} | {100 * means[-1]:.0f} % |")


if __name__ == "__main__":
    run_command(main)
