"""What can be wrong with a base and the parameters beside it, told by its files alone, before anything is trained.

Each thing that is wrong is named with its cure, in about a second. What only loading can tell is the proof's, proof.py.
"""

import ast
import json
import re
import struct
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from xinglin.bases import chat_template, shape
from xinglin.bases.folder import LOADED
from xinglin.params import ParamsFile, Part
from xinglin.serving.server import vllm_python

POINTER = b"version https://git-lfs"
PICKLED = (".bin", ".pth", ".pt")
LAYER = re.compile(r"\blayers\.(\d+)\.")
FLOATS = ("F64", "F32", "F16", "BF16")
STRETCHED = ("linear", "dynamic", "yarn")  # rotary embeddings whose factor lengthens what the model reads
NOT_SERVED = ("lm_head", "embed_tokens")  # an adapter on these is refused by vLLM (vllm-project/vllm#32599)
SHOWN = 5  # templates that are proposed


class Trained(Part):
    cutoff_len: int
    finetuning_type: str
    lora_target: str
    mask_history: bool
    neat_packing: bool
    template: str


class Length(Part):
    max_model_len: int


class Asked(ParamsFile):
    """The parameters that a base must suffice."""

    adapter: Trained
    predictions: Length
    serve: Length


class Wanted(NamedTuple):
    """What the parameters ask of a base."""

    template: str
    mask_history: bool
    neat_packing: bool
    lora_target: str  # "" where every weight is trained
    lengths: dict[str, int]  # tokens, by parameter


def wanted(asked: Asked) -> Wanted:
    adapter = asked.adapter
    lengths = {
        "adapter.cutoff_len": adapter.cutoff_len,
        "predictions.max_model_len": asked.predictions.max_model_len,
        "serve.max_model_len": asked.serve.max_model_len,
    }
    target = adapter.lora_target if adapter.finetuning_type == "lora" else ""
    return Wanted(adapter.template, adapter.mask_history, adapter.neat_packing, target, lengths)


def file_problems(folder: Path, want: Wanted) -> list[str]:
    """Return a line for each thing that is wrong with the files of a base, by reading them alone."""
    if not folder.is_dir():
        return [f"{folder}: no such folder"]
    for check in (missing, pointers, unreadable):
        if found := list(check(folder)):
            return found
    config = read(folder / "config.json")
    if found := [*kind(config), *remote_code(folder, config)]:
        return found
    try:
        headers = {file: header(file) for file in shards(folder)}
    except ValueError as error:
        return [str(error)]
    found = [*tensors(folder, headers)]
    return found or [*shapes(config, headers), *vocabulary(folder, config, want), *settings(config, headers, want)]


def missing(folder: Path) -> Iterator[str]:
    """Yield what a folder lacks to be a model that transformers and vLLM load."""
    names = {file.name for file in folder.iterdir()}
    if dead := sorted(name for name in names if not (folder / name).exists()):
        yield f"{dead[0]} is a link to a file that is not there: copy the hub's cache whole, or with 'cp -rL'"
    elif "modules.json" in names:
        yield "it is a model of sentence embeddings (modules.json), which gives no answers: take a chat model"
    elif "config.json" not in names:
        yield without_config(folder, names)
    elif "tokenizer.json" not in names:
        yield (
            "no tokenizer.json: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers writes one, into a copy"
        )
    elif gone := sorted({file.name for file in shards(folder)} - names):
        pickled = [name for name in names if name.endswith(PICKLED)]
        if pickled and not any(name.endswith(".safetensors") for name in names):
            yield (
                f"its weights are pickled ({min(pickled)}), which runs code when they "
                "are read: take a revision with safetensors"
            )
        else:
            yield f"no {gone[0]}: the download is incomplete, or the weights are not safetensors"


