"""The folders that benchmarks.bases makes: good ones that both environments load, and broken ones that nobody should train."""

import filecmp
import json
import math
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest

from benchmarks import bases
from tests.broken_bases import BROKEN, sharded
from tests.conftest import ends
from xinglin.files import file_sha256
from xinglin.serving.server import vllm_python

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not bases.VOCABULARIES.is_dir(), reason="the vocabularies are not there"),
]
TEXT = "感冒了 怎么办？ I have a fever 38.5 C"
GENERATED = {  # what each hub's generation_config.json samples with
    "qwen2.5": (0.7, 0.8, 20, 1.1),
    "qwen2.5-7b": (0.7, 0.8, 20, 1.05),
    "qwen2.5-base": (None, None, None, None),
    "qwen3": (0.6, 0.95, 20, None),
    "qwen3-2507": (0.7, 0.8, 20, None),
    "llama3": (0.6, 0.9, None, None),
    "deepseek-r1-qwen": (0.6, 0.95, None, None),
    "deepseek-r1-0528-qwen3": (0.6, 0.95, None, None),
    "deepseek-r1-llama": (0.6, 0.95, None, None),
}
OPENINGS = {  # what each hub's chat template puts around a question
    "qwen2.5": "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n头痛<|im_end|>\n<|im_start|>assistant\n",
    "qwen3": "<|im_start|>user\n头痛<|im_end|>\n<|im_start|>assistant\n",
    "deepseek-r1-qwen": "<｜begin▁of▁sentence｜><｜User｜>头痛<｜Assistant｜><think>\n",
    "deepseek-r1-0528-qwen3": "<｜begin▁of▁sentence｜><｜User｜>头痛<｜Assistant｜>",
    "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n头痛<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
}
PARAMETERS = {  # as the model cards count them
    ("qwen2.5", "1.5b"): 1_543_714_304,
    ("qwen2.5-7b", "7b"): 7_615_616_512,
    ("deepseek-r1-qwen", "1.5b"): 1_777_088_000,
    ("qwen3", "4b"): 4_022_468_096,
    ("qwen3", "8b"): 8_190_735_360,
    ("llama3", "8b"): 8_030_261_248,
}
SERVED = """
import json, sys
from transformers import AutoConfig, AutoTokenizer
for folder in sys.argv[1:]:
    print(json.dumps([folder, AutoConfig.from_pretrained(folder).rope_parameters["rope_theta"]]))
for folder in sys.argv[1:4]:
    print(json.dumps([folder, len(AutoTokenizer.from_pretrained(folder))]))
"""
READ = {"qwen2.5": 151665, "deepseek-r1-0528-qwen3": 151671, "llama3": 128256}  # tokens of a base of each tokenizer class
DECLARED = {  # broken bases that say so themselves: most of them load, or take transformers long to refuse
    **dict.fromkeys(["GPTQ", "AWQ", "FP8", "bitsandbytes"], lambda folder: "quantization_config" in config(folder)),
    "vision model": lambda folder: "vision_config" in config(folder),
    "pickled weights only": lambda folder: not list(folder.glob("*.safetensors")),
    "remote code tokenizer": lambda folder: "auto_map" in read(folder, "tokenizer_config.json"),
    "embedding model": lambda folder: (folder / "modules.json").is_file(),
    "draft model": lambda folder: config(folder)["architectures"] == ["Qwen2ForCausalLMEagle3"],
    "no architectures": lambda folder: "architectures" not in config(folder),  # vLLM then serves embeddings
}


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def config(folder: Path) -> dict:
    return read(folder, "config.json")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    out = tmp_path_factory.mktemp("bases")
    yield {name: bases.make(name, bases.VOCABULARIES, out / name) for name in bases.BASES}
    shutil.rmtree(out)  # 0.3 GB
    bases.vocabulary.cache_clear()


@pytest.fixture(scope="module")
def served(folders) -> Iterator[subprocess.Popen]:
    """A process of vLLM's environment that reads the bases while the other tests go on."""
    line, pipe = [vllm_python(), "-c", SERVED, *(folders[name] for name in [*READ, *folders])], subprocess.PIPE
    with subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True) as process:
        yield process
        process.kill()


