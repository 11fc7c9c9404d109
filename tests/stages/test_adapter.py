import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from stages import adapter
from tests.conftest import ROOT, ends, params_with
from tests.xinglin.test_memory import SHAPES
from xinglin.training.memory import BatchPlan

TEMPLATE = yaml.safe_load((ROOT / "templates" / "train.yaml").read_text(encoding="utf-8"))
CUT = BatchPlan(3, 6, True, {"weights": 1e9}, 1)
KNOBS = {
    "template": "deepseekr1",
    "finetuning_type": "lora",
    "lora_rank": 5,
    "lora_alpha": 11,
    "lora_dropout": 0.3,
    "lora_target": "q_proj",
    "learning_rate": 0.5,
    "num_train_epochs": 9.0,
    "max_steps": 7,
    "per_device_train_batch_size": 3,
    "gradient_accumulation_steps": 6,
    "cutoff_len": 96,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.2,
    "max_samples": 12,
    "mask_history": True,
    "eval_steps": 0.5,
    "early_stopping_steps": 8,
    "disable_gradient_checkpointing": False,
    "bf16": False,
    "seed": 3,
    "neat_packing": True,
    "quantization_bit": 4,
    "torch_compile": True,
    "enable_liger_kernel": True,
}


def config(tmp_path, changes):
    (tmp_path / "train.jsonl").write_text("{}\n")
    chosen = params_with({f"adapter.{name}": value for name, value in changes.items()}).adapter
    return adapter.training_config(TEMPLATE, chosen, CUT, tmp_path, tmp_path, tmp_path / "run")


def test_every_knob_reaches_llamafactory(tmp_path, monkeypatch):
    assert set(KNOBS) | adapter.OURS == set(params_with().adapter.model_dump())
    monkeypatch.setattr(adapter, "on_gpu", lambda: True)
    found = config(tmp_path, KNOBS)
    liger = found.pop("liger_kernel_config")
    assert {name: found[name] for name in KNOBS} == KNOBS | {"enable_liger_kernel": False}
    assert found["use_liger_kernel"] and [name for name, used in liger.items() if used] == ["fused_linear_cross_entropy"]
    assert config(tmp_path, KNOBS | {"torch_compile": False})["enable_liger_kernel"] is True
    shared = [config(tmp_path, KNOBS | {"gpus": 2, "deepspeed": stage}) for stage in (2, 3)]
    assert [(one["torch_compile"], one["enable_liger_kernel"]) for one in shared] == [(True, False), (False, True)]
    assert found["save_steps"] == found["eval_steps"] == 0.5
    assert found["include_num_input_tokens_seen"] == "no" and found["accelerator_config"] == {"non_blocking": True}


def test_what_only_a_gpu_can_is_left_out_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr(adapter, "on_gpu", lambda: False)
    found = config(tmp_path, {"enable_liger_kernel": True, "torch_compile": True, "gpus": 2})
    assert (
        found["enable_liger_kernel"] is found["torch_compile"] is False
        and found["use_cpu"] is True
        and found["ddp_backend"] == "gloo"
    )
    assert config(tmp_path, {})["ddp_backend"] is None and found["include_num_input_tokens_seen"] == "non_padding"
    assert found["accelerator_config"] == {"non_blocking": False}


def test_what_is_shared_out_reaches_deepspeed(tmp_path):
    file, zero = ROOT / "templates" / "train.yaml", ROOT / "templates" / "zero"
    assert "deepspeed" not in adapter.read_template(file, zero, params_with().adapter)
    for stage in (2, 3):
        chosen = params_with({"adapter.gpus": 2, "adapter.deepspeed": stage}).adapter
        (tmp_path / "train.jsonl").write_text("{}\n")
        found = adapter.training_config(
            adapter.read_template(file, zero, chosen), chosen, CUT, tmp_path, tmp_path, tmp_path / "run"
        )
        assert json.loads(Path(found["deepspeed"]).read_text())["zero_optimization"]["stage"] == stage