def without_config(folder: Path, names: set[str]) -> str:
    """Return what a folder without config.json is instead of a model."""
    if "adapter_config.json" in names:
        return "it is an adapter, not a base: name the model that it was trained on"
    if any(name.endswith(".gguf") for name in names):
        return "it holds GGUF, which cannot be trained: take the model's safetensors"
    if below := sorted(folder.rglob("config.json")):
        return f"no config.json: the model is further down, in {below[0].parent}"
    return "no config.json: it holds no model of transformers, or the download is incomplete"


def pointer(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(POINTER)) == POINTER


def pointers(folder: Path) -> Iterator[str]:
    """Yield the files that git-lfs did not fetch."""
    found = [file.name for file in sorted(folder.iterdir()) if file.suffix in LOADED and file.is_file() and pointer(file)]
    if found:
        yield f"{found[0]} is a git-lfs pointer, not the file ({len(found)} of them): run 'git lfs pull' in that folder"


def unreadable(folder: Path) -> Iterator[str]:
    """Yield the JSON files that are none."""
    for file in sorted(folder.glob("*.json")):
        try:
            value = json.loads(file.read_bytes())
        except ValueError as error:
            yield f"{file.name}: not JSON: {error}: fetch it again"
            continue
        if file.name == "config.json" and not (isinstance(value, dict) and value.get("model_type")):
            yield "config.json: no model_type, so that transformers does not know what it is: fetch it again"
        if file.name == "tokenizer.json" and not (isinstance(value, dict) and value.get("model")):
            yield "tokenizer.json: no vocabulary in it: fetch it again"


def read(file: Path) -> dict[str, Any]:
    """Return a JSON object of the base, {} where the file is absent or no such thing."""
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


