"""config.json of a merged model says the same to transformers 4 and 5 as the base's own."""

import json
import subprocess

import pytest

from benchmarks import bases
from tests.conftest import ROOT
from xinglin.bases.dialects import both_dialects

READ = """
import json, sys
from transformers import AutoConfig
found = {}
for name in sys.argv[1:]:
    config = AutoConfig.from_pretrained(name)
    rope = dict(getattr(config, "rope_parameters", None) or {"rope_theta": config.rope_theta, **(config.rope_scaling or {})})
    rope["rope_type"] = rope.pop("type", None) or rope.get("rope_type", "default")
    found[name] = [rope, str(config.dtype).removeprefix("torch."), config.max_position_embeddings, config.tie_word_embeddings]
print(json.dumps(found))
"""
V4 = {"hidden_size": 8, "rope_theta": 1e6, "torch_dtype": "bfloat16", "rope_scaling": None}


def test_keys_of_version_4_are_joined_by_those_of_5():
    found = both_dialects(V4, "float16")
    assert found["rope_theta"] == 1e6 and found["rope_parameters"] == {"rope_theta": 1e6, "rope_type": "default"}
    assert found["dtype"] == found["torch_dtype"] == "float16"


def test_keys_of_version_5_are_joined_by_those_of_4():
    yarn = {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0}
    found = both_dialects({"dtype": "bfloat16", "rope_parameters": yarn}, "bfloat16")
    assert found["rope_theta"] == 1e6 and found["rope_scaling"] == {"rope_type": "yarn", "factor": 4.0}
    plain = both_dialects({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, "bfloat16")
    assert plain["rope_theta"] == 5e5 and plain["rope_scaling"] is None


def test_layers_with_rotary_embeddings_of_their_own_are_left_alone():
    each = {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}}
    assert both_dialects(each, "bfloat16").items() >= each.items() and "rope_theta" not in both_dialects(each, "bfloat16")


@pytest.mark.parametrize("environment", [".venv", ".venv-vllm", ".venv-transformers4"])
def test_every_version_reads_what_it_reads_of_the_bases_own(tmp_path, hub_folders, environment):
    python = ROOT / environment / "bin" / "python"
    pairs = []
    for folder in hub_folders(*bases.BASES):
        config = json.loads((folder / "config.json").read_text())
        both = tmp_path / folder.name
        both.mkdir()
        (both / "config.json").write_text(json.dumps(both_dialects(config, "bfloat16")))
        pairs.append((str(folder), str(both)))
    done = subprocess.run([str(python), "-c", READ, *sum(pairs, ())], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    for original, both in pairs:
        assert found[both] == found[original]
