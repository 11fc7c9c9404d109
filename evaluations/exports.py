"""exports: the merged model in lighter formats, and what each costs: size, scores, the difference to the merged model, speed.

Usage: stages/run evaluations.exports --model models/merged --split data/split \
           --requirements requirements/export.txt --out models/exports --answers data/exports --metrics evaluations/exports.json

Each format answers the part that predictions answers, with the same settings: fp8 and gptq by vLLM, gguf by llama_server.cpp,
whose token ids of every prompt must be those of the merged model. An export that is there already, made from the same
model and rows by the same libraries, is kept.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from evaluations import llama_server, quantize
from xinglin.bases.chat_template import ollama
from xinglin.bases.tokenizer import template_of
from xinglin.cli import CommandError, bearer, run_command, start
from xinglin.dialogues.rows import messages, row_id
from xinglin.files import (
    atomic_path,
    fingerprint,
    need_space,
    read_json,
    read_jsonl,
    remove,
    work_folder,
    write_json,
    write_jsonl,
)
from xinglin.params import Format, ParamsFile, Part
from xinglin.processes import call
from xinglin.scoring.intervals import interval
from xinglin.scoring.scores import MEANING, NAMES, RATES, scored
from xinglin.scoring.settings import Metrics
from xinglin.serving import server
from xinglin.serving.answers import answer_all, measured, samples, what_counts
from xinglin.serving.client import API_KEY, SECONDS, answered, post
from xinglin.serving.decoding import Decoding
from xinglin.serving.replicas import replicas
from xinglin.serving.settings import Predictions
from xinglin.timings import LOGS

CALIBRATION = 128  # rows of the training part that GPTQ rounds by
MERGED = "merged"
QUANTIZING = 7.5  # the least compute capability of a GPU that vLLM runs fp8 and gptq on (its compressed_tensors schemes)


class Template(Part):
    template: str


class Exports(Part):
    exports: list[Format]


class Params(ParamsFile):
    adapter: Template
    decoding: Decoding
    merged: Exports
    metrics: Metrics
    predictions: Predictions


def export_python() -> Path:
    """Return the Python of .venv-export, which stands beside the environment that runs this."""
    python = Path(sys.prefix).parent / ".venv-export" / "bin" / "python"
    if not python.exists():
        raise CommandError(f"{python}: no environment for exports: run 'make exports', which installs it")
    return python


def calibration(train: Path) -> list[dict]:
    """Return the dialogues of CALIBRATION rows of the training part, drawn by their content."""
    rows = sorted(read_jsonl(train), key=row_id)[:CALIBRATION]
    return [{"messages": [*messages(row), {"role": "assistant", "content": row["output"]}]} for row in rows]


def modelfile(template: str, stops: list[str], decoding: Decoding, tokens: int) -> str:
    """Return Ollama's Modelfile: the decoding that was scored, its penalty over the whole conversation."""
    settings = decoding.model_dump(include={"temperature", "top_p", "top_k"})
    settings |= {"repeat_penalty": decoding.repetition_penalty, "repeat_last_n": tokens, "num_ctx": tokens}
    lines = [f"PARAMETER {name} {value}" for name, value in settings.items()]
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    return "\n".join(["FROM ./xinglin.gguf", f'TEMPLATE """{template}"""', *lines]) + "\n"


def go_template(model: Path, name: str) -> str:
    """Return the chat template `name` in Ollama's language."""
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast.from_pretrained(model)
    try:
        return ollama(template_of(words, name), words)
    except ValueError as error:
        raise CommandError(
            f"gguf: adapter.template: {name}: Ollama's language cannot express it: {error}: take gguf out of merged.exports"
        )


def stops(model: Path) -> list[str]:
    """Return the texts of the tokens that end an answer."""
    ends = set(read_json(model / "generation_config.json")["eos_token_id"])
    return [token["content"] for token in read_json(model / "tokenizer.json")["added_tokens"] if token["id"] in ends]


