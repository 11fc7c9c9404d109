"""benchmarks.gpu's answering: the predictions stage, vLLM without a server, LLaMA-Factory's predict, all with the adapter."""

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import yaml

from benchmarks.gpu_training import Rows
from stages import adapter as trained
from xinglin.cli import CommandError
from xinglin.files import read_jsonl
from xinglin.serving import answers, server
from xinglin.serving.client import answered
from xinglin.serving.decoding import Decoding
from xinglin.serving.replicas import PREFILL
from xinglin.serving.settings import Predictions

CLI = f"{sys.prefix}/bin/llamafactory-cli"
OFFLINE = Path(__file__).with_name("offline.py")
AT_ONCE = 1024  # questions, shared out to the replicas
AGAIN, FEW = 256, 16  # questions that are asked once more, so many at once: are the answers the same?
REPLICAS = {"1": (1, AT_ONCE), "2": (2, AT_ONCE), "4": (4, AT_ONCE), "4, 2048 at once": (4, 2048)}


def predict_by_llamafactory(folder: Path, tuned: Path, samples: int) -> dict:
    """Return the rates of LLaMA-Factory's own predict, batches of 8 and 256 new tokens."""
    run = folder / "runs" / "predict"
    run.mkdir(parents=True, exist_ok=True)
    config = {
        "model_name_or_path": str(folder / "base"),
        "adapter_name_or_path": str(tuned),
        "stage": "sft",
        "do_predict": True,
        "predict_with_generate": True,
        "finetuning_type": "lora",
        "eval_dataset": "test",
        "max_samples": samples,
        "do_sample": False,
        "dataset_dir": str(folder / "split"),
        "template": "qwen",
        "cutoff_len": 1024,
        "output_dir": str(run),
        "max_new_tokens": 256,
        "per_device_eval_batch_size": 8,
        "bf16": trained.on_gpu(),
        "use_cpu": not trained.on_gpu(),
        "report_to": "none",
    }
    (run / "predict.yaml").write_text(yaml.safe_dump(config))
    with (run / "log.txt").open("wb") as output:
        subprocess.run([CLI, "train", str(run / "predict.yaml")], stdout=output, stderr=output, check=True)
    found = json.loads((run / "predict_results.json").read_text())
    return {"answers_per_second": found["predict_samples_per_second"]}


def answer_offline(folder: Path, tuned: Path, options: dict) -> dict:
    """Return the rates of vLLM without a server, the adapter applied: its defaults but for `options`."""
    line = [
        str(server.vllm_python()),
        str(OFFLINE),
        str(folder / "base"),
        str(tuned),
        str(folder / "asked.jsonl"),
        json.dumps(options),
    ]
    done = subprocess.run(line, capture_output=True, text=True, env=server.environment())
    if done.returncode:
        print(f"offline: failed\n{done.stderr[-1500:]}", flush=True)
        return {"failed": True}
    return json.loads(done.stdout.split("RESULT ")[1].splitlines()[0])


def answer_by_stage(profile: Predictions, decoding: Decoding, folder: Path, tuned: Path, changes: dict) -> dict:
    """Return the rates of the stage's server and client, adapter on, and how many answers are the same in other company."""
    chosen = profile.model_copy(update={"max_new_tokens": 256, "max_model_len": 2048, **changes})
    asked = read_jsonl(folder / "asked.jsonl")
    for left in ("warm", "base", "tuned", "again"):  # by a run that was stopped
        (folder / f"{left}.jsonl").unlink(missing_ok=True)
    begin = time.perf_counter()
    with answers.endpoints(chosen, folder / "base", tuned, folder / "vllm.log") as urls:
        up = time.perf_counter() - begin
        answers.answer_all(urls, "tuned", asked[:64], folder / "warm.jsonl", chosen, decoding)
        found = {"start_seconds": up}
        for model, prefix in (("base", "base_"), ("tuned", "")):
            start = time.perf_counter()
            answers.answer_all(urls, model, asked, folder / f"{model}.jsonl", chosen, decoding)
            seconds = time.perf_counter() - start
            rows = answered(folder / f"{model}.jsonl").values()
            tokens = sum(row["completion_tokens"] for row in rows)
            found |= {f"{prefix}answers_per_second": len(rows) / seconds, f"{prefix}tokens_per_second": tokens / seconds}
        if chosen.concurrency > FEW:
            answers.answer_all(
                urls, "tuned", asked[:AGAIN], folder / "again.jsonl", chosen.model_copy(update={"concurrency": FEW}), decoding
            )
            first, again = answered(folder / "tuned.jsonl"), answered(folder / "again.jsonl")
            found["same_answers"] = sum(row["prediction"] == first[name]["prediction"] for name, row in again.items()) / len(
                again
            )
    return found


def answer_all(profile: Predictions, decoding: Decoding, folder: Path) -> Rows:
    """Yield a way to answer and a function that returns its rates, with the first adapter that the training left."""
    tuned = next((file.parent for file in sorted((folder / "runs").glob("*/adapter_model.safetensors"))), None)
    if tuned is None:
        raise CommandError(f"{folder / 'runs'}: no adapter to answer with: run '--parts train' first")
    gpu, cards = trained.on_gpu(), trained.gpus_here()
    ours = partial(answer_by_stage, profile, decoding, folder, tuned)
    shares = dict(REPLICAS) if gpu else {"1": (1, 16)}
    if cards > 1:
        shares[f"{2 * cards}, {cards} GPUs"] = 2 * cards, AT_ONCE * cards
    for name, (replicas, at_once) in shares.items():
        yield f"ours, replicas {name}", partial(ours, {"data_parallel_size": replicas, "concurrency": at_once})
    settings = {"max_model_len": 2048} | ({} if gpu else {"enforce_eager": True})
    yield "vLLM offline", partial(answer_offline, folder, tuned, settings)
    if gpu:
        engine = server.device_options(profile, AT_ONCE) | {"max_num_seqs": AT_ONCE, "max_num_batched_tokens": PREFILL}
        engine["compilation_config"] = json.loads(str(engine["compilation_config"]))
        yield "vLLM offline, our engine's settings", partial(answer_offline, folder, tuned, settings | engine)
        yield (
            "ours, replicas 2, batch-invariant",
            partial(ours, {"data_parallel_size": 2, "concurrency": AT_ONCE, "batch_invariant": True}),
        )
    yield "LLaMA-Factory's predict", partial(predict_by_llamafactory, folder, tuned, 32 if gpu else 8)
