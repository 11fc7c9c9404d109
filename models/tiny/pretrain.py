"""Pre-train the embedded base: Chinese dialogues in, a Qwen2 model of 15.7 M parameters and its tokenizer out.

Usage: python models/tiny/pretrain.py --data DATA --out models/tiny        (one NVIDIA GPU, torch, transformers)

Two phases: all dialogues, at speed; then a short one that teaches medicine by text of this project's own
(consultations.jsonl.xz beside this) without forgetting the rest. `--model FOLDER` does the second alone; a CPU is enough.

DATA holds smile.huatuo.jsonl.xz, alpaca_zh.alpaca.jsonl.xz, disc_medllm_consultations.huatuo.jsonl,
disc_medllm_examples.messages.jsonl and medicalgpt_1k.huatuo.jsonl; README.md beside this says where they come from.
"""

import argparse
import json
import lzma
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from xinglin.cli import run_command

MEDICAL = ("disc_medllm_consultations.huatuo.jsonl", "disc_medllm_examples.messages.jsonl", "medicalgpt_1k.huatuo.jsonl")
GENERAL = ("smile.huatuo.jsonl.xz", "alpaca_zh.alpaca.jsonl.xz")
OWN = Path(__file__).parent / "consultations.jsonl.xz"
VOCABULARY, LENGTH = 8192, 512  # tokens
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass
class Phase:
    """How long and on what to train; smoothing is of the labels, against overconfidence on text of another kind."""

    steps: int
    batch: int  # windows a step
    rate: float
    warm_up: int  # steps
    fall: float  # over which share of the steps, at the end, the rate falls to nothing
    smoothing: float
    shares: tuple[float, ...]  # of each batch: general, medical sets (small: more of them is learnt by heart), own text


FIRST = Phase(steps=3000, batch=256, rate=2e-3, warm_up=100, fall=0.4, smoothing=0.05, shares=(0.92, 0.08, 0.0))
SECOND = Phase(steps=64, batch=32, rate=3e-4, warm_up=5, fall=1.0, smoothing=0.1, shares=(0.56, 0.06, 0.38))
SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜▁pad▁｜>",
)
ADDED = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)  # not special, as in Qwen3
CHAT_TEMPLATE = (
    "{%- if messages[0].role != 'system' -%}{{- '<|im_start|>system\\n" + SYSTEM + "<|im_end|>\\n' -}}{%- endif -%}"
    "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def read(file: Path) -> list[list[str]]:
    """Return a file's dialogues as lists of texts, question first, each distinct dialogue once."""
    with (lzma.open if file.suffix == ".xz" else open)(file, "rt", encoding="utf-8") as lines:
        return [list(d) for d in dict.fromkeys(tuple(turns(json.loads(line))) for line in lines) if len(d) > 1]


def turns(record: dict) -> list[str]:
    if "data" in record:
        return [text[2:].strip() for text in record["data"]]
    if "conversation" in record:
        return [turn["content"].strip() for turn in record["conversation"]]
    return [f"{record['instruction']}\n{record.get('input', '')}".strip(), record["output"].strip()]


def written(dialogue: list[str], draw: random.Random) -> str:
    """Return a dialogue as plain text, or in one of the chat formats that tuning will use."""
    style = draw.random()
    if style < 0.4:
        return "\n".join(("答：" if i % 2 else "问：") + text for i, text in enumerate(dialogue)) + "<|endoftext|>"
    if style < 0.9:
        head = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n" if style < 0.65 else ""
        roles = ("user", "assistant")
        body = "".join(f"<|im_start|>{roles[i % 2]}\n{text}<|im_end|>\n" for i, text in enumerate(dialogue))
        return head + body + "<|endoftext|>"
    body = "".join(
        f"{text}<｜end▁of▁sentence｜>" if i % 2 else f"<｜User｜>{text}<｜Assistant｜>" for i, text in enumerate(dialogue)
    )
    return "<｜begin▁of▁sentence｜>" + body


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Return a byte-level BPE with Qwen2's own normaliser and pre-tokenizer, which transformers rebuilds on loading."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    pieces = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(ADDED), special_tokens=list(SPECIAL), initial_alphabet=alphabet, max_token_length=18
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ADDED])
    return tokenizer


