"""The estimate of a training's memory against what was measured, and what is chosen by it."""

import pytest

from stages.memory import cure, needed, plan
from tests.conftest import params_with

SHAPES = {
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
}  # fmt: skip
AUTO = {"batch": "auto", "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "cutoff_len": 2048, "disable_gradient_checkpointing": "auto"}


def adapter(**changes):
    return params_with({f"adapter.{name}": value for name, value in (AUTO | changes).items()}).adapter


def cut(size, gigabytes, **changes):
    return plan(SHAPES[size], adapter(**changes), gigabytes * 1e9, True, True)


@pytest.mark.parametrize(("size", "batch", "changes", "measured"), [
    ("1.5B", 8, {}, 40.4), ("1.5B", 8, {"quantization_bit": 4}, 38.5), ("1.5B", 1, {"quantization_bit": 4}, 6.8), ("7B", 4, {}, 66.6),
])  # fmt: skip
def test_the_estimate_is_within_an_eighth_of_what_was_measured(size, batch, changes, measured):
    parts = needed(SHAPES[size], adapter(**changes), batch, False, True, True)
    assert sum(parts.values()) / 1e9 == pytest.approx(measured, rel=0.125)


def test_a_large_card_takes_the_step_at_once_a_small_one_cuts_it_and_the_step_stays_the_same():
    cuts = [cut("1.5B", size) for size in (141, 80, 24, 12)]
    assert [c.batch for c in cuts] == [8, 8, 2, 1]
    assert {c.batch * c.accumulation for c in cuts} == {8}
    assert not any(c.checkpointing for c in cuts)


def test_activations_are_computed_again_only_where_memory_asks_for_it():
    assert not cut("7B", 80).checkpointing
    assert cut("7B", 24).checkpointing


def test_more_devices_share_the_step():
    found = cut("1.5B", 141, gpus=4, nodes=2)
    assert found.batch * found.accumulation == 1


def test_fixed_is_taken_as_written_or_not_at_all():
    assert cut("1.5B", 141, batch="fixed", gradient_accumulation_steps=3)[:2] == (8, 3)
    assert cut("1.5B", 12, batch="fixed", disable_gradient_checkpointing=True) is None


def test_what_would_fit_is_named():
    assert "adapter.quantization_bit: 4" in cure(SHAPES["7B"], adapter(), 12e9, True, True)
    assert "smaller base" in cure(SHAPES["7B"], adapter(), 2e9, True, True)
    assert cure(SHAPES["1.5B"], adapter(batch="fixed"), 24e9, True, True) == "with adapter.batch: auto it would fit"
