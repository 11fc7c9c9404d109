"""What xinglin/training/llamafactory.py tells the libraries, with plain attention in place of the one that only a GPU has."""

import itertools
import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AttentionInterface, Qwen2Config, Qwen2ForCausalLM, Trainer, TrainingArguments

from stages import adapter
from tests.conftest import ROOT, ends

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
NOTHING = {"packing": False, "packed": False, "keep_inputs": False, "liger": False, "compiled": False}
POSITIONS = torch.tensor(
    [[0, 1, 2, 0, 1, 2, 3, 0], [0, 1, 2, 3, 4, 5, 0, 0]]
)  # dialogues of 3, 4 and 6 tokens, padding of 1 and 2
OWNERS = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1, 0, 0]])  # LLaMA-Factory's mask of the same


@pytest.fixture(scope="module")
def training():
    from xinglin.training import llamafactory as training

    return training


def plain_varlen(query, key, value, starts, _, most, __, scale, window_size, enable_gqa):
    """Causal attention within each sequence of [tokens, heads, head]."""
    assert query.dtype == key.dtype == value.dtype and window_size == (-1, 0) and enable_gqa
    found = torch.empty_like(query)
    for begin, end in itertools.pairwise(starts.tolist()):
        q, k, v = (part[begin:end].transpose(0, 1) for part in (query, key, value))
        k, v = (part.repeat_interleave(len(q) // len(k), 0) for part in (k, v))
        later = torch.full((end - begin, end - begin), -math.inf, dtype=q.dtype).triu(1)
        found[begin:end] = (torch.softmax(q @ k.transpose(1, 2) * scale + later, -1) @ v).transpose(0, 1)
    return found


@pytest.mark.parametrize("adapted", [True, False])
def test_validation_too_computes_ligers_loss_without_logits(training, monkeypatch, tmp_path, adapted):
    from liger_kernel.transformers.model import qwen2

    computed = {"training": 0, "validation": 0}

    def loss(hidden_states, lm_head_weight, labels, **_):  # Liger's own runs on a GPU only
        computed["training" if hidden_states.requires_grad else "validation"] += 1
        return torch.nn.functional.cross_entropy(
            (hidden_states @ lm_head_weight.T)[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        )

    monkeypatch.setattr(qwen2, "LigerForCausalLMLoss", loss)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SHAPE))
    row = {"input_ids": (tokens := torch.randint(0, 64, (8,))), "labels": tokens}
    expected = model.eval()(tokens[None], labels=tokens[None]).loss.item()
    settings = TrainingArguments(
        str(tmp_path),
        use_cpu=True,
        bf16=True,
        max_steps=1,
        learning_rate=0.0,
        eval_strategy="steps",
        eval_steps=1,
        report_to="none",
        prediction_loss_only=True,
        use_liger_kernel=True,
        liger_kernel_config=adapter.LOSS_ALONE,
    )
    if adapted:
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    trainer = Trainer(
        model, settings, train_dataset=[row], eval_dataset=[row, row], callbacks=[training.Faster(**NOTHING | {"liger": True})]
    )
    trainer.train()
    assert computed == {"training": 1, "validation": 1}
    assert trainer.state.log_history[0]["eval_loss"] == pytest.approx(expected, rel=0.01)


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
        model(
            torch.zeros_like(POSITIONS), position_ids=POSITIONS, use_cache=False, cu_seq_lens_q=training.boundaries(POSITIONS)
        )
    assert seen == [{torch.bfloat16}] * 2


def test_compiling_a_model_without_layers_is_an_error(training, capsys):
    with ends():
        training.Faster(**NOTHING | {"compiled": True}).on_train_begin(
            SimpleNamespace(bf16=False, deepspeed=None), model=torch.nn.Linear(2, 2)
        )
    assert "adapter.torch_compile, adapter.deepspeed: Linear has no layers" in capsys.readouterr().err


def test_a_batch_of_packs_says_where_dialogues_begin_and_has_no_mask(training):
    from llamafactory.data.template import TEMPLATES
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "tiny")
    packs = training.Packs(
        tokenizer=tokenizer, template=TEMPLATES["qwen"], block_diag_attn=True, attn_implementation="sdpa", neat_packing=True
    )
    rows = [
        {
            "input_ids": [5] * 8,
            "attention_mask": own,
            "labels": [5] * 8,
            "position_ids": at,
            "images": [],
            "videos": [],
            "audios": [],
        }
        for own, at in zip(OWNERS.tolist(), POSITIONS.tolist(), strict=True)
    ]
    batch = packs(rows)
    assert "attention_mask" not in batch and batch["cu_seq_lens_q"].tolist() == [0, 3, 7, 8, 14, 16]