@cache
def trained_architectures() -> dict[str, str]:
    """Return transformers' causal language models, {model_type: architecture}, from its source: the import takes seconds."""
    node = assigned(package_of("transformers") / "models" / "auto" / "modeling_auto.py", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")
    pairs = [part for part in ast.walk(node) if isinstance(part, ast.Tuple) and len(part.elts) == 2]
    texts = [[part.value for part in pair.elts if isinstance(part, ast.Constant)] for pair in pairs]
    return {str(pair[0]): str(pair[1]) for pair in texts if len(pair) == 2}


@cache
def served_architectures() -> set[str]:
    """Return the text models that the installed vLLM knows, read from its source."""
    (folder,) = vllm_python().parent.parent.glob("lib/python*/site-packages/vllm")
    node = assigned(folder / "model_executor" / "models" / "registry.py", "_TEXT_GENERATION_MODELS")
    return {str(key.value) for key in getattr(node, "keys", []) if isinstance(key, ast.Constant)}


def package_of(name: str) -> Path:
    from importlib.util import find_spec

    spec = find_spec(name)
    assert spec and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def assigned(file: Path, name: str) -> ast.AST:
    """Return the value that the source in `file` gives to `name`."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == name for target in node.targets):
            return node.value
    raise LookupError(f"{file}: no {name}")


def kind(config: dict[str, Any]) -> Iterator[str]:
    """Yield why a model of this config.json is none that is trained and served here."""
    architecture = (config.get("architectures") or ["none"])[0]
    if method := config.get("quantization_config"):
        name = method.get("quant_method", "an unknown method") if isinstance(method, dict) else method
        yield (
            f"config.json: quantization_config: the weights are quantised ({name}), which cannot be trained: "
            "take the model that they were made from; adapter.quantization_bit: 4 trains it in 4 bit"
        )
    if "vision_config" in config or "audio_config" in config:
        yield f"config.json: {architecture} reads images or sound, text models alone are trained here: take a text-only base"
    elif config.get("auto_map"):
        return  # of which remote_code tells
    elif architecture not in trained_architectures().values():
        yield (
            f"config.json: architectures: {architecture}: transformers has no causal "
            "language model of that name: take another base"
        )
    elif architecture not in served_architectures():
        yield f"config.json: architectures: {architecture}: vLLM does not serve it: take another base"
    elif "hidden_size" not in config:
        yield "config.json: no hidden_size, so this is no text model: take a text-only base"


def remote_code(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """Yield where a base asks for code of its own, which nobody here has read."""
    native = (config.get("architectures") or [""])[0] in trained_architectures().values() and config.get(
        "model_type"
    ) in trained_architectures()
    for name, known in (("config.json", config), ("tokenizer_config.json", read(folder / "tokenizer_config.json"))):
        if known.get("auto_map") and not (native and name == "config.json"):
            yield (
                f"{name}: auto_map: it runs code from the hub, which is not allowed here: "
                "take a base that transformers itself knows"
            )


def shards(folder: Path) -> list[Path]:
    """Return the files that hold the weights."""
    index = read(folder / "model.safetensors.index.json").get("weight_map", {})
    return [folder / name for name in sorted(set(index.values()) or {"model.safetensors"})]


def header(file: Path) -> dict[str, dict]:
    """Return the tensors of a safetensors file (8 bytes of length, then JSON text); raises ValueError where it is cut short."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        try:
            found: dict[str, dict] = json.loads(opened.read(length)) if length < size else {}
            found.pop("__metadata__", None)
            ends = 8 + length + max(tensor["data_offsets"][1] for tensor in found.values())
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{file.name}: not safetensors, or damaged: fetch it again") from error
    if ends != size:
        raise ValueError(f"{file.name}: {size:,} bytes, its tensors take {ends:,}: the download is incomplete, fetch it again")
    return found


def tensors(folder: Path, headers: dict[Path, dict[str, dict]]) -> Iterator[str]:
    """Yield what the index names and the shards lack, and weights that are no floating-point numbers."""
    index = read(folder / "model.safetensors.index.json").get("weight_map", {})
    for name, file in index.items():
        if name not in headers[folder / file]:
            yield f"{file}: no tensor {name}, which model.safetensors.index.json places there: fetch both again"
            return
    for file, found in headers.items():
        for name, tensor in found.items():
            if tensor["dtype"] not in FLOATS:
                yield (
                    f"{file.name}: {name} is {tensor['dtype']}: the weights are quantised, which "
                    "cannot be trained: take the unquantised model"
                )
                return


def shape_of(headers: dict[Path, dict[str, dict]], end: str) -> list[int]:
    """Return the shape of the first tensor whose name ends so, [] if there is none."""
    return next((tensor["shape"] for found in headers.values() for name, tensor in found.items() if name.endswith(end)), [])


def shapes(config: dict[str, Any], headers: dict[Path, dict[str, dict]]) -> Iterator[str]:
    """Yield where config.json and the weights' shapes part, for layers named as Llama's and Qwen's are."""
    heads, hidden = config.get("num_attention_heads", 0), config["hidden_size"]
    head = config.get("head_dim") or hidden // max(heads, 1)
    keys = config.get("num_key_value_heads")
    expected = {
        "embed_tokens.weight": (("vocab_size", config.get("vocab_size")), ("hidden_size", hidden)),
        "layers.0.self_attn.q_proj.weight": (("num_attention_heads × head size", heads * head), ("hidden_size", hidden)),
        "layers.0.self_attn.k_proj.weight": (("num_key_value_heads × head size", (keys or 0) * head), ("hidden_size", hidden)),
        "layers.0.mlp.gate_proj.weight": (("intermediate_size", config.get("intermediate_size")), ("hidden_size", hidden)),
    }
    rows = shape_of(headers, "layers.0.self_attn.k_proj.weight")
    if keys is None and rows and heads and rows[0] != heads * head:
        yield f"config.json: no num_key_value_heads: the weights have {rows[0] // head} such heads: set it so"
        return
    for end, sizes in expected.items():
        for found, (key, size) in zip(shape_of(headers, end), sizes, strict=False):
            if size and found != size:
                yield f"config.json: {key} is {size}, {end} has {found}: config.json and weights are of two models"
                return
    numbers = {int(part[1]) for names in headers.values() for name in names if (part := LAYER.search(name))}
    if (
        config.get("tie_word_embeddings") is False
        and shape_of(headers, "embed_tokens.weight")
        and not shape_of(headers, "lm_head.weight")
    ):
        yield (
            "config.json: tie_word_embeddings is false, and no lm_head.weight is there: "
            "config.json and weights are of two models"
        )
    layers = config.get("num_hidden_layers")
    if numbers and layers and not set(range(layers)) <= numbers:
        yield (
            f"config.json: num_hidden_layers is {layers}, the weights lack layer "
            f"{min(set(range(layers)) - numbers)}: the download is incomplete"
        )


def vocabulary(folder: Path, config: dict[str, Any], want: Wanted) -> Iterator[str]:
    """Yield tokens without a row in the embedding, and control tokens of the template that are none here."""
    known = read(folder / "tokenizer.json")
    added = {token["content"]: token["id"] for token in known.get("added_tokens", [])}
    words = known.get("model", {}).get("vocab", {})
    most = max([*added.values(), *(words.values() if isinstance(words, dict) else [len(words) - 1])], default=0)
    if most >= config.get("vocab_size", most + 1):
        yield (
            f"tokenizer.json: token {most} has no row in an embedding of "
            f"{config['vocab_size']}: tokenizer and weights are of two models"
        )
    templates = chat_template.known_templates()
    if want.template not in templates:
        near = get_close_matches(want.template, templates, SHOWN) or sorted(templates)
        yield (
            f"adapter.template: {want.template}: LLaMA-Factory has no such template, "
            f"expected one such as {', '.join(near[:SHOWN])}"
        )
        return
    here = set(added) | set(words if isinstance(words, dict) else [])
    if lacking := sorted(templates[want.template] - here):
        yield f"adapter.template: {want.template}: {lacking[0]} is no token of this base: {proposal(here)}"


def proposal(tokens: set[str]) -> str:
    """Return which templates spell control tokens, all of which a vocabulary has."""
    fitting = sorted(name for name, spelt in chat_template.known_templates().items() if spelt and spelt <= tokens)
    return (
        f"templates that fit are {', '.join(fitting[: SHOWN * 2])}"
        if fitting
        else "no template of LLaMA-Factory's with control tokens fits"
    )


def reads_at_most(config: dict[str, Any]) -> int | None:
    """Return how many tokens the base reads, a stretched rotary embedding counted."""
    longest = config.get("max_position_embeddings")
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if longest and (rope.get("rope_type") or rope.get("type")) in STRETCHED:
        longest = int(rope.get("original_max_position_embeddings", longest) * rope.get("factor", 1))
    return longest


def settings(config: dict[str, Any], headers: dict[Path, dict[str, dict]], want: Wanted) -> Iterator[str]:
    """Yield parameters that this base cannot be trained or served with."""
    longest = reads_at_most(config)
    for name, length in want.lengths.items():
        if longest and length > longest:
            yield f"{name}: {length}: this base reads {longest} tokens at the most: set it to {longest} or less"
    if want.neat_packing and shape.carries_state(config):
        yield shape.NOT_IN_PACKS.format(config["model_type"])
    if not want.lora_target or want.lora_target == "all":
        return
    modules = {part for names in headers.values() for name in names for part in name.split(".")}
    for name in filter(None, (part.strip() for part in want.lora_target.split(","))):
        if name in NOT_SERVED:
            yield (
                f"adapter.lora_target: {name}: vLLM serves no adapter on it: leave it out, or train every weight "
                "(adapter.finetuning_type: full)"
            )
        elif name not in modules and name != "lm_head":
            yield f"adapter.lora_target: {name}: this base has no layer of that name: 'all' takes every linear one"
