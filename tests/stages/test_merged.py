import json
import shutil
from contextlib import nullcontext

import pytest

from stages import merged
from stages.merged import Gate
from tests.conftest import ROOT, ends, params_with

METRICS = {
    "part": "test",
    "tuned": {"bleu-4": 5.0, "rouge-l": 14.0},
    "intervals": {"gain": {"bleu-4": {"low": 0.2, "high": 1.0}, "rouge-l": {"low": -0.1, "high": 2.0}}},
}


def test_the_gate_lets_a_gain_beyond_the_interval_pass():
    assert merged.shortfalls(METRICS, Gate(scores={"bleu-4": 5.0}, gains={"bleu-4": 0.0})) == []


def test_the_gate_names_each_number_that_fell_short():
    first, second = merged.shortfalls(METRICS, Gate(scores={"bleu-4": 6.0}, gains={"rouge-l": 0.0}))
    assert "bleu-4" in first and "5.00" in first and "6" in first
    assert "rouge-l" in second and "[-0.10, 2.00]" in second


def test_scores_of_the_validation_part_admit_no_model():
    assert "predictions.part is val" in merged.shortfalls(METRICS | {"part": "val"}, Gate(scores={}, gains={}))[0]


def test_a_metric_that_does_not_exist_is_named(capsys):
    with ends():
        merged.shortfalls(METRICS, Gate(scores={}, gains={"bleu4": 0.0}))
    assert "merged.gate.gains.bleu4" in capsys.readouterr().err


def test_the_stage_stops_at_the_gate_and_merges_nothing(workplace, stage):
    folder = workplace({"merged.gate": {"scores": {}, "gains": {"rouge-l": 0.0}}})
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    done = stage(
        "merged",
        base="b",
        adapter="a",
        predictions="p",
        metrics="metrics.json",
        template="t",
        card="c",
        converted="c",
        split="s",
        tokenizer="t",
        out="merged",
    )
    assert done.status == 1 and "gate: rouge-l" in done.error and not (folder / "merged").exists()


def exported(changes):
    template = {"adapter_name_or_path": "models/adapter", "export_size": 5}
    return merged.export_config(template, params_with(changes), ROOT / "models" / "tiny", ROOT / "adapter", ROOT / "out")


def test_a_tuned_model_is_exported_itself_in_the_bases_own_precision_or_the_one_asked_for():
    lora, full = exported({}), exported({"adapter.finetuning_type": "full"})
    assert (lora["model_name_or_path"], lora["adapter_name_or_path"]) == (str(ROOT / "models" / "tiny"), str(ROOT / "adapter"))
    assert (full["model_name_or_path"], full["adapter_name_or_path"]) == (str(ROOT / "adapter"), None)
    assert (lora["infer_dtype"], full["infer_dtype"]) == ("auto", "bfloat16")
    assert exported({"adapter.finetuning_type": "full", "merged.dtype": "float16"})["infer_dtype"] == "float16"


OWN = {"name": "dialogues", "source": "sample", "dataset": None, "licence": "Apache-2.0", "terms": "permissive", "rows": 220}


NO_OVERLAP = {"exact": 0, "near": 0, "contained": 0}


def card(changes, sources=(OWN,), overlap=NO_OVERLAP):
    metrics, parity = json.loads((ROOT / "metrics.json").read_text()), {"mean": 0.01, "tolerance": 0.06}
    return merged.card(
        ROOT / "templates" / "card.md",
        base={"model": "tiny"},
        metrics=metrics,
        params=params_with(changes),
        parity=parity,
        sources=sources,
        overlap=overlap,
    )


def test_the_card_says_where_own_parts_have_texts_in_common():
    clean, leaking = card({}).splitlines(), card({}, overlap=NO_OVERLAP | {"near": 5}).splitlines()
    assert "- 数据：按对话组划分，测试集与训练集没有相同或近似的问题" in clean
    [line] = [line for line in leaking if "使用者自带的划分有重合" in line]
    assert "近似 5 处" in line and "没有相同或近似" not in "".join(leaking)


def test_the_card_names_each_source_with_its_rows_and_licence_and_warns_of_what_may_stop_a_release():
    hub = {"source": "modelscope", "dataset": "someone/set"}
    sources = [
        OWN | hub | {"name": "huatuo", "rows": 12345},
        OWN | {"name": "mine", "source": "path", "licence": "仅限学术研究", "terms": "non-commercial"},
        OWN | {"name": "found", "source": "path", "licence": None, "terms": "none stated", "rows": 3},
        OWN | {"name": "odd", "source": "path", "licence": "RAIL", "terms": "unknown"},
    ]
    lines = card({}, sources).splitlines()
    assert "- 数据来源 huatuo：someone/set（ModelScope），训练 12,345 段，许可：Apache-2.0" in lines
    assert "- 数据来源 found：使用者自己的对话文件，训练 3 段，许可：未声明" in lines
    warnings = [line for line in lines if line.startswith("**许可警告")]
    assert [line.split()[1] for line in warnings] == ["mine", "found", "odd"]
    assert "禁止商业使用" in warnings[0] and "未声明许可" in warnings[1] and "RAIL" in warnings[2]
    assert "许可警告" not in card({}) and "示例对话，训练 220 段，许可：Apache-2.0" in card({})


def test_the_rows_of_a_source_are_those_that_are_trained_on(tmp_path):
    (tmp_path / "stats.json").write_text(json.dumps({"sources": [{"files": ["a.jsonl", "b.jsonl"]}, {"files": ["c.jsonl"]}]}))
    names = ["a.jsonl", "c.jsonl", "b.jsonl", "c.jsonl", "c.jsonl"]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"source": name}) + "\n" for name in names))
    for most, rows in ((None, [2, 3]), (3, [2, 1])):
        found = merged.trained_sources(tmp_path / "stats.json", tmp_path / "train.jsonl", most)
        assert [source["rows"] for source in found] == rows