def stream(tokenizer: Tokenizer, dialogues: list[list[str]], copies: int, draw: random.Random) -> torch.Tensor:
    """Return token ids of all dialogues, shuffled, each written `copies` times, one after the other."""
    texts = [written(d, draw) for d in dialogues for _ in range(copies)]
    draw.shuffle(texts)
    ids = [
        np.array(e.ids, dtype=np.int32)
        for i in range(0, len(texts), 20000)
        for e in tokenizer.encode_batch_fast(texts[i : i + 20000])
    ]
    return torch.from_numpy(np.concatenate(ids)).to(DEVICE)


def windows(data: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return `count` random windows [count, LENGTH + 1] of a stream."""
    start = torch.randint(len(data) - LENGTH - 1, (count,), generator=generator).to(DEVICE)
    return data[start[:, None] + torch.arange(LENGTH + 1, device=DEVICE)].long()


def optimizers(model: Qwen2ForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the layers and AdamW for embeddings, norms and biases."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim < 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)]


def schedule(step: int, phase: Phase) -> float:
    """Return the share of the peak learning rate: warm-up, plateau, linear fall."""
    return min(1.0, (step + 1) / phase.warm_up, max(0.02, (phase.steps - step) / (phase.fall * phase.steps)))


def train(model: Qwen2ForCausalLM, data: list[torch.Tensor], phase: Phase, seed: int, log: Callable[..., None]) -> None:
    """Train on windows of the streams, each with its share of the batch."""
    forward = (
        torch.compile(lambda ids: model(input_ids=ids).logits) if DEVICE == "cuda" else lambda ids: model(input_ids=ids).logits
    )
    used, generator, start = optimizers(model, phase.rate), torch.Generator().manual_seed(seed), time.time()
    counts = [round(phase.batch * share) for share in phase.shares]
    for step in range(phase.steps):
        ids = torch.cat([windows(stream, count, generator) for stream, count in zip(data, counts, strict=True) if count])
        with torch.autocast(DEVICE, torch.bfloat16):
            logits = forward(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), ids[:, 1:].flatten(), label_smoothing=phase.smoothing
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in used:
            optimizer.param_groups[0]["lr"] = phase.rate * schedule(step, phase)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % max(1, phase.steps // 12) == 0 or step == phase.steps - 1:
            speed = (step + 1) * ids.shape[0] * LENGTH / (time.time() - start)
            log(f"step {step} loss {loss.item():.3f} {speed / 1e3:.1f} k tokens/s")


def fresh(tokenizer: Tokenizer) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        pad_token_id=tokenizer.token_to_id("<|endoftext|>"),
    )
    return Qwen2ForCausalLM(config)


def save(model: Qwen2ForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    model.generation_config.update(do_sample=False)
    model.to(torch.bfloat16).save_pretrained(out)
    saved = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=4096,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    saved.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="a model that has had the first phase")
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    if DEVICE == "cpu" and args.model is None:
        sys.exit(
            "error: pretrain.py needs an NVIDIA GPU: torch sees none here (the second phase alone, with --model, does not)"
        )
    begin = time.time()

    def log(*words: object) -> None:
        print(f"[{time.time() - begin:6.1f} s]", *words, flush=True)

    torch.manual_seed(args.seed)
    draw = random.Random(args.seed)
    medical, general = ([d for name in names for d in read(args.data / name)] for names in (MEDICAL, GENERAL))
    own = read(OWN)
    log(f"dialogues: {len(general)} general, {len(medical)} medical, {len(own)} of our own")
    if args.model:
        tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
        model = Qwen2ForCausalLM.from_pretrained(args.model, dtype=torch.float32).to(DEVICE)
    else:
        tokenizer = train_tokenizer([text for d in draw.sample(general, 15000) + medical for text in d])
        model = fresh(tokenizer).to(DEVICE)
        log(f"{model.num_parameters() / 1e6:.2f} M parameters")
        train(
            model,
            [stream(tokenizer, general, 2, draw), stream(tokenizer, medical, 4, draw), torch.empty(0)],
            FIRST,
            args.seed,
            log,
        )
    data = [
        stream(tokenizer, draw.sample(general, 30000), 1, draw),
        stream(tokenizer, medical, 2, draw),
        stream(tokenizer, own, 3, draw),
    ]
    log(f"tokens: {', '.join(f'{len(part) / 1e6:.1f} M' for part in data)}")
    train(model, data, SECOND, args.seed, log)
    save(model, tokenizer, args.out)
    log(f"written to {args.out}")


if __name__ == "__main__":
    run_command(main)
