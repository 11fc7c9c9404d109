"""Each patch of xinglin/training/llamafactory.py undone in its library ends the training with one line; trainings with all."""

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Trainer,
    TrainingArguments,
)

from stages.adapter import LOSS_ALONE
from tests.conftest import ROOT, ends
from tests.xinglin.test_llamafactory_packs import SHAPE, plain_varlen

pytestmark = pytest.mark.filterwarnings("ignore")
TINY = ROOT / "models" / "tiny"
SIZES = SHAPE | {"vocab_size": 8192, "head_dim": 8, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": True}
HYBRID = SIZES | {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
}
NOTHING = {"packing": False, "packed": False, "keep_inputs": False, "liger": False, "compiled": False}
BF16 = SimpleNamespace(bf16=True, deepspeed=None, device="cpu")


@pytest.fixture
def training(monkeypatch):
    """Give xinglin/training/llamafactory.py with plain attention in place of the GPU's; what it changes is put back."""
    from xinglin.training import llamafactory as training

    monkeypatch.setattr(training, "varlen_attn", plain_varlen)
    monkeypatch.setattr(training.workflow, "SFTDataCollatorWith4DAttentionMask", training.SFTDataCollatorWith4DAttentionMask)
    AttentionInterface.register(training.PACKED, training.packed_attention)
    with training.dynamo.patch(optimize_ddp=True):  # monkeypatch would take it away in the end
        yield training


def collator(kind, **more):
    from llamafactory.data.template import TEMPLATES

    known = {"block_diag_attn": True, "attn_implementation": "sdpa", "neat_packing": True} | more
    return kind(tokenizer=AutoTokenizer.from_pretrained(TINY), template=TEMPLATES["qwen"], **known)


def small(adapted: bool = False) -> torch.nn.Module:
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, initializer_range=0.3))
    return get_peft_model(model, LoraConfig(r=2, target_modules="all-linear")) if adapted else model


def begin(training, model, collate=None, args=BF16, **asked):
    """Let the callback make `model` ready, with what is `asked` for."""
    collate = collate or collator(training.Packs)
    training.Faster(**NOTHING | asked).on_train_begin(args, model=model, train_dataloader=SimpleNamespace(collate_fn=collate))


@contextmanager
def one_line(capsys, library: str, what: str, setting: str) -> Iterator[None]:
    """Expect the end by one line that names the patch, the library with its version, and the setting that does without."""
    with ends():
        yield
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: xinglin/training/llamafactory.py: {library} {version(library)} ") and what in line
    assert line.endswith(f"or set adapter.{setting}")


def test_a_collator_that_is_not_ours(training, capsys):
    with one_line(capsys, "llamafactory", "no longer makes its batches by our collator", "neat_packing: false"):
        begin(training, small(), collator(training.SFTDataCollatorWith4DAttentionMask), packing=True, packed=True)


def test_a_mask_that_llamafactory_makes_all_the_same(training, capsys, monkeypatch):
    made = training.SFTDataCollatorWith4DAttentionMask.__call__

    def masked(self, features):
        self.block_diag_attn = True
        return made(self, features)

    monkeypatch.setattr(training.SFTDataCollatorWith4DAttentionMask, "__call__", masked)
    with one_line(capsys, "llamafactory", "no longer leaves out a pack's mask", "neat_packing: false"):
        begin(training, small(), packing=True, packed=True)


def test_attention_that_is_not_ours(training, capsys, monkeypatch):
    monkeypatch.setattr(PreTrainedModel, "set_attn_implementation", lambda self, name: None)
    with one_line(capsys, "transformers", "calls our attention in 0 of 2 layers", "neat_packing: false"):
        begin(training, small(), packing=True, packed=True)


def test_attention_that_is_ours_in_one_layer_alone(training, capsys):
    model = small()
    other = model.model.layers[1].self_attn
    other.forward = lambda hidden_states, **_: (hidden_states, None)
    with one_line(capsys, "transformers", "calls our attention in 1 of 2 layers", "neat_packing: false"):
        begin(training, model, packing=True, packed=True)