def adapted() -> tuple[PeftModel, list[LoraLayer]]:
    model = get_peft_model(Qwen2ForCausalLM(Qwen2Config(**SHAPE)), LoraConfig(r=2, target_modules="all-linear"))
    return model, [module for module in model.modules() if isinstance(module, LoraLayer)]


@pytest.mark.parametrize(
    ("bf16", "deepspeed", "dtype"),
    [(True, "zero/3.json", torch.bfloat16), (True, None, torch.float32), (False, "zero/3.json", torch.float32)],
)
def test_deepspeed_is_given_an_adapter_that_widens_nothing(training, bf16, deepspeed, dtype):
    model, _ = adapted()
    training.Faster(**NOTHING).on_init_end(SimpleNamespace(bf16=bf16, deepspeed=deepspeed), model=model)
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {dtype}
    assert {weight.dtype for weight in model.parameters() if not weight.requires_grad} == {torch.float32}


def test_under_zero_3_whole_layers_travel(training, monkeypatch):
    from deepspeed.utils import get_z3_leaf_modules

    model, _ = adapted()
    monkeypatch.setattr(training, "is_deepspeed_zero3_enabled", lambda: True)
    training.Faster(**NOTHING).on_init_end(SimpleNamespace(bf16=False, deepspeed="zero/3.json"), model=model)
    assert get_z3_leaf_modules(model) == list(model.base_model.model.model.layers)
    seen = []
    model.base_model.model.model.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].requires_grad))
    model(POSITIONS)
    assert seen == [True]  # without it the first layer's gradients would be collected before they are there


@pytest.mark.parametrize("packed", [True, False])
def test_each_layer_is_compiled_as_one_graph_under_ddp_too(training, tmp_path, monkeypatch, packed):
    shape = SHAPE | {"hidden_size": 256, "intermediate_size": 512}  # a layer of more than DDP's first bucket of 1 MB
    model, graphs = Qwen2ForCausalLM(Qwen2Config(**shape)), []
    AttentionInterface.register(training.PACKED, training.packed_attention)
    torch._dynamo.reset()  # what another test compiled
    monkeypatch.setattr(training, "varlen_attn", lambda query, *_, **__: query)
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", lambda graph, *_, **__: graphs.append(graph) or graph.forward)
    model.set_attn_implementation(training.PACKED if packed else "sdpa")
    starts = {"position_ids": POSITIONS, "cu_seq_lens_q": training.boundaries(POSITIONS)} if packed else {}
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with training.dynamo.patch(optimize_ddp=True):
            faster = training.Faster(**NOTHING | {"compiled": True})
            faster.on_train_begin(SimpleNamespace(bf16=False, deepspeed=None), model=model)
            torch.nn.parallel.DistributedDataParallel(model)(POSITIONS, use_cache=False, **starts)
            faster.on_step_end()
    finally:
        torch.distributed.destroy_process_group()
    assert len(graphs) == 1  # for both layers


@pytest.mark.parametrize(
    ("bf16", "deepspeed", "keep_inputs"), [(True, None, True), (True, "zero/2.json", False), (False, None, False)]
)
def test_what_is_asked_for_is_told_to_llamafactorys_training(training, tmp_path, monkeypatch, bf16, deepspeed, keep_inputs):
    known = {"bf16": bf16, "neat_packing": True, "torch_compile": True, "enable_liger_kernel": False, "use_liger_kernel": True}
    known |= {"deepspeed": deepspeed, "model_name_or_path": str(ROOT / "models" / "tiny")}
    (tmp_path / "train.yaml").write_text(json.dumps(known))
    seen = []
    monkeypatch.setattr(sys, "argv", ["training", str(tmp_path / "train.yaml")])
    monkeypatch.setattr(training, "run_exp", lambda config, callbacks: seen.extend((config, *callbacks)))
    monkeypatch.setattr(training.workflow, "SFTDataCollatorWith4DAttentionMask", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    training.main()
    config, faster = seen
    assert "torch_compile" not in config
    assert vars(faster) == {"packing": True, "packed": bf16, "keep_inputs": keep_inputs, "liger": True, "compiled": True}
