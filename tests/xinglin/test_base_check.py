"""A base that cannot be trained, merged or served is told of before training; one that can is proven on its own tokenizer."""

import shutil
import subprocess
import sys
import time

import pytest

from tests import broken_bases as broken
from tests.conftest import ROOT, params_with
from xinglin.bases import check, proof, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")
GOOD = {
    "qwen2.5": ("qwen", False),
    "qwen2.5-base": ("qwen", False),
    "qwen3": ("qwen3", True),
    "qwen3-2507": ("qwen3_nothink", False),
    "deepseek-r1-qwen": ("deepseekr1", True),
    "deepseek-r1-0528-qwen3": ("deepseekr1", True),
    "llama3": ("llama3", False),
    "deepseek-r1-llama": ("deepseekr1", True),
}
READ_WITH_LIBRARIES = {"weights of a wrapped model", "NaN weights"}


def wanted(template="qwen", mask_history=False, **changes):
    return check.wanted(params_with({"adapter.template": template, "adapter.mask_history": mask_history, **changes}))


def copied(folder, to):
    shutil.copytree(folder, to)
    return to


@pytest.mark.parametrize("name", GOOD)
def test_a_real_vocabulary_is_read_alike_by_training_and_serving(hub_folders, tmp_path, name):
    (folder,) = hub_folders(name)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    want = wanted(*GOOD[name])
    assert check.file_problems(folder, want) == []
    problems, seen = proof.proof(folder, want, tmp_path / "tokenizer")
    assert problems == [] and seen["prompts"] == 24 and 0.3 < seen["tokens_per_character"] < 1.5
    assert (tmp_path / "tokenizer" / "tokenizer.json").read_bytes() == before["tokenizer.json"]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("kind", broken.BROKEN)
def test_a_base_that_people_bring_is_refused_by_one_line(hub_folders, tmp_path, kind):
    (folder,) = hub_folders("qwen2.5")
    broken.BROKEN[kind](copied(folder, tmp_path / "base"))
    start = time.perf_counter()
    found = check.file_problems(tmp_path / "base", wanted())
    if kind in READ_WITH_LIBRARIES:
        assert found == []
        found = list(proof.weights(tmp_path / "base"))
    assert len(found) == 1 and "\n" not in found[0] and time.perf_counter() - start < 10


@pytest.mark.parametrize(
    "name, template, said",
    [
        ("llama3", "qwen", "<|im_end|> is no token of this base"),
        ("qwen2.5", "llama3", "is no token of this base: templates that fit are"),
        ("qwen2.5", "qwen2", "LLaMA-Factory has no such template, expected one such as qwen"),
    ],
)
def test_a_template_of_another_family_is_refused_with_those_that_fit(hub_folders, name, template, said):
    (folder,) = hub_folders(name)
    (line,) = check.file_problems(folder, wanted(template))
    assert said in line and line.startswith(f"adapter.template: {template}")


def test_thoughts_that_the_vocabulary_takes_apart_are_told_of(hub_folders, tmp_path):
    (folder,) = hub_folders("qwen2.5")
    problems, _ = proof.proof(folder, wanted("qwen3", True), tmp_path / "tokenizer")
    assert len(problems) == 1 and "</think> is 3 tokens in this base, not one" in problems[0]


def test_a_reasoning_template_wants_the_history_masked(hub_folders, tmp_path):
    (folder,) = hub_folders("qwen3")
    problems, _ = proof.proof(folder, wanted("qwen3", False), tmp_path / "tokenizer")
    assert len(problems) == 1 and problems[0].startswith("adapter.mask_history: false")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"serve.max_model_len": 40_000}, "serve.max_model_len: 40000: this base reads 32768 tokens at the most"),
        ({"predictions.max_model_len": 32_769}, "predictions.max_model_len: 32769"),
        ({"adapter.cutoff_len": 65_536}, "adapter.cutoff_len: 65536"),
        ({"adapter.lora_target": "q_proj,lm_head"}, "adapter.lora_target: lm_head: vLLM serves no adapter on it"),
        ({"adapter.lora_target": "query"}, "adapter.lora_target: query: this base has no layer of that name"),
    ],
)
def test_parameters_that_the_base_cannot_meet_are_told_of(hub_folders, changes, said):
    (folder,) = hub_folders("qwen2.5")
    (line,) = check.file_problems(folder, wanted(**changes))
    assert said in line


def test_a_stretched_rotary_embedding_reads_more():
    yarn = {
        "max_position_embeddings": 32768,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    }
    assert check.reads_at_most(yarn) == 131_072
    assert (
        check.reads_at_most({"max_position_embeddings": 131_072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}})
        == 131_072
    )


def test_a_serving_side_that_reads_other_tokens_is_told_of(hub_folders, tmp_path, monkeypatch):
    read = tokenizer.Reader.read

    def losing_chinese(self, texts, dialogues):
        return read(self, [text.encode("ascii", "ignore").decode() for text in texts], dialogues)

    monkeypatch.setattr(tokenizer.Reader, "read", losing_chinese)
    (folder,) = hub_folders("qwen2.5")
    problems, _ = proof.proof(folder, wanted(), tmp_path / "tokenizer")
    assert len(problems) == 1 and problems[0].startswith("tokenizer.json: serving reads '感冒了怎么办？")


def test_a_control_token_that_a_user_could_type_is_told_of(hub_folders, tmp_path, monkeypatch):
    monkeypatch.setattr(proof, "neutralise", lambda text: text)
    (folder,) = hub_folders("qwen2.5")
    problems, _ = proof.proof(folder, wanted(), tmp_path / "tokenizer")
    assert (
        "templates/neutral.jinja: <|im_end|>, typed as text, is read as a control token: add it to the rule there" in problems
    )


def test_architectures_read_from_the_sources_are_those_that_the_libraries_know():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as known

    assert {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}.items() <= check.trained_architectures().items()
    assert set(check.trained_architectures()) == {kind for kind, name in known.items() if isinstance(name, str)}
    line = "from vllm.model_executor.models.registry import _TEXT_GENERATION_MODELS as known; print(*sorted(known))"
    done = subprocess.run([str(ROOT / ".venv-vllm" / "bin" / "python"), "-c", line], capture_output=True, text=True, check=True)
    assert sorted(check.served_architectures()) == done.stdout.splitlines()[-1].split()


def test_make_base_check_says_what_is_wrong_within_ten_seconds(hub_folders, tmp_path):
    (folder,) = hub_folders("qwen2.5")
    broken.BROKEN["GPTQ"](copied(folder, tmp_path / "base"))
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tools.base_check", str(tmp_path / "base")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and time.perf_counter() - start < 10
    assert (
        done.stderr.count("\n") == 1
        and "the weights are quantised (gptq)" in done.stderr
        and str(tmp_path / "base") in done.stderr
    )
