"""The servers that predictions start: how many, on which GPUs, with which options; and (make soak) two for real."""

import json
from contextlib import contextmanager

import pytest

from tests.conftest import ROOT, ends, params_with
from xinglin.serving import answers, replicas, server
from xinglin.serving import client as asking


@pytest.fixture
def launches(monkeypatch):
    """Return the servers that would be started from here on, on four 80 GiB GPUs: command line, variables and log of each."""
    seen = []

    @contextmanager
    def serving(*asked):
        seen.extend((launch.line, launch.variables, launch.log) for launch in asked)
        yield [launch.url for launch in asked]

    monkeypatch.setattr(server, "serving", serving)
    monkeypatch.setattr(server, "on_gpu", lambda: True)
    for module in ("replicas", "server"):
        monkeypatch.setattr(f"xinglin.serving.{module}.cards", lambda: [80 << 30] * 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return seen


def options_of(line):
    """Return a command line's options, those without a value as ""."""
    pairs = zip(line, [*line[1:], "--"], strict=True)
    return {
        word[2:].replace("-", "_"): "" if value.startswith("--") else value for word, value in pairs if word.startswith("--")
    }


def test_every_knob_of_the_server_reaches_its_command_line(tmp_path, launches):
    (tmp_path / "adapter_config.json").write_text('{"r": 12}')
    knobs = {
        "max_model_len": 333,
        "dtype": "float16",
        "gpu_memory_utilization": 0.4,
        "tensor_parallel_size": 2,
        "concurrency": 5,
        "data_parallel_size": 2,
        "batch_invariant": True,
    }
    chosen = params_with({f"predictions.{k}": v for k, v in knobs.items()} | {"predictions.max_new_tokens": 9}).predictions
    with answers.endpoints(chosen, ROOT / "models" / "tiny", tmp_path, tmp_path / "vllm.log") as urls:
        assert len(set(urls)) == 2
    expected = {
        "max_model_len": "333",
        "dtype": "float16",
        "gpu_memory_utilization": "0.4",
        "tensor_parallel_size": "2",
        "max_num_seqs": "3",
    }
    for (line, variables, log), gpus, name in zip(launches, ("0,1", "2,3"), ("vllm.log", "vllm-2.log"), strict=True):
        seen = options_of(line)
        assert (
            {k: seen[k] for k in expected} == expected
            and "kv_cache_memory_bytes" not in seen
            and "data_parallel_size" not in seen
        )
        assert variables["CUDA_VISIBLE_DEVICES"] == gpus and variables["VLLM_BATCH_INVARIANT"] == "1" and log.name == name
        assert seen["generation_config"] == "vllm"  # of the base's own nothing
        assert seen["max_lora_rank"] == "16" and seen["lora_modules"] == f"tuned={tmp_path}"
    assert "VLLM_BATCH_INVARIANT" not in server.environment()


def test_replicas_share_a_gpu_where_there_are_too_few(tmp_path, launches, monkeypatch, capsys):
    for module in ("replicas", "server"):
        monkeypatch.setattr(f"xinglin.serving.{module}.cards", lambda: [8 << 30])
    changes = {"predictions.data_parallel_size": 2, "predictions.gpu_memory_utilization": 0.8, "predictions.concurrency": 8}
    chosen = params_with(changes).predictions
    with answers.endpoints(chosen, ROOT / "models" / "tiny", None, tmp_path / "vllm.log"):
        pass
    assert [variables["CUDA_VISIBLE_DEVICES"] for _, variables, _ in launches] == ["0", "0"]
    share = 0.4 * (8 << 30)
    for line, *_ in launches:
        seen = options_of(line)
        assert seen["gpu_memory_utilization"] == "0.4" and seen["max_num_seqs"] == "4"
        assert share / 3 < int(seen["kv_cache_memory_bytes"]) < share
    launches.clear()
    with answers.endpoints(
        params_with(changes | {"predictions.data_parallel_size": 5}).predictions,
        ROOT / "models" / "tiny",
        None,
        tmp_path / "vllm.log",
    ) as urls:
        assert len(urls) == len(launches) == 4  # five would leave each less than CUDA takes
    assert "predictions.data_parallel_size: the GPU's memory does not hold 5 replicas: trying 4" in capsys.readouterr().err
    assert options_of(launches[0][0])["gpu_memory_utilization"] == "0.2"
    cut = params_with({"predictions.tensor_parallel_size": 3}).predictions
    with ends(), answers.endpoints(cut, ROOT / "models" / "tiny", None, tmp_path / "vllm.log"):
        raise AssertionError("it started")
    assert "predictions.tensor_parallel_size: 3 GPUs are asked for, 1 are here" in capsys.readouterr().err


def test_a_model_tuned_in_every_weight_has_a_server_of_its_own_after_the_bases(tmp_path, launches):
    (tmp_path / "config.json").write_text('{"dtype": "float32"}')  # as it was trained; it answers as the base does
    chosen, base = params_with().predictions, ROOT / "models" / "tiny"
    for models in answers.server_groups(chosen, tmp_path):
        with answers.endpoints(chosen, base, tmp_path, tmp_path / "log", models):
            pass
    seen = [options_of(line) for line, *_ in launches]
    expected = [(str(base), "base", "bfloat16"), (str(tmp_path), "tuned", "bfloat16")]
    assert [tuple(one[name] for name in ("model", "served_model_name", "dtype")) for one in seen] == expected
    assert not any("enable_lora" in one for one in seen)
    (tmp_path / "adapter_config.json").write_text('{"r": 8}')
    assert answers.server_groups(chosen, tmp_path) == [("base", "tuned")]
    (tmp_path / "adapter_config.json").unlink()
    assert answers.server_groups(params_with({"predictions.base_url": "http://10.0.0.1:8000"}).predictions, tmp_path) == [
        ("base", "tuned")
    ]


def test_float32_with_an_adapter_on_a_gpu_is_one_line_and_nothing_is_started(tmp_path, launches, capsys):
    (tmp_path / "adapter_config.json").write_text('{"r": 8}')
    chosen = params_with({"predictions.dtype": "float32"}).predictions
    with ends() as end, answers.endpoints(chosen, ROOT / "models" / "tiny", tmp_path, tmp_path / "log"):
        raise AssertionError("it started")
    assert end.value.code == 2 and not launches
    assert (
        "predictions.dtype: float32: on a GPU vLLM applies an adapter in 16 bit only: set it to auto" in capsys.readouterr().err
    )
    with answers.endpoints(chosen, ROOT / "models" / "tiny", None, tmp_path / "log"):
        assert options_of(launches[0][0])["dtype"] == "float32"


def test_what_a_replica_takes_is_told_of_a_model_whose_sizes_stand_under_text_config(tmp_path, capsys):
    text = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 1000,
        "dtype": "bfloat16",
    }
    engine = params_with({"predictions.dtype": "float32", "predictions.concurrency": 8}).predictions
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    (tmp_path / "config.json").write_text(json.dumps({"text_config": text}))
    assert (
        replicas.needed(engine, tmp_path)
        == 2 * 1000 + replicas.CONTEXT + replicas.PREFILL * 2 * (3 * 128 + 4 * 64) + 8 * 1000 * replicas.LOGITS
    )
    (tmp_path / "config.json").write_text(json.dumps({"text_config": text | {"intermediate_size": None}}))
    with ends():
        replicas.needed(engine, tmp_path)
    assert "error: config.json of the base: intermediate_size is None" in capsys.readouterr().err


@pytest.mark.soak
def test_two_replicas_answer_as_one_does(tmp_path):
    asked = [
        {"id": str(n), "messages": [{"role": "user", "content": f"感冒{n}天了，怎么办？"}], "reference": ""} for n in range(12)
    ]
    for count in (1, 2):
        chosen = params_with(
            {"predictions.data_parallel_size": count, "predictions.max_new_tokens": 20, "predictions.concurrency": 4}
        ).predictions
        with answers.endpoints(chosen, ROOT / "models" / "tiny", None, tmp_path / "vllm.log") as urls:
            assert len(urls) == count
            answers.answer_all(urls, "base", asked, tmp_path / str(count), chosen, params_with().decoding)
    one, two = ({key: row["prediction"] for key, row in asking.answered(tmp_path / str(n)).items()} for n in (1, 2))
    assert one == two and len(one) == 12
    assert "POST /v1/chat/completions" in (tmp_path / "vllm-2.log").read_text()