def test_the_card_says_how_it_was_tuned():
    lora, full = (card({"adapter.finetuning_type": kind}) for kind in ("lora", "full"))
    assert lora.startswith("---\nlanguage: zh\n")
    assert "question-answering, lora]" in lora and "- LoRA：rank 8，alpha 16，学习率" in lora and "评测并合并而成" in lora
    assert (
        "question-answering]" in full and "- 全参数微调，学习率" in full and "lora" not in full.lower() and "合并" not in full
    )


def test_the_card_says_how_answers_were_decoded():
    sampled = {"decoding.temperature": 0.7, "decoding.top_p": 0.8, "decoding.repetition_penalty": 1.05}
    assert "集对话，贪心解码，重复惩罚 1.3，单位" in card({}) and "- 解码：贪心解码，重复惩罚 1.3，" in card({})
    assert "集对话，贪心解码，单位" in card({"decoding.repetition_penalty": 1.0})
    words = "采样解码（temperature 0.7，top_p 0.8，top_k 不限），重复惩罚 1.05，"
    assert f"集对话，{words}单位" in card(sampled) and "贪心" not in card(sampled)
    assert "top_k 20" in card(sampled | {"decoding.top_k": 20})


@pytest.mark.parametrize(
    ("gpu", "changes", "expected"),
    [
        (False, {}, ["float32", "bfloat16", "float32"]),
        (False, {"predictions.dtype": "bfloat16"}, ["bfloat16", "bfloat16", "bfloat16"]),
        (True, {}, ["bfloat16", "bfloat16", "bfloat16"]),
        (True, {"predictions.dtype": "float16"}, ["float16", "bfloat16", "float16"]),
    ],
)
def test_parity_allows_what_the_coarsest_type_on_the_way_rounds(monkeypatch, gpu, changes, expected):
    monkeypatch.setattr("xinglin.serving.server.on_gpu", lambda: gpu)
    tiny = ROOT / "models" / "tiny"
    assert merged.precisions(params_with(changes), tiny, tiny) == expected


def test_llamafactorys_own_modelfile_is_not_part_of_the_model(tmp_path, monkeypatch):
    def export(command, environment, log):
        (tmp_path / "merged" / "Modelfile").write_text("FROM .")
        (tmp_path / "merged" / "config.json").write_text("{}")

    monkeypatch.setattr(merged, "call", export)
    merged.export({}, tmp_path / "merged")
    assert [file.name for file in (tmp_path / "merged").iterdir()] == ["config.json"]


def test_other_token_ids_fail_the_parity_check(capsys):
    before = [{"id": "a", "prompt": [1, 2], "answer": [3], "logprobs": [-1.0]}]
    assert merged.differences(before, [before[0] | {"logprobs": [-1.25]}]).tolist() == [0.25]
    with ends():
        merged.differences(before, [before[0] | {"prompt": [1, 9]}])
    assert "prompt" in capsys.readouterr().err


def test_a_merge_that_moves_more_than_rounding_explains_says_what_may_be_wrong(tmp_path, monkeypatch, capsys):
    row = {"id": "a", "prompt": [1, 2], "answer": [3], "logprobs": [-1.0]}
    (tmp_path / "logprobs.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "tuned.jsonl").write_text(json.dumps({"id": "a"}) + "\n")
    tiny = ROOT / "models" / "tiny"
    monkeypatch.setattr("xinglin.serving.server.serving", lambda *_: nullcontext(["http://127.0.0.1:1"]))
    monkeypatch.setattr("xinglin.serving.server.vllm", lambda *_, **__: None)
    for moved, fails in ((0.05, False), (0.07, True)):
        monkeypatch.setattr(merged, "logprobs", lambda *_, moved=moved: [row | {"logprobs": [-1.0 - moved]}])
        with ends() if fails else nullcontext():
            assert merged.parity(tiny, tmp_path, params_with(), tiny)["mean"] == pytest.approx(moved)
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "0.0700 nats" in line and "bfloat16 allows 0.06" in line and "merged.tolerance" in line


def test_the_merged_model_carries_tokenizer_template_ends_and_decoding_and_nothing_of_the_bases_sampling(
    tmp_path, tiny_tokenizer
):
    base, folder = tmp_path / "base", tmp_path / "merged"
    for made in (base, folder):
        shutil.copytree(ROOT / "models" / "tiny", made)
    bases = {
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "repetition_penalty": 1.1,
        "do_sample": True,
        "max_new_tokens": 2048,
    }
    for made in (base, folder):
        (made / "generation_config.json").write_text(
            json.dumps(bases | {"eos_token_id": 0, "bos_token_id": 1, "pad_token_id": 0})
        )
    merged.put_files(base, tiny_tokenizer, folder, params_with().decoding)
    for name in merged.TOKENIZER:
        assert (folder / name).read_bytes() == (tiny_tokenizer / name).read_bytes()
    found = json.loads((folder / "generation_config.json").read_text())
    tokens = {"bos_token_id": 1, "pad_token_id": 0, "eos_token_id": [0, 2]}
    assert found == tokens | {"do_sample": False, "temperature": 0, "repetition_penalty": 1.3}
    (base / "generation_config.json").unlink()  # the tokens then stand in config.json
    merged.put_files(base, tiny_tokenizer, folder, params_with().decoding)
    assert json.loads((folder / "generation_config.json").read_text())["pad_token_id"] == 0
