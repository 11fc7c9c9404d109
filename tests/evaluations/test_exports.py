"""The lighter formats: quick tests of what is written, and (make soak) the real export of the embedded model, scored."""

import json
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from ruamel.yaml import YAML
from tokenizers import Tokenizer

from evaluations import exports, llama_server, quantize
from tests.conftest import ROOT, Project, ends, params_with
from xinglin.bases.tokenizer import dialogues, prepare
from xinglin.files import read_json, write_json
from xinglin.scoring.scores import NAMES, RATES
from xinglin.scoring.settings import Metrics
from xinglin.serving.decoding import generation_config

TEMPLATES = ("qwen", "qwen3_nothink", "deepseekr1")


SAMPLED = {"decoding.temperature": 0.7, "decoding.top_p": 0.8, "decoding.top_k": 20, "decoding.repetition_penalty": 1.05}


def test_the_modelfile_holds_file_template_decoding_context_and_stops():
    text = exports.modelfile("{{ .Prompt }}\n", ["<|im_end|>"], params_with(SAMPLED).decoding, 2048)
    assert text.startswith('FROM ./xinglin.gguf\nTEMPLATE """{{ .Prompt }}\n"""\n') and "SYSTEM" not in text
    settings = dict(line.split(" ", 2)[1:] for line in text.splitlines() if line.startswith("PARAMETER"))
    chosen = {
        "temperature": "0.7",
        "top_p": "0.8",
        "top_k": "20",
        "repeat_penalty": "1.05",
        "repeat_last_n": "2048",
        "num_ctx": "2048",
    }
    assert settings == chosen | {"stop": '"<|im_end|>"'}
    assert "PARAMETER temperature 0.0\n" in exports.modelfile("", [], params_with().decoding, 2048)


def test_llama_cpp_is_set_to_context_and_decoding_of_the_parameters():
    params = SimpleNamespace(model=SimpleNamespace(), sampling=SimpleNamespace())
    llama_server.settings(params, "xinglin.gguf", 8000, 2048, params_with(SAMPLED).decoding.model_dump())
    assert (params.model.path, params.hostnames, params.port) == ("xinglin.gguf", ["127.0.0.1"], 8000)
    assert params.n_ctx == 2048 * params.n_parallel
    assert (params.sampling.penalty_repeat, params.sampling.penalty_last_n) == (1.05, 2048)
    assert (params.sampling.temp, params.sampling.top_p, params.sampling.top_k, params.sampling.min_p) == (0.7, 0.8, 20, 0.0)


def test_a_gguf_file_carries_the_decoding_of_the_merged_model():
    written = {}
    names = ("temp", "top_p", "top_k", "min_p", "penalty_repeat", "penalty_last_n")
    writer = SimpleNamespace(**{f"add_sampling_{name}": partial(written.__setitem__, name) for name in names})
    quantize.put_decoding(writer, generation_config(params_with().decoding, {}, {2}), 4096)
    assert written == {"temp": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "penalty_repeat": 1.3, "penalty_last_n": 4096}
    quantize.put_decoding(writer, generation_config(params_with(SAMPLED).decoding, {}, {2}), 4096)
    assert written == {"temp": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.0, "penalty_repeat": 1.05, "penalty_last_n": 4096}


@pytest.mark.parametrize(
    ("gpu", "setting", "expected"),
    [
        (False, "float32", ["float32", "float32", "bfloat16"]),
        (True, "float32", ["float32", "bfloat16", "bfloat16"]),
        (False, "auto", ["float32", "float32", "bfloat16"]),
        (True, "auto", ["bfloat16", "bfloat16", "bfloat16"]),
    ],
)
def test_a_precision_that_a_format_has_no_kernels_for_becomes_a_16_bit_one(monkeypatch, gpu, setting, expected):
    monkeypatch.setattr(exports.server, "on_gpu", lambda: gpu)
    assert [exports.precision(kind, ROOT / "models" / "tiny", setting) for kind in ("merged", "fp8", "gptq")] == expected


def test_formats_that_a_gpu_is_too_old_for_are_one_line_before_any_is_made(workplace, stage, monkeypatch):
    monkeypatch.setattr(exports.server, "on_gpu", lambda: True)
    monkeypatch.setattr(exports.server, "capability", lambda: 7.0)
    exports.check_device(["gguf"])
    workplace({"merged.exports": ["fp8", "gptq", "gguf"]})
    done = stage("exports", **dict.fromkeys(("model", "split", "requirements", "out", "answers", "metrics"), "nothing"))
    assert done.status == 2 and done.err.count("\n") == 1
    assert "merged.exports: fp8, gptq: vLLM needs a GPU of compute capability 7.5, this one has 7.0: take gguf" in done.error
    monkeypatch.setattr(exports.server, "capability", lambda: None)
    exports.check_device(["fp8"])


