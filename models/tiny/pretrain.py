"""Pre-train the embedded base: Chinese dialogues in, a Qwen2 model of 15.7 M parameters and its tokenizer out.

Usage: python models/tiny/pretrain.py --data DATA --out models/tiny        (one NVIDIA GPU, torch, transformers)

DATA holds smile.huatuo.jsonl.xz, alpaca_zh.alpaca.jsonl.xz, disc_medllm_consultations.huatuo.jsonl,
disc_medllm_examples.messages.jsonl and medicalgpt_1k.huatuo.jsonl; README.md beside this says where they come from.
"""

import argparse
import json
import lzma
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

MEDICAL = ("disc_medllm_consultations.huatuo.jsonl", "disc_medllm_examples.messages.jsonl", "medicalgpt_1k.huatuo.jsonl")
GENERAL = ("smile.huatuo.jsonl.xz", "alpaca_zh.alpaca.jsonl.xz")
VOCABULARY, LENGTH, BATCH = 8192, 512, 256  # tokens, tokens, sequences
MEDICAL_SHARE = 0.08  # of the windows; the medical sets are small, more of them is learnt by heart
SMOOTHING = 0.05  # of the labels, against overconfidence on text of another kind
SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>",
    "<｜Assistant｜>", "<｜▁pad▁｜>",
)  # fmt: skip
ADDED = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")  # not special, as in Qwen3
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
    body = "".join(f"{text}<｜end▁of▁sentence｜>" if i % 2 else f"<｜User｜>{text}<｜Assistant｜>" for i, text in enumerate(dialogue))
    return "<｜begin▁of▁sentence｜>" + body


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Return a byte-level BPE with Qwen2's own normaliser and pre-tokenizer, which transformers rebuilds on loading."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    pieces = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
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
    ids = [np.array(e.ids, dtype=np.int32) for i in range(0, len(texts), 20000) for e in tokenizer.encode_batch_fast(texts[i : i + 20000])]
    return torch.from_numpy(np.concatenate(ids)).cuda()


def windows(data: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return `count` random windows [count, LENGTH + 1] of a stream."""
    start = torch.randint(len(data) - LENGTH - 1, (count,), generator=generator).cuda()
    return data[start[:, None] + torch.arange(LENGTH + 1, device="cuda")].long()


def optimizers(model: Qwen2ForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the layers and AdamW for embeddings, norms and biases."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim < 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]


def schedule(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: warm-up, plateau, linear fall over the last 40 %."""
    return min(1.0, (step + 1) / 100, max(0.02, (steps - step) / (0.4 * steps)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: pretrain.py needs an NVIDIA GPU: torch sees none here")
    begin = time.time()

    def log(*words: object) -> None:
        print(f"[{time.time() - begin:6.1f} s]", *words, flush=True)

    random.seed(args.seed), torch.manual_seed(args.seed)
    draw = random.Random(args.seed)
    medical = [d for name in MEDICAL for d in read(args.data / name)]
    general = [d for name in GENERAL for d in read(args.data / name)]
    log(f"{len(medical)} medical and {len(general)} general dialogues")
    tokenizer = train_tokenizer([text for d in draw.sample(general, 15000) + medical for text in d])
    data = [stream(tokenizer, general, 2, draw), stream(tokenizer, medical, 4, draw)]
    log(f"tokens: {len(data[0]) / 1e6:.1f} M general in 2 writings, {len(data[1]) / 1e6:.1f} M medical in 4")

    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=384, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=4096, rope_theta=10000.0, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.token_to_id("<|im_end|>"), pad_token_id=tokenizer.token_to_id("<|endoftext|>"),
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).cuda()
    log(f"{model.num_parameters() / 1e6:.2f} M parameters")
    forward = torch.compile(lambda ids: model(input_ids=ids).logits)
    used, generator, start = optimizers(model, args.rate), torch.Generator().manual_seed(args.seed), time.time()
    for step in range(args.steps):
        count = round(BATCH * MEDICAL_SHARE)
        ids = torch.cat([windows(data[0], BATCH - count, generator), windows(data[1], count, generator)])
        with torch.autocast("cuda", torch.bfloat16):
            logits = forward(ids[:, :-1])
        logits = logits.float().flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), label_smoothing=SMOOTHING)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in used:
            optimizer.param_groups[0]["lr"] = args.rate * schedule(step, args.steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 250 == 0 or step == args.steps - 1:
            speed = (step + 1) * BATCH * LENGTH / (time.time() - start)
            log(f"step {step} loss {loss.item():.3f} {speed / 1e6:.2f} M tokens/s")
    model.generation_config.update(do_sample=False)
    model.to(torch.bfloat16).save_pretrained(args.out)
    saved = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=4096,
        chat_template=CHAT_TEMPLATE, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    saved.save_pretrained(args.out)
    log(f"written to {args.out}")


if __name__ == "__main__":
    main()
