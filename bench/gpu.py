"""One GPU at real sizes: training, answering and serving, each beside what users have now, in one table of ratios.

Usage: python -m bench.gpu FOLDER [--size 1.5b] [--parts train answer serve] [--out bench/results/NAME.json]
       (1.5b: 15 minutes on an H200; FOLDER keeps the model for the next call; --size tiny tries it all on a CPU)

The model has the shape of Qwen2.5 and random weights, the dialogues HuatuoGPT's lengths: speed needs no more. Training is
timed from step to step after the first third, and counts real tokens, those of the dialogues, not of the padding.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import httpx
import yaml

from bench.app import EVENTS, load
from bench.synthetic import SHAPES, make_base, make_split
from stages import adapter as trained
from stages import predictions as answers
from stages import server
from stages.memory import linear_layers, plan
from stages.params import Adapter, read_params

ROOT = Path(__file__).parent.parent
CLI = f"{sys.prefix}/bin/llamafactory-cli"
BOARD = {  # what LLaMA-Factory's web board sets unless told otherwise
    "cutoff_len": 2048, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, "learning_rate": 5e-5,
    "neat_packing": False, "enable_liger_kernel": False, "torch_compile": False, "disable_gradient_checkpointing": False, "batch": "fixed",
}  # fmt: skip
UNPACKED = {"neat_packing": False, "torch_compile": False, "batch": "fixed", "per_device_train_batch_size": 32, "disable_gradient_checkpointing": True}
TRIED: dict[str, dict] = {  # changes of the profile's adapter section
    "the web board's settings": BOARD,
    "Liger, batch 32, padded": UNPACKED,
    "ours, by 1024": {"cutoff_len": 1024, "per_device_train_batch_size": 16},
    "ours, compiled": {"torch_compile": True},
    "ours, no autocast": {},
    "ours, no autocast, compiled by layer": {"torch_compile": True},
    "ours": {},
}
NO_AUTOCAST = {"bf16": False, "pure_bf16": True}  # PEFT's adapter is float32 all the same
BY_LAYER = {"ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "1"}  # without effect under autocast
PROFILES = {"tiny": "qwen2.5-1.5b", "1.5b": "qwen2.5-1.5b", "7b": "qwen2.5-7b"}
CLIENTS = (1, 16, 64, 256)


def used_memory() -> float:
    """Return the GPU's used memory in GB, 0 without a GPU."""
    try:
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]) * (1 << 20) / 1e9
    except (OSError, subprocess.CalledProcessError):
        return 0.0


def matrix_rate() -> float:
    """Return the FLOP/s of an 8192³ bfloat16 product, the ceiling that utilisation is measured against."""
    import torch

    if not torch.cuda.is_available():
        return float("nan")
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for count in (3, 20):
        begin.record()
        for _ in range(count):
            a @ b
        end.record()
    torch.cuda.synchronize()
    return 2 * 8192**3 * 20 / (begin.elapsed_time(end) / 1000)


def multiplied(size: str) -> int:
    """Return the parameters that a token is multiplied with: the linear layers and the output layer."""
    shape = SHAPES[size]
    return shape["num_hidden_layers"] * sum(a * b for a, b in linear_layers(shape)) + shape["vocab_size"] * shape["hidden_size"]


