"""What a GPU host without network is timed with: the real architectures with random weights, dialogues of HuatuoGPT's lengths."""

import math
import random
from pathlib import Path

from stages.common import read_jsonl, write_json, write_jsonl

COLUMNS = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}
SHAPES: dict[str, dict] = {  # config.json of Qwen2.5-1.5B and -7B
    "tiny": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 8192, "tie_word_embeddings": True},
    "1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
}  # fmt: skip
TURNS, LONGER = 0.42, (2, 5)  # share of dialogues with more than one question (94,874 of 226,042), and how many they have
MEDIANS = (246, 90)  # characters of the one answer, and of each of several


def make_base(size: str, tokenizer: Path, out: Path) -> None:
    """Write a Qwen2 model of that size with random bfloat16 weights, and the embedded base's tokenizer."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    words = AutoTokenizer.from_pretrained(tokenizer)
    config = Qwen2Config(
        **SHAPES[size], max_position_embeddings=32768, rope_theta=1e6, dtype="bfloat16",
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    with torch.no_grad():  # it answers with tokens that the tokenizer has a text for: others take vLLM forty times as long to decode
        model.get_output_embeddings().weight[len(words) :] = 0
    model.save_pretrained(out)
    words.save_pretrained(out)


def make_split(sample: Path, sizes: dict[str, int], out: Path) -> None:
    """Write train, val and test as the split stage does, of text cut from the embedded sample."""
    text = "".join(said[2:] for row in read_jsonl(sample) for said in row["data"])

    def cut(length: int, draw: random.Random) -> str:
        start = draw.randrange(len(text) - length)
        return text[start : start + length]

    def dialogue(draw: random.Random) -> dict:
        turns = draw.randint(*LONGER) if draw.random() < TURNS else 1
        lengths = [draw.lognormvariate(math.log(MEDIANS[turns > 1]), 0.43) for _ in range(turns)]
        said = [(cut(draw.randint(12, 80), draw), cut(min(900, max(20, int(length))), draw)) for length in lengths]
        return {"instruction": said[-1][0], "input": "", "output": said[-1][1], "system": "", "history": said[:-1]}

    out.mkdir()
    for part, count in sizes.items():
        draw = random.Random(part)
        write_jsonl(out / f"{part}.jsonl", (dialogue(draw) for _ in range(count)))
    write_json(out / "dataset_info.json", {part: {"file_name": f"{part}.jsonl", "columns": COLUMNS} for part in sizes})