def test_a_processor_takes_deepspeed_in_float32_and_without_use_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(adapter, "on_gpu", lambda: False)
    found = config(tmp_path, {"gpus": 2, "deepspeed": 2})
    assert found["use_cpu"] is False and found["bf16"] is False and found["ddp_backend"] == "gloo"
    assert config(tmp_path, {"gpus": 2})["use_cpu"] is True


def test_only_the_adapter_or_only_the_tuned_model_is_kept(tmp_path):
    for name in (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "optimizer.pt",
        "train.yaml",
    ):
        (tmp_path / name).touch()
    lora, full = (adapter.kept(tmp_path, params_with({"adapter.finetuning_type": kind}).adapter) for kind in ("lora", "full"))
    assert lora == ["adapter_config.json", "adapter_model.safetensors"]
    weights = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    assert full == ["config.json", "generation_config.json", *weights]


@pytest.mark.filterwarnings("ignore")
def test_llamafactory_accepts_the_template_with_the_parameters_over_it(tmp_path):
    from llamafactory.hparams import get_train_args

    cpu = {
        "use_cpu": True,
        "bf16": False,
        "output_dir": str(tmp_path / "out"),
        "model_name_or_path": str(ROOT / "models" / "tiny"),
    }
    for known in (config(tmp_path, {}), config(tmp_path, {"finetuning_type": "full"})):
        _, data, training, finetuning, _ = get_train_args(known | cpu | {"resume_from_checkpoint": None})
        assert data.template == "qwen" and finetuning.lora_rank == 8 and training.load_best_model_at_end
    assert finetuning.finetuning_type == "full"


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


def test_other_training_code_starts_anew_and_several_machines_always_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = (params_with({"adapter.nodes": nodes}).adapter for nodes in (1, 2))
    for chosen, left in ((one, True), (two, False)):
        run = adapter.run_folder(chosen, "data")
        (run / "checkpoint-1").mkdir()
        assert adapter.run_folder(chosen, "data") == run and (run / "checkpoint-1").exists() is left
    monkeypatch.setenv("NODE_RANK", "1")
    assert adapter.run_folder(two, "data") != run  # should the machines share a disk
    monkeypatch.delenv("NODE_RANK")
    before = adapter.run_folder(one, "data")
    monkeypatch.setattr(adapter, "CODE", [tmp_path / "training.py"])
    (tmp_path / "training.py").write_text("other")
    assert adapter.run_folder(one, "data") != before


def test_a_step_cut_otherwise_goes_on_from_the_same_checkpoints_and_another_step_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(at_once, accumulation, **more):
        changes = {"per_device_train_batch_size": at_once, "gradient_accumulation_steps": accumulation, **more}
        return adapter.run_folder(params_with({f"adapter.{name}": value for name, value in changes.items()}).adapter, "data")

    (run(1, 4) / "checkpoint-1").mkdir()
    for same in (run(2, 2), run(4, 1, batch="auto"), run(1, 4, disable_gradient_checkpointing="auto")):
        assert same == run(1, 4) and (same / "checkpoint-1").exists()
    assert run(2, 4) != run(1, 4) and (run(1, 4) / "checkpoint-1").exists(), "the setting before stays"


def test_an_edit_during_a_training_is_told_once(workplace, capsys, tmp_path):
    workplace()
    watch = adapter.Watch(adapter.Params.read(), tmp_path)
    watch()
    assert capsys.readouterr().err == ""
    workplace({"adapter.lora_rank": 16})
    watch()
    watch()
    (tmp_path / "trainer_log.jsonl").write_text('{"current_steps": 3, "total_steps": 9, "loss": 2.5}\n{"curr')
    watch()
    assert capsys.readouterr().err.count("section adapter of params.yaml was edited") == 1


