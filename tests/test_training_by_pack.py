"""What stages/training.py tells the libraries, with a plain attention in the place of the one that only a GPU has."""

import itertools
import json
import math
import sys

import pytest
import torch
from transformers import AttentionInterface, Qwen2Config, Qwen2ForCausalLM

from tests.conftest import ROOT

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
POSITIONS = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0], [0, 1, 2, 3, 4, 5, 0, 0]])  # dialogues of 3, 4 and 6 tokens, padding of 1 and 2
OWNERS = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1, 0, 0]])  # LLaMA-Factory's mask of the same


@pytest.fixture(scope="module")
def training():
    from stages import training

    return training


def plain_varlen(query, key, value, starts, _, most, __, scale, window_size, enable_gqa):
    """Causal attention within each sequence of [tokens, heads, head]."""
    assert query.dtype == key.dtype == value.dtype and window_size == (-1, 0) and enable_gqa
    found = torch.empty_like(query)
    for begin, end in itertools.pairwise(starts.tolist()):
        q, k, v = (part[begin:end].transpose(0, 1) for part in (query, key, value))
        k, v = (part.repeat_interleave(len(q) // len(k), 0) for part in (k, v))
        later = torch.full((end - begin, end - begin), -math.inf).triu(1)
        found[begin:end] = (torch.softmax(q @ k.transpose(1, 2) * scale + later, -1) @ v).transpose(0, 1)
    return found


def test_a_dialogue_begins_where_positions_begin_again_and_padding_is_one_more(training):
    assert training.boundaries(POSITIONS).tolist() == [0, 3, 7, 8, 14, 16]


def test_attention_by_dialogue_gives_what_llamafactorys_mask_gives(training, monkeypatch):
    from llamafactory.data.collator import prepare_4d_attention_mask

    monkeypatch.setattr(training, "varlen_attn", plain_varlen)
    AttentionInterface.register(training.PACKED, training.packed_attention)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SHAPE)).eval()
    tokens = torch.randint(0, 64, POSITIONS.shape)
    with torch.no_grad():
        masked = model(tokens, attention_mask=prepare_4d_attention_mask(OWNERS, torch.float32), position_ids=POSITIONS).logits
        model.set_attn_implementation(training.PACKED)
        packed = model(tokens, position_ids=POSITIONS, cu_seq_lens_q=training.boundaries(POSITIONS)).logits
    assert torch.allclose(packed[OWNERS > 0], masked[OWNERS > 0], atol=1e-5)


def test_weights_that_are_all_trained_in_float32_reach_attention_in_bfloat16(training, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "varlen_attn", lambda q, k, v, *_, **__: seen.append({q.dtype, k.dtype, v.dtype}) or q)
    AttentionInterface.register(training.PACKED, training.packed_attention)
    model = Qwen2ForCausalLM(Qwen2Config(**SHAPE))
    model.set_attn_implementation(training.PACKED)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.zeros_like(POSITIONS), position_ids=POSITIONS, use_cache=False, cu_seq_lens_q=training.boundaries(POSITIONS))
    assert seen == [{torch.bfloat16}] * 2


def test_compiling_a_model_without_layers_is_an_error(training, capsys):
    with pytest.raises(SystemExit):
        training.Faster(packed=False, compiled=True, autocast=True).on_train_begin(model=torch.nn.Linear(2, 2))
    assert "adapter.torch_compile: Linear has no layers" in capsys.readouterr().err


def test_a_batch_of_packs_says_where_dialogues_begin_and_has_no_mask(training):
    from llamafactory.data.template import TEMPLATES
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "tiny")
    packs = training.Packs(tokenizer=tokenizer, template=TEMPLATES["qwen"], block_diag_attn=True, attn_implementation="sdpa", neat_packing=True)
    rows = [{"input_ids": [5] * 8, "attention_mask": own, "labels": [5] * 8, "position_ids": at, "images": [], "videos": [], "audios": []}
            for own, at in zip(OWNERS.tolist(), POSITIONS.tolist(), strict=True)]  # fmt: skip
    batch = packs(rows)
    assert "attention_mask" not in batch and batch["cu_seq_lens_q"].tolist() == [0, 3, 7, 8, 14, 16]


def test_the_adapters_inputs_are_not_widened_and_each_layer_is_compiled(training):
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    model = get_peft_model(Qwen2ForCausalLM(Qwen2Config(**SHAPE)), LoraConfig(r=2, target_modules="all-linear"))
    adapted = [module for module in model.modules() if isinstance(module, LoraLayer)]
    training.Faster(packed=False, compiled=False, autocast=False).on_train_begin(model=model)
    assert all(module.cast_input_dtype_enabled for module in adapted)
    training.Faster(packed=True, compiled=True, autocast=True).on_train_begin(model=model)
    assert len(adapted) == 14 and not any(module.cast_input_dtype_enabled for module in adapted)
    assert [layer._compiled_call_impl is not None for layer in model.base_model.model.model.layers] == [True, True]
    assert model.base_model.model.config._attn_implementation == training.PACKED


@pytest.mark.parametrize(("changes", "autocast"), [({}, True), ({"deepspeed": "zero/3.json"}, False), ({"bf16": False}, False)])
def test_inputs_are_left_alone_where_autocast_is_which_deepspeed_does_without(training, tmp_path, monkeypatch, changes, autocast):
    (tmp_path / "train.yaml").write_text(json.dumps({"bf16": True, "neat_packing": False, "torch_compile": True} | changes))
    seen = []
    monkeypatch.setattr(sys, "argv", ["training", str(tmp_path / "train.yaml")])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(training, "run_exp", lambda config, callbacks: seen.extend(callbacks))
    training.main()
    assert [(faster.autocast, faster.compiled, faster.packed) for faster in seen] == [(autocast, True, False)]