def test_a_mask_that_transformers_makes_for_our_attention(training, capsys, monkeypatch):
    masks = AttentionMaskInterface._global_mapping
    monkeypatch.setitem(masks, training.PACKED, masks["eager"])
    with one_line(capsys, "transformers", "now makes a mask for attention of our own", "neat_packing: false"):
        begin(training, small(), packing=True, packed=True)


def test_dialogues_that_run_into_each_other_in_our_attention(training, capsys, monkeypatch):
    def without_ends(q, k, v, starts, _, *rest, **named):
        return plain_varlen(q, k, v, starts[[0, -1]], starts, *rest, **named)

    monkeypatch.setattr(training, "varlen_attn", without_ends)
    what = "lets a pack's dialogues run into each other in Qwen2ForCausalLM"
    with one_line(capsys, "transformers", what, "neat_packing: false"):
        begin(training, small(), packing=True, packed=True)


def test_dialogues_that_run_into_each_other_under_llamafactorys_own_mask(training, capsys, monkeypatch):
    collate = collator(training.SFTDataCollatorWith4DAttentionMask)
    begin(training, small(), collate, packing=True)
    collate.block_diag_attn = False
    with one_line(capsys, "transformers", "lets a pack's dialogues run into each other", "neat_packing: false"):
        begin(training, small(), collate, packing=True)


def test_adapter_inputs_without_a_switch(training, capsys):
    model = small(adapted=True)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            del module.cast_input_dtype_enabled
    with one_line(capsys, "peft", "no longer has cast_input_dtype_enabled", "bf16: false"):
        begin(training, model, keep_inputs=True)


def under_autocast(stored: torch.dtype) -> torch.nn.Module:
    """Return a model whose base is `stored` so, with an adapter in float32, as LLaMA-Factory and accelerate make it ready."""
    model = small(adapted=True)
    for name, weight in model.named_parameters():
        weight.data = weight.data.to(torch.float32 if "lora" in name else stored)
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    return model


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
def test_nothing_is_said_where_every_patch_holds(training, capsys, stored):
    model = under_autocast(stored)
    begin(training, model, packing=True, packed=True, keep_inputs=True)
    assert "error" not in capsys.readouterr().err and model.training


def test_adapter_inputs_that_are_widened(training, capsys, monkeypatch):
    model = under_autocast(torch.bfloat16)
    monkeypatch.setattr(LoraLayer, "_cast_input_dtype", lambda self, part, dtype: part.to(dtype))
    with one_line(capsys, "peft", "no longer leaves the adapter's inputs as they come", "bf16: false"):
        begin(training, model, keep_inputs=True)


def test_an_adapter_that_deepspeed_takes_up_in_float32(training, capsys):
    with one_line(capsys, "deepspeed", "no longer takes up in bfloat16 what is trained", "bf16: false"):
        begin(training, small(adapted=True), args=SimpleNamespace(bf16=True, deepspeed="zero/2.json", device="cpu"))


ZERO = SimpleNamespace(bf16=False, deepspeed="zero/3.json", device="cpu")


def test_layers_that_deepspeed_fetches_in_parts(training, capsys, monkeypatch):
    monkeypatch.setattr(training, "is_deepspeed_zero3_enabled", lambda: True)
    model = small()
    model.model.layers[1].mlp.up_proj.register_forward_pre_hook(lambda *_: None)  # as DeepSpeed does where a layer is no leaf
    with one_line(capsys, "deepspeed", "no longer fetches whole layers", "deepspeed: 2"):
        begin(training, model, args=ZERO)