def test_curves_are_written_by_kind(tmp_path):
    history = [
        {"step": 5, "epoch": 0.5, "loss": 3.25},
        {"step": 6, "epoch": 0.6, "eval_loss": 3.5},
        {"step": 6, "epoch": 0.6, "train_loss": 3},
    ]
    adapter.write_curves(history, tmp_path)
    assert (tmp_path / "training.csv").read_text() == "step,epoch,loss\n5,0.5,3.25\n"
    assert (tmp_path / "validation.csv").read_text() == "step,epoch,loss\n6,0.6,3.5\n"


def launched(tmp_path, **changes):
    return adapter.launched(
        params_with({f"adapter.{name}": value for name, value in changes.items()}).adapter, tmp_path / "train.yaml"
    )


def test_one_device_is_llamafactory_alone_several_go_through_torchrun(tmp_path, monkeypatch, capsys):
    line, _ = launched(tmp_path)
    assert line[1:3] == ["-m", "xinglin.training.llamafactory"]
    line, _ = launched(tmp_path, gpus=2)
    assert line[0].endswith("torchrun") and line[line.index("--nproc-per-node") + 1] == "2" and "--standalone" in line
    with ends():
        launched(tmp_path, gpus=4, nodes=2)
    assert "adapter.nodes: 2 machines train together: set NODE_RANK and MASTER_ADDR on each" in capsys.readouterr().err
    monkeypatch.setenv("NODE_RANK", "1")
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    line, _ = launched(tmp_path, gpus=4, nodes=2)
    assert [line[line.index(f"--{name}") + 1] for name in ("nnodes", "nproc-per-node", "node-rank", "master-addr")] == [
        "2",
        "4",
        "1",
        "10.0.0.1",
    ]


def test_sets_have_one_order_in_every_training_so_that_the_same_adapter_has_the_same_bytes(tmp_path):
    line = [sys.executable, "-c", "print({'q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'})"]
    assert len({subprocess.check_output(line, env=os.environ | launched(tmp_path)[1]) for _ in range(6)}) == 1


