"""One decoding in the words of every server, and what both environments read of it in the merged model."""

import json
import subprocess
import sys

import pytest

from tests.conftest import params_with
from xinglin.serving import server
from xinglin.serving.decoding import Decoding, described, fields, filled, generation_config, scored

GREEDY = params_with().decoding
SAMPLED = Decoding(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05, seed=7)
ANY_TOP_K = SAMPLED.model_copy(update={"top_k": 0, "top_p": 1.0})
BASES = {  # what hubs hold
    "qwen2.5": {
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "repetition_penalty": 1.1,
        "eos_token_id": [9, 8],
        "pad_token_id": 8,
    },
    "r1": {
        "_from_model_config": True,
        "bos_token_id": 1,
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.95,
        "eos_token_id": 9,
    },
    "none": {},
}


def test_what_a_client_leaves_out_is_as_scored_and_what_it_sets_stays():
    assert filled(GREEDY, {"model": "x"}) == {"model": "x", "temperature": 0, "repetition_penalty": 1.3}
    assert filled(GREEDY, {"temperature": 0.5}) == {"temperature": 0.5, "top_p": 1, "repetition_penalty": 1.3}
    assert filled(SAMPLED, {"top_p": 0.1}) == {"temperature": 0.7, "top_p": 0.1, "top_k": 20, "repetition_penalty": 1.05}
    assert filled(SAMPLED, {"temperature": 0}) == {"temperature": 0, "repetition_penalty": 1.05}
    assert "top_k" not in filled(ANY_TOP_K, {})


def test_a_scored_answer_leaves_nothing_to_the_server_and_draws_by_the_seed():
    assert fields(GREEDY) == {"temperature": 0, "repetition_penalty": 1.3}
    assert fields(SAMPLED) == SAMPLED.model_dump()
    assert fields(ANY_TOP_K) == SAMPLED.model_dump() | {"top_k": -1, "top_p": 1}


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED, ANY_TOP_K])
@pytest.mark.parametrize("base", BASES)
def test_the_merged_models_own_file_says_what_was_scored_and_keeps_the_bases_tokens(tmp_path, base, decoding):
    found = generation_config(decoding, BASES[base], {2})
    (tmp_path / "generation_config.json").write_text(json.dumps(found))
    assert scored(tmp_path) == decoding.model_copy(
        update={"seed": 0} | ({} if decoding.temperature else {"top_p": 1.0, "top_k": 0})
    )
    assert (
        found["eos_token_id"] == {"qwen2.5": [2, 8, 9], "r1": [2, 9], "none": [2]}[base] and "_from_model_config" not in found
    )
    assert {name: found[name] for name in ("pad_token_id", "bos_token_id") if name in found} == {
        "qwen2.5": {"pad_token_id": 8},
        "r1": {"bos_token_id": 1},
        "none": {},
    }[base]


READ = """
import json, sys
from types import SimpleNamespace
from transformers import GenerationConfig
given = GenerationConfig.from_pretrained(sys.argv[1])
said = {"transformers": given.do_sample}
if sys.argv[2] == "vllm":
    from vllm.config.model import ModelConfig
    how = SimpleNamespace(
        generation_config=sys.argv[1], override_generation_config={}, try_get_generation_config=given.to_diff_dict
    )
    said["vllm"] = ModelConfig.get_diff_sampling_param(how)
print(json.dumps(said))
"""


@pytest.mark.parametrize("decoding", [GREEDY, ANY_TOP_K])
def test_transformers_and_vllm_read_it_as_the_scored_decoding(tmp_path, decoding):
    (tmp_path / "generation_config.json").write_text(json.dumps(generation_config(decoding, BASES["qwen2.5"], {2})))
    said = {}
    for name, python in (("transformers", sys.executable), ("vllm", str(server.vllm_python()))):
        done = subprocess.run([python, "-c", READ, str(tmp_path), name], capture_output=True, text=True, check=True)
        said |= json.loads(done.stdout.splitlines()[-1])
    own = {"temperature": decoding.temperature, "repetition_penalty": decoding.repetition_penalty}
    every = {"top_p": 1.0, "top_k": 1_000_000} if decoding.temperature else {}
    assert said == {"transformers": decoding.temperature > 0, "vllm": own | every}


def test_it_is_said_in_words():
    assert described(GREEDY) == "greedy, repetition penalty 1.3"
    assert described(ANY_TOP_K) == "sampled at temperature 0.7, top_p 1, top_k off, repetition penalty 1.05"