def test_a_first_layer_whose_input_asks_for_no_gradient(training, capsys, monkeypatch):
    monkeypatch.setattr(training, "is_deepspeed_zero3_enabled", lambda: True)
    monkeypatch.setattr(Qwen2ForCausalLM, "enable_input_require_grads", lambda self: None)
    model = small(adapted=True)
    training.Faster(**NOTHING).on_init_end(ZERO, model=model)
    begin(training, model, args=ZERO)
    with one_line(capsys, "transformers", "no longer has the first layer's input ask for its gradient", "deepspeed: 2"):
        model(torch.tensor([[5, 6, 7]]))


def test_liger_without_a_loss_for_the_model(training, capsys):
    with one_line(capsys, "liger-kernel", "puts no loss of its own into Qwen2ForCausalLM", "enable_liger_kernel: false"):
        begin(training, small(adapted=True), liger=True)


def test_ligers_loss_with_logits(training, capsys, monkeypatch):
    model = small()
    usual = model.forward
    model.forward = lambda *args, skip_logits=None, **named: usual(*args, **named)
    begin(training, model, liger=True)
    tokens = torch.tensor([[5, 6, 7]])
    with one_line(capsys, "liger-kernel", "no longer computes the loss without logits", "enable_liger_kernel: false"):
        model.eval()(input_ids=tokens, labels=tokens)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
def test_liger_knows_by_name_each_kernel_that_is_turned_off_where_layers_are_compiled(kind):
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    kernels = {
        name for name, part in signature(MODEL_TYPE_TO_APPLY_LIGER_FN[kind]).parameters.items() if part.annotation is bool
    }
    assert kernels == set(LOSS_ALONE)  # others it would ignore, and leave on


def one_step(training, folder: Path, **asked) -> None:
    torch._dynamo.reset()  # what another test compiled
    tokens = torch.arange(5, 13)
    settings = TrainingArguments(str(folder), use_cpu=True, bf16=False, max_steps=2, report_to="none", save_strategy="no")
    row = {"input_ids": tokens, "labels": tokens}
    Trainer(small(), settings, train_dataset=[row] * 16, callbacks=[training.Faster(**NOTHING | asked)]).train()


