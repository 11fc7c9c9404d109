import json

import pytest

from stages import merged
from stages.params import Gate
from tests.conftest import ROOT, params_with

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
    with pytest.raises(SystemExit):
        merged.shortfalls(METRICS, Gate(scores={}, gains={"bleu4": 0.0}))
    assert "merged.gate.gains.bleu4" in capsys.readouterr().err


def test_the_stage_stops_at_the_gate_and_merges_nothing(workplace, stage):
    folder = workplace({"merged.gate": {"scores": {}, "gains": {"rouge-l": 0.0}}})
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    done = stage("merged", base="b", adapter="a", predictions="p", metrics="metrics.json", template="t", card="c", templates="t", out="merged")
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


def test_the_card_says_how_it_was_tuned():
    metrics, parity = json.loads((ROOT / "metrics.json").read_text()), {"mean": 0.01, "tolerance": 0.06}
    template = ROOT / "templates" / "card.md"
    lora, full = (
        merged.card(template, base={"model": "tiny"}, metrics=metrics, params=params_with({"adapter.finetuning_type": kind}), parity=parity)
        for kind in ("lora", "full")
    )
    assert "question-answering, lora]" in lora and "- LoRA：rank 8，alpha 16，学习率" in lora and "评测并合并而成" in lora
    assert "question-answering]" in full and "- 全参数微调，学习率" in full and "lora" not in full.lower() and "合并" not in full


def test_other_token_ids_fail_the_parity_check(capsys):
    before = [{"id": "a", "prompt": [1, 2], "answer": [3], "logprobs": [-1.0]}]
    assert merged.differences(before, [before[0] | {"logprobs": [-1.25]}]).tolist() == [0.25]
    with pytest.raises(SystemExit):
        merged.differences(before, [before[0] | {"prompt": [1, 9]}])
    assert "prompt" in capsys.readouterr().err


def test_the_merged_model_carries_template_end_of_turn_and_penalty(tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (tmp_path / name).write_bytes((ROOT / "models" / "tiny" / name).read_bytes())
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(json.dumps(generation | {"eos_token_id": 0}))
    template = ROOT / "templates" / "chat" / "qwen.jinja"
    merged.put_template(template, tmp_path, 1.3)
    assert (tmp_path / "chat_template.jinja").read_text() == template.read_text()
    found = json.loads((tmp_path / "generation_config.json").read_text())
    assert found["eos_token_id"] == [0, 2] and found["repetition_penalty"] == 1.3