def token_counts(base: Path, split: Path, template: str) -> list[int]:
    """Return the tokens of each training dialogue, as LLaMA-Factory encodes it."""
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    encode = get_template_and_fix_tokenizer(tokenizer, DataArguments(template=template, enable_thinking=False)).encode_multiturn
    counts = []
    for line in (split / "train.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        turns = [*row["history"], (row["instruction"], row["output"])]
        messages = [{"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]
        counts.append(sum(len(ids) for pair in encode(tokenizer, messages) for ids in pair))
    return counts


def train(name: str, chosen: Adapter, folder: Path, steps: int) -> dict:
    """Train for `steps` through LLaMA-Factory, configured as the adapter stage does, and return rates."""
    base, split, run = folder / "base", folder / "split", folder / "runs" / "-".join(re.findall("[A-Za-z0-9]+", name))
    template = yaml.safe_load((ROOT / "templates" / "train.yaml").read_text(encoding="utf-8"))
    chosen = chosen.model_copy(update={"max_steps": steps, "max_samples": None})
    have, _ = trained.memory(1)
    cut = plan(json.loads((base / "config.json").read_text()), chosen, have, trained.in_bf16(chosen), trained.with_liger(chosen))
    assert cut, f"{name}: does not fit"
    run.mkdir(parents=True, exist_ok=True)
    config = trained.training_config(template, chosen, cut, base, split, run) | {
        "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "early_stopping_steps": None, "eval_dataset": None,
        "plot_loss": False, "logging_steps": 1, "metric_for_best_model": None,
    } | (NO_AUTOCAST if "no autocast" in name else {})  # fmt: skip
    (run / "train.yaml").write_text(yaml.safe_dump(config))
    command, environment = trained.launched(chosen, run / "train.yaml")
    environment |= BY_LAYER if "by layer" in name else {}
    log, peak, seen = run / "log.txt", 0.0, {}
    start, looked = time.perf_counter(), 0.0
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | environment)
    while process.poll() is None:
        time.sleep(0.02)
        notes = (run / "trainer_log.jsonl").read_text().splitlines() if (run / "trainer_log.jsonl").exists() else []
        for line in notes[len(seen) :]:
            if "loss" in line and line.endswith("}"):
                seen[json.loads(line)["current_steps"]] = time.perf_counter()
        if time.perf_counter() - looked > 1:
            looked, peak = time.perf_counter(), max(peak, used_memory())
    text = log.read_text(errors="replace")
    if process.returncode or len(seen) < 6:
        print(f"{name}: failed\n{text[-1500:]}", flush=True)
        return {"failed": True}
    examples = int(text.split("Num examples = ")[1].split()[0].replace(",", ""))
    first, last = sorted(seen)[len(seen) // 3], max(seen)
    a_step = (seen[last] - seen[first]) / (last - first)
    counts = token_counts(base, split, chosen.template)
    tokens = sum(min(n, chosen.cutoff_len) for n in counts) / examples * cut.batch * cut.accumulation
    return {
        "tokens_per_second": tokens / a_step, "seconds_a_step": a_step, "batch": cut.batch, "accumulation": cut.accumulation,
        "checkpointing": cut.checkpointing, "filled": tokens / (cut.batch * cut.accumulation * chosen.cutoff_len) if chosen.neat_packing else None,
        "peak_gb": peak, "estimated_gb": cut.bytes / 1e9, "first_step_seconds": seen[min(seen)] - start,
    }  # fmt: skip


def predict_by_llamafactory(folder: Path, tuned: Path, samples: int) -> dict:
    """Return the rates of LLaMA-Factory's own predict, batches of 8 and 256 new tokens."""
    run = folder / "runs" / "predict"
    run.mkdir(parents=True, exist_ok=True)
    config = {
        "model_name_or_path": str(folder / "base"), "adapter_name_or_path": str(tuned), "stage": "sft", "do_predict": True,
        "predict_with_generate": True, "finetuning_type": "lora", "eval_dataset": "test", "max_samples": samples, "do_sample": False,
        "dataset_dir": str(folder / "split"), "template": "qwen", "cutoff_len": 1024, "output_dir": str(run), "max_new_tokens": 256,
        "per_device_eval_batch_size": 8, "bf16": trained.on_gpu(), "use_cpu": not trained.on_gpu(), "report_to": "none",
    }  # fmt: skip
    (run / "predict.yaml").write_text(yaml.safe_dump(config))
    with (run / "log.txt").open("wb") as output:
        subprocess.run([CLI, "train", str(run / "predict.yaml")], stdout=output, stderr=output, check=True)
    found = json.loads((run / "predict_results.json").read_text())
    return {"answers_per_second": found["predict_samples_per_second"]}


OFFLINE = """
import json, sys, time
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
if __name__ == "__main__":
    base, tuned, template, file, options = sys.argv[1:]
    options = json.loads(options)
    model = LLM(model=base, enable_lora=True, max_lora_rank=8, tokenizer=tuned, **options)
    asked = [json.loads(line)["messages"] for line in open(file)]
    settings, lora = SamplingParams(temperature=0, max_tokens=256), LoRARequest("tuned", 1, tuned)
    template = open(template).read()
    model.chat(asked[:64], settings, lora_request=lora, chat_template=template, use_tqdm=False)
    start = time.perf_counter()
    given = model.chat(asked, settings, lora_request=lora, chat_template=template, use_tqdm=False)
    seconds = time.perf_counter() - start
    tokens = sum(len(one.outputs[0].token_ids) for one in given)
    print("RESULT", json.dumps({"answers_per_second": len(given) / seconds, "tokens_per_second": tokens / seconds}))
"""


def answer_offline(folder: Path, tuned: Path, options: dict) -> dict:
    """Return the rates of vLLM without a server, the adapter applied: its defaults but for `options`."""
    script = folder / "offline.py"
    script.write_text(OFFLINE)
    template = ROOT / "templates" / "chat" / "qwen.jinja"
    line = [str(server.vllm_python()), str(script), str(folder / "base"), str(tuned), str(template), str(folder / "asked.jsonl"), json.dumps(options)]
    done = subprocess.run(line, capture_output=True, text=True, env=server.environment())
    if done.returncode:
        print(f"offline: failed\n{done.stderr[-1500:]}", flush=True)
        return {"failed": True}
    return json.loads(done.stdout.split("RESULT ")[1].splitlines()[0])


def answer_by_stage(folder: Path, tuned: Path, changes: dict) -> dict:
    """Return the rates of the predictions stage's own server and client, the adapter applied."""
    chosen = read_params(profile=ROOT / "profiles" / "qwen2.5-1.5b.yaml").predictions
    chosen = chosen.model_copy(update={"max_new_tokens": 256, "max_model_len": 2048, **changes})
    asked = [json.loads(line) for line in (folder / "asked.jsonl").open(encoding="utf-8")]
    template = ROOT / "templates" / "chat" / "qwen.jinja"
    begin = time.perf_counter()
    with answers.endpoint(chosen, folder / "base", tuned, template, folder / "vllm.log") as url:
        up = time.perf_counter() - begin
        answers.answer_all(url, "tuned", asked[:64], folder / "warm.jsonl", chosen)
        start = time.perf_counter()
        answers.answer_all(url, "tuned", asked, folder / "tuned.jsonl", chosen)
        seconds = time.perf_counter() - start
    rows = answers.answered(folder / "tuned.jsonl").values()
    for file in ("warm.jsonl", "tuned.jsonl"):
        (folder / file).unlink()
    return {
        "answers_per_second": len(rows) / seconds, "tokens_per_second": sum(row["completion_tokens"] for row in rows) / seconds,
        "start_seconds": up,
    }  # fmt: skip


@contextmanager
def api_of_llamafactory(folder: Path) -> Iterator[str]:
    """Yield the URL of LLaMA-Factory's own API server, its Hugging Face engine."""
    port, run = server.free_port(), folder / "runs" / "api"
    run.mkdir(parents=True, exist_ok=True)
    config = {"model_name_or_path": str(folder / "base"), "template": "qwen", "do_sample": False, "infer_backend": "huggingface"}
    (run / "api.yaml").write_text(yaml.safe_dump(config))
    with (run / "log.txt").open("wb") as output:
        process = subprocess.Popen(
            [CLI, "api", str(run / "api.yaml")], env=os.environ | {"API_PORT": str(port), "API_HOST": "127.0.0.1", "API_MODEL_NAME": "xinglin"},
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        for _ in range(300):
            try:
                httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=5)
                break
            except httpx.TransportError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def loaded(url: str, clients: int, seconds: float) -> dict:
    """Return what `clients` streams at once see: median seconds to the first text, tokens a second of all and of one."""
    results = [r for r in asyncio.run(load(url, clients, seconds, False)) if r[2]]
    first, whole = (statistics.median(r[i] for r in results) for i in (0, 1))
    return {"first_text_seconds": first, "tokens_per_second": clients * EVENTS / whole, "streams": len(results)}


def serve(folder: Path, seconds: float) -> dict:
    chosen = read_params(profile=ROOT / "profiles" / "qwen2.5-1.5b.yaml").serve
    options = server.device_options(chosen)
    template = str(ROOT / "templates" / "chat" / "qwen.jinja")
    found = {}
    with server.running(folder / "base", folder / "vllm.log", served_model_name="xinglin", chat_template=template, max_model_len=4096,
                        generation_config="vllm", **options) as url:  # fmt: skip
        loaded(url, 4, 2)
        for clients in CLIENTS:
            found[f"ours, {clients} clients"] = loaded(url, clients, seconds)
    with api_of_llamafactory(folder) as url:
        for clients in CLIENTS[:2]:
            found[f"LLaMA-Factory's API, {clients} clients"] = loaded(url, clients, seconds)
    return found


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "peft", "llamafactory", "liger-kernel"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    line = [str(server.vllm_python()), "-c", "from importlib.metadata import version; print(version('vllm'))"]
    found["vllm"] = subprocess.run(line, capture_output=True, text=True).stdout.strip() or "none"
    return found


def card() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"


def ratios(rows: dict[str, dict], key: str, peer: str) -> str:
    """Return a Markdown table of a part, with the ratio of `key` to the peer's."""
    keys = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = ["| | " + " | ".join(keys) + " | × |", "|---" * (len(keys) + 2) + "|"]
    for name, row in rows.items():
        cells = [f"{row[k]:,.3g}" if isinstance(row.get(k), float) and row[k] < 100 else f"{row[k]:,.0f}" if isinstance(row.get(k), float) else str(row.get(k, "")) for k in keys]
        times = f"{row[key] / rows[peer][key]:.1f}" if key in row and key in rows.get(peer, {}) else ""
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {times} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SHAPES, default="1.5b")
    parser.add_argument("--parts", nargs="+", choices=("train", "answer", "serve"), default=["train", "answer", "serve"])
    parser.add_argument("--rows", type=int, default=4096, help="training dialogues; as many are asked at half that number")
    parser.add_argument("--only", nargs="+", help="of the training settings, these")
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--seconds", type=float, default=15, help="of each load on the server")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = args.folder.resolve()
    if not (folder / "base" / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        make_split(ROOT / "data" / "sample" / "dialogues.jsonl", {"train": args.rows, "val": 64, "test": args.rows // 2}, folder / "split")
        make_base(args.size, ROOT / "models" / "tiny", folder / "base")
        answers.write_jsonl(folder / "asked.jsonl", answers.samples(folder / "split" / "test.jsonl", None))
    profile = read_params(profile=ROOT / "profiles" / f"{PROFILES[args.size]}.yaml")
    found: dict = {"card": card(), "size": args.size, "versions": versions()}
    if args.out and args.out.exists():
        found = json.loads(args.out.read_text()) | found
    parts: dict[str, Callable[[], dict]] = {
        "train": lambda: train_all(profile.adapter, args, folder),
        "answer": lambda: answer_all(folder),
        "serve": lambda: serve(folder, args.seconds),
    }
    peers = {"train": ("tokens_per_second", "the web board's settings"), "answer": ("answers_per_second", "LLaMA-Factory's predict"),
             "serve": ("tokens_per_second", "LLaMA-Factory's API, 1 clients")}  # fmt: skip
    for part in args.parts:
        found[part] = found.get(part, {}) | parts[part]()
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(found, indent=2) + "\n")
        print(f"\n{found['card']}, {args.size}, {part}\n{ratios(found[part], *peers[part])}", flush=True)


def train_all(profile: Adapter, args: argparse.Namespace, folder: Path) -> dict:
    rate, found = matrix_rate(), {}
    for name, changes in TRIED.items():
        if not args.only or name in args.only:
            row = train(name, profile.model_copy(update=changes), folder, 9 if changes is BOARD else args.steps)
            if "tokens_per_second" in row:  # forward and backward to the activations: the frozen weights need no gradient
                row["utilisation"] = 4 * multiplied(args.size) * row["tokens_per_second"] / rate
            found[name] = row
            print(name, row, flush=True)
    return found


def answer_all(folder: Path) -> dict:
    tuned = next(file.parent for file in sorted((folder / "runs").glob("*/adapter_model.safetensors")))
    gpu = trained.on_gpu()
    found = {"ours": answer_by_stage(folder, tuned, {} if gpu else {"concurrency": 16})}
    print(found, flush=True)
    if gpu:
        found["ours, 1024 at once"] = answer_by_stage(folder, tuned, {"concurrency": 1024})
        found["ours, batch-invariant"] = answer_by_stage(folder, tuned, {"batch_invariant": True})
        print(found, flush=True)
    found["vLLM offline"] = answer_offline(folder, tuned, {"max_model_len": 2048} | ({} if gpu else {"enforce_eager": True}))
    print(found, flush=True)
    found["LLaMA-Factory's predict"] = predict_by_llamafactory(folder, tuned, 32 if gpu else 8)
    return found


if __name__ == "__main__":
    main()
