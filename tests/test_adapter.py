import json

import pytest
import yaml

from stages import adapter
from tests.conftest import ROOT, params_with

TEMPLATE = yaml.safe_load((ROOT / "templates" / "train.yaml").read_text(encoding="utf-8"))
KNOBS = {
    "template": "deepseekr1", "lora_rank": 5, "lora_alpha": 11, "lora_dropout": 0.3, "lora_target": "q_proj", "learning_rate": 0.5,
    "num_train_epochs": 9.0, "max_steps": 7, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 6, "cutoff_len": 99,
    "lr_scheduler_type": "linear", "warmup_ratio": 0.2, "max_samples": 12, "mask_history": True, "eval_steps": 0.5,
    "early_stopping_steps": 8, "disable_gradient_checkpointing": False, "bf16": False, "seed": 3,
}  # fmt: skip


def config(tmp_path, changes):
    (tmp_path / "train.jsonl").write_text("{}\n")
    chosen = params_with({f"adapter.{name}": value for name, value in changes.items()}).adapter
    return adapter.training_config(TEMPLATE, chosen, tmp_path, tmp_path, tmp_path / "run")


def test_every_knob_reaches_llamafactory(tmp_path):
    assert set(KNOBS) == set(params_with().adapter.model_dump())
    found = config(tmp_path, KNOBS)
    assert {name: found[name] for name in KNOBS} == KNOBS
    assert found["save_steps"] == found["eval_steps"] == 0.5


@pytest.mark.filterwarnings("ignore")
def test_llamafactory_accepts_the_template_alone_and_laid_over(tmp_path):
    from llamafactory.hparams import get_train_args

    cpu = {"use_cpu": True, "bf16": False, "output_dir": str(tmp_path / "out"), "model_name_or_path": str(ROOT / "models" / "tiny")}
    for known in (TEMPLATE, config(tmp_path, {})):
        _, data, training, finetuning, _ = get_train_args(known | cpu | {"resume_from_checkpoint": None})
        assert data.template == "qwen" and finetuning.lora_rank == 8 and training.load_best_model_at_end


def test_null_for_early_stopping_takes_it_out(tmp_path):
    assert config(tmp_path, {"early_stopping_steps": None})["early_stopping_steps"] is None


def test_the_newest_whole_checkpoint_is_resumed_and_torn_ones_go(tmp_path):
    for step, content in ((9, "{}"), (100, "{}"), (110, '{"torn'), (120, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if content is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(content)
    assert adapter.last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")
    assert {folder.name for folder in tmp_path.iterdir()} == {"checkpoint-9", "checkpoint-100"}
    assert adapter.last_checkpoint(tmp_path / "none") is None


def test_curves_are_written_by_kind(tmp_path):
    history = [{"step": 5, "epoch": 0.5, "loss": 3.25}, {"step": 6, "epoch": 0.6, "eval_loss": 3.5}, {"step": 6, "epoch": 0.6, "train_loss": 3}]
    adapter.write_curves(history, tmp_path)
    assert (tmp_path / "training.csv").read_text() == "step,epoch,loss\n5,0.5,3.25\n"
    assert (tmp_path / "validation.csv").read_text() == "step,epoch,loss\n6,0.6,3.5\n"


@pytest.mark.parametrize(("bf16", "needed"), [(True, "18.0"), (False, "36.0")])
def test_too_little_memory_is_said_before_training(workplace, stage, monkeypatch, bf16, needed):
    folder = workplace({"adapter.bf16": bf16})
    files = {"model.safetensors": {"bytes": 15_000_000_000, "sha256": ""}}
    (folder / "base.json").write_text(json.dumps({"model": "big", "path": str(ROOT / "models" / "tiny"), "files": files}))
    monkeypatch.setattr("stages.common.memory", lambda: (8_000_000_000, "the GPU"))
    done = stage("adapter", base="base.json", split="s", template="t", templates="t", out="o", plots="p")
    assert done.status == 1 and f"big needs at least {needed} GB of memory, the GPU has 8.0 GB" in done.error
