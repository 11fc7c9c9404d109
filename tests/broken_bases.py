"""Bases that people bring and that must be refused: each kind takes the folder of a good tiny base and breaks it."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.bases import EMBEDDING, write_shards, write_vocabulary
from xinglin.files import file_sha256, read_json, write_json

if TYPE_CHECKING:
    import torch

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
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        "image_token_id": 151655,
        "text_config": text | linear | {"model_type": "qwen3_5_text"},
        "tie_word_embeddings": old["tie_word_embeddings"],
        "transformers_version": "4.57.0.dev0",
        "video_token_id": 151656,
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
    "_load_in_4bit": True,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_type": "nf4",
    "load_in_4bit": True,
    "quant_method": "bitsandbytes",
}
INT4 = {"group_size": 32, "num_bits": 4, "strategy": "group", "symmetric": True, "type": "int"}
PACKED = {
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": INT4}},
    "format": "pack-quantized",
    "ignore": ["lm_head"],
    "quant_method": "compressed-tensors",
    "quantization_status": "compressed",
}
CHATGLM = {
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.2",
    "auto_map": {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
    },
    "ffn_hidden_size": 128,
    "hidden_size": 64,
    "kv_channels": 32,
    "multi_query_group_num": 1,
    "num_attention_heads": 2,
    "num_layers": 2,
    "padded_vocab_size": 151936,
}
SEEING = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "model_type": "qwen2_vl",
    "image_token_id": 151655,
    "rope_scaling": {"mrope_section": [4, 6, 6], "type": "mrope"},
    "video_token_id": 151656,
    "vision_end_token_id": 151653,
    "vision_config": {"depth": 1, "embed_dim": 64, "hidden_size": 64, "in_chans": 3, "num_heads": 2, "patch_size": 14},
    "vision_start_token_id": 151652,
    "vision_token_id": 151654,
}
BERT = {
    "architectures": ["BertForMaskedLM"],
    "model_type": "bert",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 151936,
}
T5 = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "is_encoder_decoder": True,
    "d_ff": 128,
    "d_kv": 32,
    "d_model": 64,
    "num_heads": 2,
    "num_layers": 2,
    "vocab_size": 151936,
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