def make(kind: str, model: Path, rows: list[dict], modelfile: str, requirements: Path, out: Path) -> None:
    """Write the model in another format to the folder `out`, unless it is there, made from the same by the same."""
    key = fingerprint(kind, model, rows, modelfile, requirements, Path(quantize.__file__))
    if (out / "export.json").exists() and read_json(out / "export.json")["key"] == key:
        print(f"exports: {out} is there already")
        return
    file = work_folder("exports", fingerprint(rows)) / "calibration.jsonl"
    write_jsonl(file, rows)
    with atomic_path(out) as folder:
        words = {"model": model, "format": kind, "rows": file, "out": folder}
        options = [str(word) for name, value in words.items() for word in (f"--{name}", value)]
        call([str(export_python()), "-m", quantize.__name__, *options], {"HF_HUB_OFFLINE": "1"}, LOGS / "exports.log")
        if modelfile:
            (folder / "Modelfile").write_text(modelfile, encoding="utf-8")
        write_json(folder / "export.json", {"key": key})


@contextmanager
def serving(kind: str, model: Path, params: Params, log: Path) -> Iterator[list[str]]:
    """Yield the URLs of servers of the format: vLLM as predictions sets it up, one llama_server.cpp for gguf."""
    settings = params.predictions
    if kind == "gguf":
        port = server.free_port()
        line = [str(export_python()), "-m", llama_server.__name__, str(model / "xinglin.gguf")]
        line += [str(port), str(settings.max_model_len), params.decoding.model_dump_json()]
        with server.serving(server.Launch("llama.cpp", line, server.environment(), port, log)) as urls:
            yield urls
        return
    engine = settings.model_copy(update={"dtype": precision(kind, model, settings.dtype)})
    with replicas(engine, model, log, served_model_name=kind) as urls:
        yield urls


def precision(kind: str, model: Path, setting: str) -> str:
    """Return what a format is computed in: vLLM's 4 bit kernels know no float32, its FP8 kernels do on a CPU only."""
    found = server.compute_dtype(setting, server.stored_dtype(model), "predictions.dtype")
    return server.half() if found == "float32" and (kind == "gptq" or (kind == "fp8" and server.on_gpu())) else found


def check_device(kinds: list[str]) -> None:
    """Stop with one line before anything is made that vLLM could not answer by on this GPU."""
    has = server.capability()
    if server.on_gpu() and has and has < QUANTIZING and (lost := [kind for kind in kinds if kind != "gguf"]):
        needs = f"vLLM needs a GPU of compute capability {QUANTIZING}, this one has {has}"
        raise CommandError(f"merged.exports: {', '.join(lost)}: {needs}: take gguf", 2)


def prompts(url: str, kind: str, asked: list[dict]) -> dict[str, list[int]]:
    """Return the token ids that the server makes of each sample's messages, by the sample's id."""
    found = {}
    with httpx.Client(base_url=url, headers=bearer(API_KEY), timeout=SECONDS) as client:
        for row in asked:
            body: dict = {"model": kind, "messages": row["messages"]}
            if kind == "gguf":
                body = {"content": post(client, "/apply-template", body)["prompt"], "add_special": False, "parse_special": True}
            found[row["id"]] = post(client, "/tokenize", body)["tokens"]
    return found


def same_prompts(merged: dict[str, list[int]], other: dict[str, list[int]], kind: str) -> None:
    """Stop where an export reads a prompt as other token ids than the merged model does."""
    for sample, ids in merged.items():
        if other[sample] != ids:
            raise CommandError(f"{kind}: sample {sample}: the prompt is read as other token ids than by the merged model")


def answers(
    kind: str, model: Path, asked: list[dict], params: Params, merged: dict[str, list[int]]
) -> tuple[list[dict], dict, dict[str, list[int]]]:
    """Return the rows answered, their speed, and the token ids of the prompts; a killed run goes on where it stopped.

    Prompts read otherwise than `merged` says of the merged model stop it before it answers.
    """
    chosen = params.predictions.model_copy(update={"concurrency": llama_server.SLOTS}) if kind == "gguf" else params.predictions
    dtype = "" if kind == "gguf" else precision(kind, model, params.predictions.dtype)
    counts = what_counts(params.predictions, params.decoding, dtype)
    work = work_folder(f"exports-{kind}", fingerprint(counts, model, [sample["id"] for sample in asked]))
    file = work / "answers.jsonl"
    with serving(kind, model, params, work / "server.log") as urls:
        ids = prompts(urls[0], kind, asked)
        same_prompts(merged, ids, kind)
        before, start = len(answered(file)), time.perf_counter()
        answer_all(urls, kind, asked, file, chosen, params.decoding)
        seconds = time.perf_counter() - start
    rows = [answered(file)[sample["id"]] for sample in asked]
    return rows, measured(work, {kind: rows}, seconds, len(rows) - before), ids


