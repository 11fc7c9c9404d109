"""The estimate of a training's memory against what was measured, and what is chosen by it."""

import importlib.util
from pathlib import Path

import pytest

from tests.conftest import ends, params_with
from xinglin.bases.shape import STATEFUL, STATELESS, carries_state, parameters, sizes
from xinglin.training.memory import needed, plan, suggest_fix

SHAPES = {
    "1.5B": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "7B": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
}
AUTO = {
    "batch": "auto",
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "cutoff_len": 2048,
    "disable_gradient_checkpointing": "auto",
}


def adapter(**changes):
    return params_with({f"adapter.{name}": value for name, value in (AUTO | changes).items()}).adapter


def cut(size, gigabytes, **changes):
    return plan(SHAPES[size], adapter(**changes), gigabytes * 1e9, True, True)


@pytest.mark.parametrize(
    ("size", "batch", "again", "changes", "measured"),
    [
        ("1.5B", 8, False, {}, 40.4),
        ("1.5B", 8, False, {"quantization_bit": 4}, 38.5),
        ("7B", 4, False, {}, 54.9),
        ("7B", 4, False, {}, 66.6),
        ("1.5B", 4, True, {}, 6.4),
        ("1.5B", 4, True, {"finetuning_type": "full"}, 29.9),
        ("7B", 4, True, {}, 21.4),
        ("1.5B", 8, True, {"quantization_bit": 4}, 6.6),
        ("7B", 2, True, {"quantization_bit": 4}, 9.3),
        ("1.5B", 8, False, {"finetuning_type": "full", "gpus": 2, "deepspeed": 2}, 54.6),
        ("1.5B", 8, False, {"finetuning_type": "full", "gpus": 2, "deepspeed": 3}, 60.3),
        ("7B", 2, False, {"finetuning_type": "full", "gpus": 4, "deepspeed": 2}, 75.5),
        ("7B", 4, True, {"finetuning_type": "full", "gpus": 2, "deepspeed": 3}, 78.2),
        ("7B", 8, True, {"finetuning_type": "full", "gpus": 4, "deepspeed": 3}, 50.4),
    ],
)
def test_the_estimate_is_within_an_eighth_of_what_was_measured(size, batch, again, changes, measured):
    parts = needed(SHAPES[size], adapter(**changes), batch, again, True, True)
    assert sum(parts.values()) / 1e9 == pytest.approx(measured, rel=0.125)


@pytest.mark.parametrize(
    ("size", "batch", "again", "changes", "measured"),
    [
        ("1.5B", 4, True, {}, 6.4),
        ("1.5B", 1, False, {"quantization_bit": 4}, 6.8),
        ("1.5B", 4, True, {"finetuning_type": "full"}, 29.9),
        ("7B", 4, True, {}, 21.4),
        ("1.5B", 8, True, {"quantization_bit": 4}, 6.6),
        ("7B", 2, True, {"quantization_bit": 4}, 9.3),
    ],
)
def test_what_went_through_in_a_cards_memory_was_not_estimated_as_less(size, batch, again, changes, measured):
    parts = needed(SHAPES[size], adapter(**changes), batch, again, True, True)
    assert 1 < sum(parts.values()) / 1e9 / measured < 1.17


def test_a_large_card_takes_the_step_at_once_a_small_one_cuts_it_and_the_step_stays_the_same():
    cuts = [cut("1.5B", size) for size in (141, 80, 24, 12)]
    assert [c.batch for c in cuts] == [8, 8, 2, 8]
    assert {c.batch * c.accumulation for c in cuts} == {8}


def test_activations_are_computed_again_only_where_memory_asks_for_it():
    assert not cut("7B", 80).checkpointing and not cut("1.5B", 24).checkpointing
    assert (
        cut("7B", 24).checkpointing and cut("1.5B", 12).checkpointing
    )  # there one pack alone would fit with them kept, which a GPU is not busy with


def test_a_batch_too_small_for_a_gpu_comes_after_a_large_one_computed_again():
    found = cut("1.5B", 8 * 1.0737, quantization_bit=4)
    assert found.checkpointing and found.batch >= 4


