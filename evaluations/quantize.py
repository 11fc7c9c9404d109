"""Helper of exports: a merged model in a lighter format; run by .venv-export's Python, which holds the libraries for it.

Usage: python -m evaluations.quantize --model models/merged --format fp8 --rows calibration.jsonl --out models/exports/fp8

fp8: weights in 8 bit floats, a scale for each output channel; activations in 8 bit as they come (compressed-tensors).
gptq: weights in 4 bit, a scale for each group, rounded so that the outputs on `rows` stay (Frantar et al. 2022).
gguf: weights in 8 bit, a scale for each 32 (Q8_0), for llama.cpp and Ollama.
"""

import shutil
from pathlib import Path
from typing import Any

from xinglin.cli import CommandError, run_command, start
from xinglin.files import read_json, read_jsonl

GROUPS = (128, 64, 32)  # how many weights share a scale: the first that divides each layer's input
BLOCK = 32  # weights to a scale in Q8_0
CUT = 2048  # tokens of a calibration row
OWN = ("config.json", "parity.json")  # files of the merged model that do not fit an export


def group_size(config: dict) -> int:
    """Return how many weights of a row share a scale in 4 bit."""
    widths = [config["hidden_size"], config["intermediate_size"], config["num_attention_heads"] * head_size(config)]
    for size in GROUPS:
        if not any(width % size for width in widths):
            return size
    raise CommandError(f"gptq: layers of {widths} inputs: expected multiples of {GROUPS[-1]}")


def head_size(config: dict) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def compressed(kind: str, model: Path, rows: Path, out: Path) -> None:
    """Write the model as fp8 or gptq, in the format that vLLM's own tool writes; lm_head keeps its precision."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    common = {"ignore": ["lm_head"]}
    if kind == "fp8":
        oneshot(model=loaded, recipe=QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", **common))
    else:
        tokenizer = AutoTokenizer.from_pretrained(model)
        texts = [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in read_jsonl(rows)]
        dialogues = Dataset.from_list(
            [dict(tokenizer(text, truncation=True, max_length=CUT, add_special_tokens=False)) for text in texts]
        )
        weights = QuantizationArgs(
            num_bits=4, type="int", symmetric=True, strategy="group", group_size=group_size(read_json(model / "config.json"))
        )
        recipe = GPTQModifier(config_groups={"4 bit": QuantizationScheme(targets=["Linear"], weights=weights)}, **common)
        oneshot(model=loaded, recipe=recipe, dataset=dialogues, max_seq_length=CUT, num_calibration_samples=len(dialogues))
    loaded.generation_config = GenerationConfig()  # save_pretrained would refuse the file, which is copied below
    loaded.save_pretrained(out)
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)  # llm-compressor's are its user's alone
    for file in model.iterdir():
        if file.is_file() and file.name not in OWN and ".safetensors" not in file.name:
            shutil.copyfile(file, out / file.name)  # template, tokenizer, decoding, card: byte for byte


def vocabulary(tokenizer: dict, size: int) -> tuple[list[str], list[str]]:
    """Return each token's text and kind (of gguf's TokenType) by id; ids that the tokenizer leaves free are padded."""
    texts, kinds = [f"[PAD{i}]" for i in range(size)], ["UNUSED"] * size
    for text, number in tokenizer["model"]["vocab"].items():
        texts[number], kinds[number] = text, "NORMAL"
    for token in tokenizer["added_tokens"]:
        texts[token["id"]], kinds[token["id"]] = token["content"], "CONTROL" if token["special"] else "USER_DEFINED"
    return texts, kinds


def rope_base(config: dict) -> float:
    """Return the base of the rotary embedding; a stretched one is an error, its factors are not carried over."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", "default")
    if kind != "default":
        raise CommandError(f"gguf: config.json: rope_type {kind!r}: expected 'default'")
    return float(rope.get("rope_theta") or config["rope_theta"])


def gguf(model: Path, out: Path) -> None:
    """Write `out`/xinglin.gguf: weights, vocabulary, chat template and decoding in one file."""
    import gguf as library

    config = read_json(model / "config.json")
    known = {"qwen2": library.MODEL_ARCH.QWEN2, "qwen3": library.MODEL_ARCH.QWEN3}
    if config["model_type"] not in known:
        raise CommandError(f"gguf: config.json: model_type {config['model_type']!r}: expected one of {', '.join(known)}")
    arch = known[config["model_type"]]
    writer = library.GGUFWriter(out / "xinglin.gguf", library.MODEL_ARCH_NAMES[arch])
    describe(writer, config, library.LlamaFileType.MOSTLY_Q8_0)
    put_tokenizer(writer, model, config, library.TokenType)
    put_decoding(writer, read_json(model / "generation_config.json"), config["max_position_embeddings"])
    names = library.get_tensor_name_map(arch, config["num_hidden_layers"])
    for name, tensor in tensors(model):
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        block = tensor.ndim == 2 and tensor.shape[1] % BLOCK == 0
        kind = library.GGMLQuantizationType.Q8_0 if block else library.GGMLQuantizationType.F32
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), library.quants.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=True)
    writer.close()
    shutil.copyfile(model / "README.md", out / "README.md")


def describe(writer: Any, config: dict, kind: int) -> None:
    """Write the shape of the model."""
    writer.add_name("xinglin")
    writer.add_file_type(kind)
    writer.add_quantization_version(2)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope_base(config))


def put_tokenizer(writer: Any, model: Path, config: dict, kinds: Any) -> None:
    """Write vocabulary, merges, end of turn and chat template; nothing is put before a prompt but what the template says."""
    tokenizer = read_json(model / "tokenizer.json")
    texts, types = vocabulary(tokenizer, config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(texts)
    writer.add_token_types([kinds[name] for name in types])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(texts.index(end_of_turn(read_json(model / "tokenizer_config.json"))))
    writer.add_add_bos_token(False)
    writer.add_chat_template((model / "chat_template.jinja").read_text(encoding="utf-8"))


def put_decoding(writer: Any, generation: dict, context: int) -> None:
    """Write the decoding of generation_config.json: llama.cpp's own would cut at top_k 40, top_p 0.95 and min_p 0.05."""
    writer.add_sampling_temp(generation["temperature"])
    writer.add_sampling_top_p(generation.get("top_p", 1.0))
    writer.add_sampling_top_k(generation.get("top_k", 0))
    writer.add_sampling_min_p(0.0)
    writer.add_sampling_penalty_repeat(generation["repetition_penalty"])
    writer.add_sampling_penalty_last_n(context)  # -1 would switch it off


def end_of_turn(tokenizer_config: dict) -> str:
    token = tokenizer_config["eos_token"]
    return token if isinstance(token, str) else token["content"]


def tensors(model: Path):  # type: ignore[no-untyped-def]
    """Yield name and float32 array of each tensor."""
    from safetensors import safe_open

    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118, not a dict
                yield name, weights.get_tensor(name).float().numpy()


def main() -> None:
    paths = start(__doc__, "model", "format", "rows", "out")
    paths.out.mkdir(parents=True)
    if str(paths.format) == "gguf":
        gguf(paths.model, paths.out)
    else:
        compressed(str(paths.format), paths.model, paths.rows, paths.out)


if __name__ == "__main__":
    run_command(main)