def test_layers_that_do_not_run_compiled(training, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", lambda graph, *_, **__: graph.forward)
    one_step(training, tmp_path, compiled=True)
    layer = training.GradientCheckpointingLayer
    monkeypatch.setattr(layer, "__call__", lambda self, *args, **named: self.forward(*args, **named))
    with one_line(capsys, "transformers", "no longer runs layers as they were compiled", "torch_compile: false"):
        one_step(training, tmp_path, compiled=True)


def test_a_switch_of_torchs_that_is_gone(training, capsys, monkeypatch):
    monkeypatch.setattr(training, "dynamo", SimpleNamespace())
    with one_line(capsys, "torch", "no longer has dynamo.optimize_ddp", "torch_compile: false"):
        begin(training, small(), compiled=True)


def test_copies_that_do_not_block_are_what_the_trainer_makes_of_the_setting(tmp_path):
    settings = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", accelerator_config={"non_blocking": True})
    loader = Trainer(small(), settings, train_dataset=[{"input_ids": [1], "labels": [1]}]).get_train_dataloader()
    assert loader._non_blocking is True


@pytest.fixture
def configured(tmp_path, monkeypatch) -> Callable[..., dict]:
    """Give a function that returns LLaMA-Factory's configuration for random weights with the embedded tokenizer."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"instruction": f"感冒{n}天了，怎么办？", "output": f"多喝水，休息{n}天。"} for n in range(12)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for part in ("train", "val"):
        (tmp_path / f"{part}.jsonl").write_text(text, encoding="utf-8")
    columns = {"prompt": "instruction", "response": "output"}
    known = {part: {"file_name": f"{part}.jsonl", "columns": columns} for part in ("train", "val")}
    (tmp_path / "dataset_info.json").write_text(json.dumps(known))

    numbers = itertools.count()

    def make(kind: str, sizes: dict, **changes) -> dict:
        base = tmp_path / kind
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).save_pretrained(base)
        AutoTokenizer.from_pretrained(TINY).save_pretrained(base)
        template = yaml.safe_load((ROOT / "templates" / "train.yaml").read_text(encoding="utf-8"))
        return (
            template
            | {
                "model_name_or_path": str(base),
                "dataset_dir": str(tmp_path),
                "output_dir": f"{tmp_path}/run-{next(numbers)}",
                "use_cpu": True,
                "bf16": False,
                "max_steps": 3,
                "cutoff_len": 160,
                "eval_steps": 3,
                "logging_steps": 1,
                "learning_rate": 0.01,
                "save_strategy": "no",
                "load_best_model_at_end": False,
                "early_stopping_steps": None,
                "plot_loss": False,
                "per_device_train_batch_size": 2,
                "torch_compile": False,
                "enable_liger_kernel": False,
                "neat_packing": False,
                "disable_gradient_checkpointing": True,
            }
            | changes
        )

    return make


def losses(config: dict, key: str = "loss") -> list[float]:
    history = json.loads((Path(config["output_dir"]) / "trainer_state.json").read_text())["log_history"]
    return [entry[key] for entry in history if key in entry]


def test_llamafactory_trains_packs_by_our_collator_and_attention_to_the_loss_of_its_own_mask(training, configured):
    found = []
    for ours in (False, True):
        config = configured("qwen2", SIZES, neat_packing=True)
        training.train(config, packed=ours, keep_inputs=False)
        found.append(losses(config) + losses(config, "eval_loss"))
    assert found[1] == pytest.approx(found[0], rel=1e-4) and len(found[0]) == 4
    assert training.workflow.SFTDataCollatorWith4DAttentionMask is training.Packs


def test_llamafactory_that_takes_its_collator_from_elsewhere(training, configured, capsys, monkeypatch):
    monkeypatch.setattr(training, "workflow", SimpleNamespace())
    config = configured("qwen2", SIZES, neat_packing=True)
    with one_line(capsys, "llamafactory", "no longer makes its batches by our collator", "neat_packing: false"):
        training.train(config, packed=True, keep_inputs=False)


@pytest.mark.parametrize("kind", ["qwen3_5_text", "qwen3_next"])
def test_a_pack_carries_state_from_dialogue_to_dialogue_in_linear_attention(kind, capsys, training):
    torch.manual_seed(0)
    more = {"decoder_sparse_step": 9, "mlp_only_layers": [0, 1]} if kind == "qwen3_next" else {}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **HYBRID, **more, initializer_range=0.3)).eval()
    one, two = torch.randint(5, 8192, (2, 1, 12)).unbind()
    alone = model(two, labels=two).loss
    positions = torch.arange(12).repeat(2)[None]
    labels = torch.cat([torch.full_like(one, -100), two], 1)
    packed = model(
        torch.cat([one, two], 1), position_ids=positions, labels=labels
    ).loss  # full attention is kept apart by these
    assert abs(packed - alone) > 0.01 * alone
    with one_line(capsys, "transformers", f"run into each other in {type(model).__name__}", "neat_packing: false"):
        begin(training, model, collator(training.SFTDataCollatorWith4DAttentionMask, block_diag_attn=False), packing=True)


def test_a_hybrid_trains_without_packs_and_is_refused_with_them(training, configured, capsys, monkeypatch, tmp_path):
    config = configured("qwen3_5_text", HYBRID)
    training.train(dict(config), packed=False, keep_inputs=False)
    found = losses(config)
    assert len(found) == 3 and found[-1] < found[0]
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config | {"neat_packing": True}))
    monkeypatch.setattr(sys, "argv", ["training", str(tmp_path / "train.yaml")])
    capsys.readouterr()
    with ends():
        training.main()
    line = capsys.readouterr().err.strip()
    assert line.startswith("error: adapter.neat_packing: true: the base is a qwen3_5_text,")
    assert line.endswith("set it to false") and "\n" not in line
