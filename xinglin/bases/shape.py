"""The sizes of a model by its config.json: parameters, layers, and whether a layer carries a state from token to token."""

from types import SimpleNamespace
from typing import Any, NamedTuple

from xinglin.cli import CommandError

STATELESS = {"full_attention", "sliding_attention", "chunked_attention", "attention", "sparse", "dense", "moe"}  # layer types
STATEFUL = {  # model types that have others, for a config.json without layer types
    "bamba",
    "falcon_h1",
    "falcon_mamba",
    "granitemoehybrid",
    "jamba",
    "lfm2",
    "lfm2_moe",
    "mamba",
    "mamba2",
    "minimax",
    "nemotron_h",
    "olmo_hybrid",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
    "qwen3_5_text",
    "qwen3_next",
    "recurrent_gemma",
    "rwkv",
    "xlstm",
    "zamba",
    "zamba2",
}
NOT_IN_PACKS = (
    "adapter.neat_packing: true: the base is a {}, whose layers carry a state from token to token (linear attention, Mamba, "
    "a convolution), so that a pack's dialogues would run into each other: set it to false"
)


class Sizes(NamedTuple):
    """The sizes of a language model, by their names in config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool


def language_model(config: dict[str, Any]) -> Any:
    """Return what a config.json says of the language model, as transformers' own class reads it if it has one."""
    if kind := config.get("model_type"):
        from transformers import CONFIG_MAPPING

        if kind in CONFIG_MAPPING:
            try:
                return CONFIG_MAPPING[kind].from_dict(dict(config)).get_text_config()
            except Exception as error:  # of many kinds: each class checks itself
                raise CommandError(
                    f"config.json of the base: {' '.join(str(error).split())}: fetch the base again, or take another"
                )
    return SimpleNamespace(**(config.get("text_config") or config))


def sizes(config: dict[str, Any]) -> Sizes:
    """Return the sizes that a config.json gives, wherever they stand in it; stop with one line if one of them is not there."""
    found = language_model(config)
    known: dict[str, Any] = {name: getattr(found, name, None) for name in Sizes._fields}
    known["tie_word_embeddings"] = bool(config.get("tie_word_embeddings", known["tie_word_embeddings"]))
    known["num_key_value_heads"] = known["num_key_value_heads"] or known["num_attention_heads"]
    if not known["head_dim"] and known["hidden_size"] and known["num_attention_heads"]:
        known["head_dim"] = known["hidden_size"] // known["num_attention_heads"]
    for name, value in known.items():
        if not isinstance(value, int):
            what = f"{name} is {value} in a model of type {config.get('model_type')}"
            cure = "take a base with layers as Qwen2, Qwen3 or Llama have"
            raise CommandError(f"config.json of the base: {what}, so that its need of memory is unknown: {cure}")
    return Sizes(**known)


def carries_state(config: dict[str, Any]) -> bool:
    """Say whether layers carry a state from token to token (linear attention, Mamba, a convolution), which no pack resets."""
    found = (config.get("text_config") or {}) | config
    kinds = found.get("layer_types") or found.get("layers_block_type")
    return bool(set(kinds) - STATELESS) if kinds else found.get("model_type") in STATEFUL


def linear_layers(config: dict[str, Any]) -> list[tuple[int, int]]:
    """Return (in, out) of each linear layer of one block of a Qwen2 or Llama model."""
    size = sizes(config)
    hidden, inner = size.hidden_size, size.intermediate_size
    queries, keys = size.head_dim * size.num_attention_heads, size.head_dim * size.num_key_value_heads
    return [
        (hidden, queries),
        (hidden, keys),
        (hidden, keys),
        (queries, hidden),
        (hidden, inner),
        (hidden, inner),
        (inner, hidden),
    ]


def embeddings(config: dict[str, Any]) -> int:
    """Return how many weights the embedding and the output layer have, which may be one."""
    size = sizes(config)
    return size.vocab_size * size.hidden_size * (1 if size.tie_word_embeddings else 2)


def parameters(config: dict[str, Any]) -> int:
    """Return how many weights the model has; biases and norms are not counted."""
    return embeddings(config) + sizes(config).num_hidden_layers * sum(a * b for a, b in linear_layers(config))
