"""The configuration of a merged model in the dialects of transformers 4 and 5 at once, so that any server reads it right.

Version 5 writes `rope_parameters` and `dtype`, where 4 reads `rope_theta`, `rope_scaling` and `torch_dtype`: without them
it takes a rope_theta of 10,000, silently (vllm-project/vllm#42624, #44158).
"""

from typing import Any

DEFAULT_THETA = 10_000.0


def both_dialects(original: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return the base's own config.json with the keys of both versions, equal in what they say, and the merged `dtype`."""
    config = {key: value for key, value in original.items() if key not in ("dtype", "torch_dtype")} | {
        "dtype": dtype,
        "torch_dtype": dtype,
    }
    rope = original.get("rope_parameters")
    if rope is None:
        scaling = original.get("rope_scaling") or {}
        if nested(scaling) or "rope_theta" not in original:
            return config  # of a base without one rotary embedding for all layers: 5 reads the keys of 4
        kind = scaling.get("rope_type") or scaling.get("type") or "default"
        rest = {key: value for key, value in scaling.items() if key != "type"}
        return config | {"rope_parameters": rest | {"rope_type": kind, "rope_theta": original["rope_theta"]}}
    if nested(rope):
        return config
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    stretched = scaling.get("rope_type", "default") != "default"
    return config | {"rope_theta": rope.get("rope_theta", DEFAULT_THETA), "rope_scaling": scaling if stretched else None}


def nested(rope: dict[str, Any]) -> bool:
    """Say whether layers of several kinds have rotary embeddings of their own."""
    return any(isinstance(value, dict) for value in rope.values())