def test_under_zero_3_fewer_and_larger_batches_are_worth_computing_again():
    shared = {"finetuning_type": "full", "gpus": 4, "gradient_accumulation_steps": 4}
    assert cut("7B", 85, deepspeed=3, **shared)[:3] == (8, 1, True)  # 1.83 s a step on four H100s, 2.41 as (2, 4, False)
    assert cut("7B", 85, deepspeed=2, **shared)[:3] == (2, 4, False)


def test_more_devices_share_the_step():
    found = cut("1.5B", 141, gpus=4, nodes=2)
    assert found.batch * found.accumulation == 1


def test_fixed_is_taken_as_written_or_not_at_all():
    assert cut("1.5B", 141, batch="fixed", gradient_accumulation_steps=3)[:2] == (8, 3)
    assert cut("1.5B", 12, batch="fixed", disable_gradient_checkpointing=True) is None


def parts(bf16=True, **changes):
    return needed(SHAPES["7B"], adapter(**changes), 1, True, bf16, True)


def test_every_weight_is_trained_in_float32_beside_the_copy_that_multiplies():
    weights = parameters(SHAPES["7B"])
    assert weights == pytest.approx(7.615e9, rel=0.001)  # Qwen2.5-7B, less biases and norms
    assert parts(finetuning_type="full")["trained"] == 16 * weights and parts(finetuning_type="full")["weights"] == 2 * weights
    assert (
        parts(finetuning_type="full", bf16=False)["trained"] == 16 * weights
        and parts(finetuning_type="full", bf16=False)["weights"] == 0
    )
    assert parts()["trained"] < 0.02 * parts(finetuning_type="full")["trained"]


def test_zero_shares_out_what_is_trained_and_zero_3_the_weights_too():
    alone, two, three = (parts(finetuning_type="full", gpus=4, nodes=2, deepspeed=stage) for stage in (None, 2, 3))
    assert two["trained"] == alone["trained"] * 18 / 20 / 8  # DeepSpeed has the gradient in bfloat16 too, DDP in float32
    assert three["trained"] == parts(finetuning_type="full")["trained"] / 8 + 0.6e9
    assert two["weights"] == alone["weights"] and three["weights"] == alone["weights"] / 8 + 2e9


def test_what_would_fit_is_named():
    assert (
        suggest_fix(SHAPES["1.5B"], adapter(finetuning_type="full"), 24e9, True, True, 1)
        == "with adapter.finetuning_type: lora it would fit"
    )
    assert (
        suggest_fix(SHAPES["7B"], adapter(finetuning_type="full", gpus=8), 80e9, True, True, 1)
        == "with adapter.deepspeed: 2 it would fit"
    )
    assert (
        suggest_fix(SHAPES["7B"], adapter(finetuning_type="full", gpus=8), 32e9, True, True, 1)
        == "with adapter.deepspeed: 3 it would fit"
    )
    assert "finetuning_type: lora, adapter.quantization_bit: 4" in suggest_fix(
        SHAPES["7B"], adapter(finetuning_type="full"), 12e9, True, True, 1
    )
    assert "adapter.quantization_bit: 4" in suggest_fix(SHAPES["7B"], adapter(), 12e9, True, True, 1)
    assert "smaller base" in suggest_fix(SHAPES["7B"], adapter(), 2e9, True, True, 1)
    assert suggest_fix(SHAPES["1.5B"], adapter(batch="fixed"), 24e9, True, True, 1) == "with adapter.batch: auto it would fit"
    assert (
        suggest_fix(SHAPES["7B"], adapter(finetuning_type="full"), 85e9, True, True, 3)
        == "with adapter.gpus: 2, adapter.deepspeed: 3 it would fit"
    )  # 3 cannot share 8
    assert "batch" not in suggest_fix(SHAPES["7B"], adapter(finetuning_type="full", gpus=3, batch="fixed"), 85e9, True, True, 3)
    assert (
        suggest_fix(SHAPES["7B"], adapter(finetuning_type="full"), 85e9, True, True, 8)
        == "with adapter.gpus: 8, adapter.deepspeed: 2 it would fit"
    )