def test_llamafactory_sees_as_many_gpus_as_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(adapter, "on_gpu", lambda: True)
    monkeypatch.setattr(adapter, "gpus_here", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert launched(tmp_path)[1]["CUDA_VISIBLE_DEVICES"] == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    assert launched(tmp_path, gpus=2)[1]["CUDA_VISIBLE_DEVICES"] == "3,5"
    with ends():
        launched(tmp_path, gpus=4)
    assert "adapter.gpus: 4 are asked for, 3 are here" in capsys.readouterr().err


def test_too_little_memory_is_said_before_training_with_what_would_fit(workplace, stage, monkeypatch, tiny_tokenizer):
    folder = workplace({"adapter.bf16": True})
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text(json.dumps(SHAPES["7B"]))
    (folder / "base.json").write_text(json.dumps({"model": "Qwen2.5-7B", "path": str(folder / "base"), "files": {}}))
    monkeypatch.setattr(adapter, "memory", lambda gpus: (16e9, "the GPU"))
    done = stage("adapter", base="base.json", split="s", template="t", zero="z", tokenizer=tiny_tokenizer, out="o", plots="p")
    assert (
        done.status == 1
        and "error: adapter: Qwen2.5-7B needs at the least 1 at once" in done.error
        and "the GPU has 16.0, of which 92% can be used" in done.error
    )
    assert "adapter.quantization_bit: 4" in done.error and done.error.strip().endswith("it would fit")


def test_the_cut_is_told_with_the_faster_one(tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_text(json.dumps(SHAPES["1.5B"]))
    chosen = params_with(
        {
            "adapter.batch": "auto",
            "adapter.per_device_train_batch_size": 8,
            "adapter.gradient_accumulation_steps": 1,
            "adapter.neat_packing": True,
            "adapter.cutoff_len": 2048,
            "adapter.disable_gradient_checkpointing": "auto",
            "adapter.bf16": True,
        }
    ).adapter
    monkeypatch.setattr(adapter, "memory", lambda gpus: (12e9, "the GPU"))
    monkeypatch.setattr(adapter, "with_liger", lambda adapter: True)
    adapter.cut_step({"model": "m"}, tmp_path, chosen)
    cut, faster = capsys.readouterr().out.splitlines()
    assert cut.startswith(
        "adapter: packs of 2048 tokens, 8 at once, 1 times a step, activations computed again: "
    ) and cut.endswith(" of 12.0 in the GPU")
    assert faster.startswith(
        "adapter: faster, but too large for it: 8 at once, 1 times a step, activations kept: 44.5 GB (weights 3.1, "
    )


def test_several_machines_look_for_no_checkpoint_that_only_one_of_them_would_have(tmp_path):
    one, two = (config(tmp_path, {"nodes": nodes, "early_stopping_steps": 3}) for nodes in (1, 2))
    assert one["load_best_model_at_end"] and one["early_stopping_steps"] == 3
    assert not two["load_best_model_at_end"] and two["early_stopping_steps"] is None and two["save_strategy"] == "no"


def test_memory_that_others_hold_stops_the_stage_before_training(workplace, stage, monkeypatch, tiny_tokenizer):
    workplace({"adapter.gpus": 2})
    Path("base.json").write_text(json.dumps({"model": "tiny", "path": str(ROOT / "models" / "tiny"), "files": {}}))
    Path("split").mkdir()
    Path("split/train.jsonl").write_text("{}\n")
    monkeypatch.setattr(adapter, "cards", lambda which: [80_000_000_000, 500_000_000, 1])
    template, zero = ROOT / "templates" / "train.yaml", ROOT / "templates" / "zero"
    done = stage(
        "adapter", base="base.json", split="split", template=template, zero=zero, tokenizer=tiny_tokenizer, out="o", plots="p"
    )
    assert done.status == 1 and "error: adapter: the GPU has 0.5 GB free" in done.error


def test_too_little_disk_for_the_checkpoints_of_every_weight_is_said_before_training(
    workplace, stage, monkeypatch, tiny_tokenizer
):
    workplace({"adapter.finetuning_type": "full"})
    Path("base.json").write_text(json.dumps({"model": "tiny", "path": str(ROOT / "models" / "tiny"), "files": {}}))
    Path("split").mkdir()
    monkeypatch.setattr("xinglin.files.shutil.disk_usage", lambda path: SimpleNamespace(free=7e8))
    template, zero = ROOT / "templates" / "train.yaml", ROOT / "templates" / "zero"
    done = stage(
        "adapter", base="base.json", split="split", template=template, zero=zero, tokenizer=tiny_tokenizer, out="o", plots="p"
    )
    assert (
        done.status == 1 and "training every weight, checkpoints and all, needs 0.8 GB of disk, 0.7 GB are free" in done.error
    )


def test_a_step_that_the_devices_cannot_share_is_an_error(workplace, stage, tiny_tokenizer):
    workplace({"adapter.batch": "auto", "adapter.gpus": 3})
    base = {"model": "tiny", "path": str(ROOT / "models" / "tiny"), "files": {}}
    Path("base.json").write_text(json.dumps(base))
    done = stage("adapter", base="base.json", split="s", template="t", zero="z", tokenizer=tiny_tokenizer, out="o", plots="p")
    assert done.status == 2 and "a step of 4" in done.error and "shared out to 3" in done.error


def test_the_adapter_names_its_base_as_the_hub_does_not_by_a_folder_of_this_machine(tmp_path):
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"base_model_name_or_path": ".work/base/0/model", "r": 8}))
    adapter.name_base(file, "Qwen/Qwen3-4B")
    assert json.loads(file.read_text()) == {"base_model_name_or_path": "Qwen/Qwen3-4B", "r": 8}
    adapter.name_base(tmp_path / "none.json", "Qwen/Qwen3-4B")
    assert not (tmp_path / "none.json").exists()


def test_what_params_yaml_holds_stands_in_no_template():
    export = yaml.safe_load((ROOT / "templates" / "merge.yaml").read_text(encoding="utf-8"))
    sections = params_with().model_dump()
    for template in (TEMPLATE, export):
        assert not template.keys() & (sections["adapter"].keys() | sections["merged"].keys() | sections["split"].keys())
