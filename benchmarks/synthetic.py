"""What a GPU host without network is timed with: real architectures with random weights, dialogues of HuatuoGPT's lengths."""

import math
import random
from pathlib import Path

from benchmarks.bases import QWEN2, shape, sizes, write_weights
from xinglin.bases.tokenizer import prepare
from xinglin.files import read_jsonl, write_json, write_jsonl

COLUMNS = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}
SHAPES: dict[str, dict] = {
    "tiny": shape(128, 384, 2, 4, 2) | {"vocab_size": 8192, "tie_word_embeddings": True},
    "1.5b": sizes("qwen2.5", "1.5b"),
    "7b": sizes("qwen2.5-7b", "7b"),
}
TURNS, LONGER = 0.42, (2, 5)  # share of dialogues with more than one question (94,874 of 226,042), and how many they have
MEDIANS = (246, 90)  # characters of the one answer, and of each of several


def make_base(size: str, tokenizer: Path, out: Path) -> None:
    """Write a Qwen2 model of that size with random bfloat16 weights, the embedded base's tokenizer and our chat template."""
    _, words = prepare(tokenizer, out, "qwen")
    ends = {"bos_token_id": None, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    config = QWEN2 | SHAPES[size] | ends
    write_json(out / "config.json", config)
    write_weights(config, len(words), out)


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