TEXT = {
    "model_type": "qwen3_5_text",
    "hidden_size": 1024,
    "intermediate_size": 3584,
    "num_hidden_layers": 24,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "vocab_size": 248320,
}
FEW = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12, "vocab_size": 151936}


@pytest.mark.parametrize(
    ("config", "keys", "head", "tied"),
    [
        ({"model_type": "qwen3_5", "text_config": TEXT, "tie_word_embeddings": True}, 2, 256, True),
        ({"model_type": "of_another_kind", "text_config": FEW | {"num_key_value_heads": 4}}, 4, 128, False),
        (FEW | {"model_type": "llama"}, 12, 128, False),  # the classes' own defaults
        (FEW | {"model_type": "qwen2"}, 32, 128, False),
        (FEW | {"model_type": "qwen3"}, 32, 128, False),
        (FEW | {"model_type": "gemma2"}, 4, 256, True),
        (FEW, 12, 128, False),
    ],
)
def test_sizes_are_found_wherever_they_stand_and_taken_as_transformers_takes_them(config, keys, head, tied):
    found = sizes(config)
    assert (found.num_key_value_heads, found.head_dim, found.tie_word_embeddings) == (keys, head, tied)
    assert found.hidden_size == (config.get("text_config") or config)["hidden_size"]
    assert plan(config, adapter(), 80e9, True, True)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"model_type": "gpt2"}, "intermediate_size is None in a model of type gpt2"),
        ({"model_type": "mamba"}, "num_attention_heads is None in a model of type mamba"),
        (
            {"model_type": "chatglm", "hidden_size": 4096, "num_layers": 28, "num_attention_heads": 32},
            "intermediate_size is None",
        ),
        ({}, "hidden_size is None in a model of type None"),
        (FEW | {"model_type": "qwen2", "hidden_size": "1536"}, "'hidden_size' expected int, got str"),
        (FEW | {"model_type": "qwen2", "layer_types": ["full_attention"]}, "must be equal to the number of layer types (1)"),
    ],
)
def test_a_size_that_is_not_there_is_one_line(config, line, capsys):
    with ends():
        plan(config, adapter(), 80e9, True, True)
    said = capsys.readouterr().err
    assert said.startswith("error: config.json of the base: ") and line in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("config", "carries"),
    [
        ({"model_type": "qwen3_5", "text_config": {"layer_types": ["linear_attention"] * 3 + ["full_attention"]}}, True),
        ({"model_type": "qwen3_next", "full_attention_interval": 4}, True),  # as its hub folders have it, without layer types
        ({"model_type": "qwen3_5", "text_config": {"model_type": "qwen3_5_text"}}, True),
        ({"model_type": "lfm2", "layer_types": ["conv", "full_attention"]}, True),
        ({"model_type": "nemotron_h", "layers_block_type": ["mamba", "attention", "moe"]}, True),
        ({"model_type": "granitemoehybrid", "layer_types": ["attention"] * 4}, False),  # Granite 4 without Mamba
        ({"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]}, False),
        ({"model_type": "llama"}, False),
        ({"model_type": "of_another_kind", "layer_types": ["kimi_delta_attention"]}, True),  # unknown: not in packs
    ],
)
def test_a_base_that_carries_state_is_known_by_its_layers_or_its_type(config, carries):
    assert carries_state(config) is carries


def test_every_kind_of_layer_and_model_that_transformers_has_is_known_to_carry_state_or_not():
    from transformers.configuration_utils import ALLOWED_LAYER_TYPES
    from transformers.models.auto.configuration_auto import model_type_to_module_name
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert set(ALLOWED_LAYER_TYPES) - STATELESS == {"linear_attention", "conv", "mamba", "hybrid"}
    models = Path(importlib.util.find_spec("transformers").origin).parent / "models"
    stateful = {
        kind
        for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        for file in models.joinpath(model_type_to_module_name(kind)).glob("modeling_*.py")
        if "_is_stateful = True" in file.read_text(encoding="utf-8")
    }
    without_the_mark = {"lfm2", "lfm2_moe", "minimax", "recurrent_gemma"}
    assert stateful | without_the_mark == STATEFUL