def weights_bytes(folder: Path) -> int:
    """Return the bytes of the files that hold the weights."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".safetensors", ".gguf"))


def summary(values: np.ndarray, merged: np.ndarray, names: list[str], metrics: Metrics) -> dict:
    """Return means, rates, paired differences to the merged model with 95 % intervals; arrays are [samples, names + RATES]."""
    width = len(names)
    found: dict = dict(zip(names, np.round(values[:, :width].mean(0), 4).tolist(), strict=True))
    found |= dict(zip(RATES, np.round(100 * values[:, width:].mean(0), 2).tolist(), strict=True))
    moved = values[:, :width] - merged[:, :width]
    bounds = interval(moved, metrics)
    found["difference"] = {n: {"mean": round(m, 4), **b} for n, m, b in zip(names, moved.mean(0).tolist(), bounds, strict=True)}
    return found


def show(found: dict) -> str:
    """Return the formats as a table for the terminal."""
    names = [name for name in (*NAMES, MEANING) if name in found[MERGED]]
    lines = [
        f"{'':8}{'MB':>9}"
        + "".join(f"{name:>9}" for name in names)
        + f"{'rouge-l to merged':>26}{'repeat %':>10}{'answers/s':>11}"
    ]
    for kind, one in found.items():
        moved = one["difference"]["rouge-l"]
        span = "" if kind == MERGED else f"{moved['mean']:+.2f} [{moved['low']:+.2f}, {moved['high']:+.2f}]"
        scores = "".join(f"{one[name]:9.2f}" for name in names)
        lines.append(
            f"{kind:8}{one['bytes'] / 1e6:9.1f}{scores}{span:>26}{one['repetitive']:10.1f}{one['samples_per_second']:11.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    paths = start(__doc__, "model", "split", "requirements", "out", "answers", "metrics")
    params = Params.read()
    if not params.merged.exports:
        raise CommandError("params.yaml: merged.exports: []: nothing to make, expected one or more of fp8, gptq, gguf", 2)
    kinds: list[str] = list(dict.fromkeys(params.merged.exports))
    check_device(kinds)
    export_python()
    need_space(Path("."), (1 + len(kinds)) * weights_bytes(paths.model), "the exports")
    rows = {"gptq": calibration(paths.split / "train.jsonl")}
    for kind in kinds:
        text = ""
        if kind == "gguf":
            text = modelfile(
                go_template(paths.model, params.adapter.template),
                stops(paths.model),
                params.decoding,
                params.predictions.max_model_len,
            )
        make(kind, paths.model, rows.get(kind, []), text, paths.requirements, paths.out / kind)
    for stale in paths.out.iterdir():
        if stale.name not in kinds:
            remove(stale)
    asked = samples(paths.split / f"{params.predictions.part}.jsonl", params.predictions.max_samples)
    folders = {MERGED: paths.model} | {kind: paths.out / kind for kind in kinds}
    done: dict[str, tuple[list[dict], dict, dict[str, list[int]]]] = {}
    for kind, folder in folders.items():
        done[kind] = answers(kind, folder, asked, params, done[MERGED][2] if done else {})
    values = {kind: scored(one[0], kind, params.metrics) for kind, one in done.items()}
    names = [*NAMES, *([MEANING] if params.metrics.embedding_model else [])]
    found = {
        kind: {"bytes": weights_bytes(folder)}
        | summary(values[kind], values[MERGED], names, params.metrics)
        | {name: done[kind][1][name] for name in ("samples_per_second", "tokens_per_second")}
        for kind, folder in folders.items()
    }
    with atomic_path(paths.answers) as folder:
        folder.mkdir()
        for kind, one in done.items():
            write_jsonl(folder / f"{kind}.jsonl", one[0])
    params.ensure_unchanged()
    write_json(paths.metrics, {"part": params.predictions.part, "samples": len(asked), "formats": found})
    print(show(found))


if __name__ == "__main__":
    run_command(main)