@pytest.fixture
def broken(folders, tmp_path) -> Iterator[Path]:
    yield shutil.copytree(folders["qwen2.5"], tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken")


def problems(folder: Path) -> str:
    """Return what transformers says of loading the weights of a folder, "" where it says nothing."""
    from transformers import AutoModelForCausalLM

    try:
        options = {"output_loading_info": True, "trust_remote_code": False, "local_files_only": True}
        model, told = AutoModelForCausalLM.from_pretrained(folder, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    embedding = model.get_input_embeddings().weight
    told |= {"rows": len(embedding) < 151665, "not a number": bool(embedding.isnan().any())}
    return str({key: value for key, value in told.items() if value} or "")


@pytest.mark.parametrize("name", bases.BASES)
def test_the_trainers_transformers_loads_every_weight_of_a_base(folders, served, name):
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    model, told = AutoModelForCausalLM.from_pretrained(folders[name], output_loading_info=True)
    assert not any(told.values())
    tokenizer = Tokenizer.from_file(str(folders[name] / "tokenizer.json"))
    ids = tokenizer.encode(TEXT).ids
    assert tokenizer.decode(ids) == TEXT
    with torch.no_grad():
        found = model(torch.tensor([ids]), labels=torch.tensor([ids]))
    assert float(found.loss) == pytest.approx(math.log(model.config.vocab_size), abs=0.3)
    known, output = tokenizer.get_vocab_size(), model.get_output_embeddings().weight
    assert output[:known].abs().sum(1).all() and not output[known:].any()


@pytest.mark.parametrize("name", bases.BASES)
def test_the_files_speak_the_dialect_of_transformers_4(folders, name):
    written = config(folders[name])
    assert written["transformers_version"].startswith("4.") and written["torch_dtype"] == "bfloat16"
    assert written["rope_theta"] and not {"rope_parameters", "dtype"} & set(written)
    generated = read(folders[name], "generation_config.json")
    assert tuple(map(generated.get, ("temperature", "top_p", "top_k", "repetition_penalty"))) == GENERATED[name]


def test_the_ends_of_base_and_chat_models_differ(folders):
    ends = {name: read(folder, "generation_config.json")["eos_token_id"] for name, folder in folders.items()}
    assert (ends["qwen2.5"], ends["qwen2.5-base"], ends["llama3"]) == ([151645, 151643], 151643, [128001, 128009])
    assert read(folders["qwen2.5-base"], "tokenizer_config.json")["eos_token"] == "<|endoftext|>"


@pytest.mark.parametrize(("name", "expected"), OPENINGS.items())
def test_the_chat_template_is_the_hubs_in_what_it_does_unasked(folders, name, expected):
    known = read(folders[name], "tokenizer_config.json")
    tokens = {key: known[key]["content"] if isinstance(known[key], dict) else known[key] for key in ("bos_token", "eos_token")}
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(known["chat_template"])
    assert template.render(messages=[{"role": "user", "content": "头痛"}], add_generation_prompt=True, **tokens) == expected


def test_the_r1_family_has_tokens_as_objects_and_llamas_class_over_three_vocabularies(folders):
    found = {name: read(folders[name], "tokenizer_config.json") for name in bases.BASES if name.startswith("deepseek")}
    assert {known["tokenizer_class"] for known in found.values()} == {"LlamaTokenizerFast"} and len(found) == 3
    assert all(known["bos_token"]["__type"] == "AddedToken" for known in found.values())
    added = {token["id"]: token for token in read(folders["deepseek-r1-qwen"], "tokenizer.json")["added_tokens"]}
    assert [added[number]["content"] for number in (151643, 151646, 151649)] == [bases.END, bases.BEGIN, "</think>"]
    assert max(added) == 151664 and added[151643]["special"] and not added[151648]["special"]


def test_vllms_transformers_reads_each_config_and_a_tokenizer_of_each_class(folders, served):
    out, err = served.communicate(timeout=120)
    assert served.returncode == 0, err[-3000:]
    told = [(Path(folder).name, number) for folder, number in map(json.loads, out.splitlines())]
    assert dict(told[: -len(READ)]) == {name: config(folder)["rope_theta"] for name, folder in folders.items()}
    assert dict(told[-len(READ) :]) == READ


@pytest.mark.parametrize(("of", "count"), PARAMETERS.items(), ids=str)
def test_a_real_size_has_as_many_parameters_as_the_model(of, count):
    sizes = bases.BASES[of[0]]["config"] | bases.sizes(*of)
    assert sum(map(math.prod, bases.tensors(sizes).values())) == count


def test_a_large_base_comes_in_shards_of_5_gb_that_hold_each_tensor_once():
    shapes = bases.tensors(bases.BASES["llama3"]["config"] | bases.sizes("llama3", "8b"))
    groups = bases.shards(shapes, bases.SHARD)
    assert [name for names in groups for name in names] == list(shapes)
    assert len(groups) == 4 and all(2 * sum(math.prod(shapes[name]) for name in names) <= 5e9 for names in groups)


def test_a_base_in_shards_loads(broken):
    sharded(broken)
    assert not (broken / "model.safetensors").exists() and len(list(broken.glob("model-*.safetensors"))) == 2
    assert problems(broken) == ""


def test_the_seed_makes_the_weights(folders, tmp_path):
    same, other = (bases.make("qwen2.5", bases.VOCABULARIES, tmp_path / str(seed), seed=seed) for seed in (0, 1))
    first, second, third = (file_sha256(folder / "model.safetensors") for folder in (folders["qwen2.5"], same, other))
    assert first == second != third


UNKNOWN = [("qwen4", "tiny", "qwen4: no such base"), ("llama3", "7b", "7b: llama3 has no such size: there are tiny, 8b")]


@pytest.mark.parametrize(("name", "size", "said"), UNKNOWN)
def test_a_base_that_is_not_made_here_is_one_line(tmp_path, capsys, name, size, said):
    with ends():
        bases.make(name, bases.VOCABULARIES, tmp_path / "out", size)
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_base_without_its_vocabulary_leaves_nothing(tmp_path, capsys):
    with ends():
        bases.make("llama3", tmp_path, tmp_path / "out")
    assert "llama3_1.tokenizer.json.xz: no such file" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_base_is_none_that_can_be_loaded_whole(folders, broken, kind):
    from tokenizers import Tokenizer

    BROKEN[kind](broken)
    tokenizer = broken / "tokenizer.json"
    if tokenizer.is_file() and not filecmp.cmp(tokenizer, folders["qwen2.5"] / "tokenizer.json", shallow=False):
        with pytest.raises(Exception, match=r"expected value|EOF|Model missing"):
            Tokenizer.from_file(str(tokenizer))
    elif kind in DECLARED:
        assert DECLARED[kind](broken)
    else:
        assert problems(broken) or not tokenizer.is_file()


def test_each_kind_of_broken_base_can_be_made_of_another_base(folders, tmp_path):
    good, bad = folders["deepseek-r1-llama"], tmp_path / "broken"
    for kind, change in BROKEN.items():
        change(shutil.copytree(good, bad))
        names = sorted(file.name for file in good.iterdir())
        _, differ, unread = filecmp.cmpfiles(good, bad, names)
        assert differ or unread or names != sorted(file.name for file in bad.iterdir()), kind
        shutil.rmtree(bad)
