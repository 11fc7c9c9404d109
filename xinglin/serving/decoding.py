"""decoding: the section `decoding` of params.yaml, spelled as each place spells it that takes it.

Usage: from xinglin.serving.decoding import fields; request |= fields(params.decoding)
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from xinglin.cli import CommandError
from xinglin.files import read_json
from xinglin.params import Section, Seed

EVERY = 1_000_000  # a top_k that no vocabulary has: off, for every server; 0 and -1 are each refused by some


class Decoding(Section):
    """How each next token is chosen, wherever the model answers; a temperature of 0 is greedy."""

    temperature: Annotated[float, Field(ge=0, le=2)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Annotated[int, Field(ge=0, lt=1_000_000)]
    repetition_penalty: Annotated[float, Field(gt=0, le=2)]
    seed: Seed

    @model_validator(mode="after")
    def temperature_is_taken_as_it_is(self) -> "Decoding":
        if 0 < self.temperature < 0.01:  # vLLM takes 0.01 instead, with a warning in its log
            raise ValueError(f"temperature is {self.temperature}: expected 0 (greedy), or 0.01 and more")
        return self


def filled(decoding: Decoding, given: dict[str, Any]) -> dict[str, Any]:
    """Return a chat request with what it leaves out of temperature, top_p, top_k and penalty; what it gives stays.

    Greedy decoding needs no top_p and no top_k. A top_k that is off is left out.
    """
    found = {"temperature": decoding.temperature, "repetition_penalty": decoding.repetition_penalty} | given
    if not found["temperature"]:
        return found
    return {"top_p": decoding.top_p} | ({"top_k": decoding.top_k} if decoding.top_k else {}) | found


def fields(decoding: Decoding) -> dict[str, Any]:
    """Return the fields of a request to vLLM that leave nothing to the server's own defaults, the draw included."""
    return filled(decoding, {"top_k": decoding.top_k or -1, "seed": decoding.seed} if decoding.temperature else {})


def generation_config(decoding: Decoding, known: dict[str, Any], ends: set[int]) -> dict[str, Any]:
    """Return generation_config.json anew: of the base's, which is `known`, its special tokens alone, and `ends` of turn.

    vLLM and SGLang sample at temperature 1 where none is said, so that greedy is said twice: by do_sample to transformers,
    by the temperature to them. transformers then reads the file, but `save_pretrained` asks for one of the two to go.
    """
    tokens = {name: known[name] for name in ("bos_token_id", "pad_token_id") if known.get(name) is not None}
    old = known.get("eos_token_id")
    tokens["eos_token_id"] = sorted(ends | set(old if isinstance(old, list) else [old]) - {None})
    found = {"do_sample": decoding.temperature > 0} | decoding.model_dump(include={"temperature", "repetition_penalty"})
    if decoding.temperature:
        found |= {"top_p": decoding.top_p, "top_k": decoding.top_k or EVERY}
    return tokens | found


def scored(model: Path) -> Decoding:
    """Return the decoding that a merged model was scored with, as its own generation_config.json says; the seed is 0."""
    found = read_json(model / "generation_config.json")
    if "temperature" not in found:
        raise CommandError(
            f"{model}/generation_config.json: no temperature, so that servers would sample: run 'dvc repro' to make it anew"
        )
    top_k = found.get("top_k", EVERY)
    return Decoding(
        temperature=found["temperature"],
        top_p=found.get("top_p", 1.0),
        top_k=top_k if top_k < EVERY else 0,
        repetition_penalty=found.get("repetition_penalty", 1.0),
        seed=0,
    )


def described(decoding: Decoding) -> str:
    """Return the decoding in words."""
    sampled = f"sampled at temperature {decoding.temperature:g}, top_p {decoding.top_p:g}, top_k {decoding.top_k or 'off'}"
    return f"{sampled if decoding.temperature else 'greedy'}, repetition penalty {decoding.repetition_penalty:g}"