def test_calibration_is_of_training_rows_with_their_answers(tmp_path):
    rows = [{"instruction": f"问{i}", "input": "", "output": f"答{i}", "system": "", "history": []} for i in range(300)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "turned.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[::-1]))
    drawn = exports.calibration(tmp_path / "train.jsonl")
    assert len(drawn) == exports.CALIBRATION and drawn == exports.calibration(tmp_path / "turned.jsonl")
    question, answer = drawn[0]["messages"]
    assert question["content"][1:] == answer["content"][1:] and (question["role"], answer["role"]) == ("user", "assistant")


def test_groups_divide_every_layer_of_the_profiles_bases(capsys):
    shapes = {(384, 1024, 6): 128, (1536, 8960, 12): 128, (3584, 18944, 28): 128, (320, 864, 5): 32}
    for (hidden, inner, heads), size in shapes.items():
        config = {"hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": heads}
        assert quantize.group_size(config) == size
    with ends():
        quantize.group_size({"hidden_size": 100, "intermediate_size": 100, "num_attention_heads": 4})
    assert "gptq: layers of [100, 100, 100] inputs: expected multiples of 32" in capsys.readouterr().err


def test_a_stretched_rope_is_refused(capsys):
    assert quantize.rope_base({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}) == 1e4
    assert quantize.rope_base({"rope_theta": 1e6}) == 1e6
    with ends():
        quantize.rope_base({"rope_parameters": {"rope_type": "yarn"}})
    assert "rope_type 'yarn': expected 'default'" in capsys.readouterr().err


def test_every_id_of_the_vocabulary_has_a_text_and_a_kind():
    tokenizer = {
        "model": {"vocab": {"a": 0, "b": 1}},
        "added_tokens": [
            {"id": 2, "content": "<|im_end|>", "special": True},
            {"id": 3, "content": "<think>", "special": False},
        ],
    }
    texts, kinds = quantize.vocabulary(tokenizer, 5)
    assert texts == ["a", "b", "<|im_end|>", "<think>", "[PAD4]"]
    assert kinds == ["NORMAL", "NORMAL", "CONTROL", "USER_DEFINED", "UNUSED"]


def test_the_difference_to_the_merged_model_is_paired():
    merged = np.random.default_rng(0).uniform(0, 90, (40, len(NAMES) + len(RATES)))
    found = exports.summary(merged + 1, merged, list(NAMES), Metrics(bootstrap=100, seed=1, embedding_model=None))
    assert found["difference"]["chrf"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert found["chrf"] == pytest.approx(merged[:, NAMES.index("chrf")].mean() + 1, abs=1e-3)


def test_other_token_ids_of_a_prompt_are_named(capsys):
    exports.same_prompts({"a": [1, 2]}, {"a": [1, 2]}, "gguf")
    with ends():
        exports.same_prompts({"a": [1, 2]}, {"a": [1, 3]}, "gguf")
    assert "gguf: sample a: the prompt is read as other token ids" in capsys.readouterr().err


def test_nothing_to_export_and_an_unknown_format_are_one_line(workplace, stage):
    paths = dict.fromkeys(("model", "split", "requirements", "out", "answers", "metrics"), "nothing")
    workplace()
    done = stage("exports", **paths)
    assert done.status == 2 and "merged.exports: []" in done.error and "fp8, gptq, gguf" in done.error
    workplace({"merged.exports": ["awq"]})
    done = stage("exports", **paths)
    assert done.status == 2 and "merged.exports.0: 'awq'" in done.error and "'gptq'" in done.error


def test_a_change_of_exports_merges_nothing_anew():
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    keys = {key.split(".")[1] for key in stages["merged"]["params"] if key.startswith("merged.")}
    assert keys == set(type(params_with().merged).model_fields) - {"exports"}


@pytest.mark.soak
@pytest.mark.parametrize("name", TEMPLATES)
def test_llama_cpp_reads_every_prompt_as_the_tokens_of_the_merged_model(tmp_path, name):
    model = tmp_path / "merged"
    shutil.copytree(ROOT / "models" / "tiny", model)
    _, words = prepare(ROOT / "models" / "tiny", model, name)
    end = read_json(model / "generation_config.json")
    write_json(model / "generation_config.json", generation_config(params_with().decoding, end, {words.eos_token_id}))
    params = params_with({"adapter.template": name})
    exports.make("gguf", model, [], "FROM ./xinglin.gguf", ROOT / "requirements" / "export.txt", tmp_path / "gguf")
    asked = [{"id": str(i), "messages": turns} for i, turns in enumerate(dialogues({"<|im_end|>"}))]
    with exports.serving("gguf", tmp_path / "gguf", params, tmp_path / "log") as [url]:
        found = exports.prompts(url, "gguf", asked)
    template = (model / "chat_template.jinja").read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    expected = {}
    for row in asked:
        prompt = words.apply_chat_template(row["messages"], chat_template=template, tokenize=False, add_generation_prompt=True)
        expected[row["id"]] = tokenizer.encode(prompt, add_special_tokens=False).ids
    exports.same_prompts(expected, found, "gguf")


@pytest.mark.soak
def test_the_embedded_model_is_exported_and_scored_for_real(tmp_path):
    project = Project(tmp_path / "xinglin")
    assert (ROOT / ".venv-export" / "bin" / "python").exists(), "run 'make .venv-export/ready' first"
    short = {"adapter.max_steps": 20, "predictions.max_samples": 6, "merged.gate.gains": {}}  # six answers prove no gain
    project.set(short | {"merged.exports": ["fp8", "gptq", "gguf"]})
    project.dvc("repro", "evaluations/dvc.yaml:exports")
    found = json.loads((project.folder / "evaluations" / "exports.json").read_text())
    formats = found["formats"]
    assert found["samples"] == 6 and list(formats) == ["merged", "fp8", "gptq", "gguf"]
    assert formats["gptq"]["bytes"] < formats["gguf"]["bytes"] < formats["fp8"]["bytes"] < formats["merged"]["bytes"]
    assert formats["merged"]["difference"]["chrf"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert all(one["rouge-1"] > 5 for one in formats.values())
    before = (project.folder / "models" / "exports" / "gptq" / "model.safetensors").stat().st_mtime_ns
    project.set({"merged.exports": ["gptq"]})
    project.dvc("repro", "evaluations/dvc.yaml:exports")
    made = project.folder / "models" / "exports"
    assert [folder.name for folder in made.iterdir()] == ["gptq"] and (
        made / "gptq" / "model.safetensors"
    ).stat().st_mtime_ns == before
