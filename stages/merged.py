"""merged: base and adapter as one model, or the tuned model, with chat template and model card, after gate and parity check.

Usage: stages/run merged --base models/base.json --adapter models/adapter --predictions data/predictions \
           --metrics metrics.json --template templates/merge.yaml --card templates/card.md --converted data/converted \
           --split data/split --tokenizer models/tokenizer --out models/merged

The parity check asks a vLLM server of the merged model for the log-probabilities of the adapter's own answers, prompts
sent as messages through the template inside the model: token ids must be equal, log-probabilities within rounding.
"""

import json
import shutil
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import jinja2
import numpy as np
import yaml
from pydantic import Field

from xinglin.bases.dialects import both_dialects
from xinglin.bases.folder import TOKENIZER, open_base
from xinglin.cli import CommandError, run_command, start
from xinglin.files import atomic_path, need_space, read_json, read_jsonl, remove, write_json
from xinglin.params import Dtype, Format, ParamsFile, Section
from xinglin.processes import call
from xinglin.serving import server
from xinglin.serving.answers import logprobs, need_room
from xinglin.serving.decoding import Decoding, generation_config
from xinglin.serving.settings import Predictions
from xinglin.timings import LOGS
from xinglin.training.settings import Adapter

# Mean difference of log-probabilities (nats a token) that rounding explains. A merge rounds W + BA once to the weights'
# precision, and so is a model rounded that was tuned in every weight: relative error 2^-24, 2^-11, 2^-8 for these. The
# embedded base moves by about 0.02 in bfloat16; a template or tokenizer that differs moves by tenths of a nat.
TOLERANCE = {"float32": 0.002, "float16": 0.01, "bfloat16": 0.06}


class Gate(Section):
    scores: dict[str, float]
    gains: dict[str, float]


class Merged(Section):
    gate: Gate
    dtype: Dtype
    tolerance: Annotated[float, Field(gt=0)] | None
    exports: list[Format]


class Params(ParamsFile):
    adapter: Adapter
    decoding: Decoding
    merged: Merged
    predictions: Predictions


def shortfalls(metrics: dict, gate: Gate) -> list[str]:
    """Return a line for each demand of the gate that the metrics do not meet."""
    found = (
        []
        if metrics["part"] == "test"
        else ["predictions.part is val: scores that chose the settings admit no model, set it to test"]
    )
    for name, least in gate.scores.items():
        score = look_up(metrics["tuned"], name, "scores")
        if score < least:
            found.append(f"{name} of tuned is {score:.2f}, merged.gate.scores asks for {least:g} or more")
    for name, bound in gate.gains.items():
        gain = look_up(metrics["intervals"]["gain"], name, "gains")
        if gain["low"] <= bound:
            text = f"[{gain['low']:.2f}, {gain['high']:.2f}]"
            found.append(f"{name}: the gain's 95 % interval {text} does not lie above {bound:g} (merged.gate.gains)")
    return found


def look_up(known: dict, name: str, key: str) -> Any:
    if name not in known:
        raise CommandError(f"params.yaml: merged.gate.{key}.{name}: no such metric, expected one of {', '.join(known)}", 2)
    return known[name]


def export_config(template: dict, params: Params, base: Path, adapter: Path, out: Path) -> dict:
    """Return a LLaMA-Factory export config: the template, the parameters over it, then the paths of this run.

    A model tuned in every weight was trained in float32, so that LLaMA-Factory's `auto` would not find the base's own dtype.
    """
    full, dtype = params.adapter.finetuning_type == "full", params.merged.dtype
    return template | {
        "model_name_or_path": str(adapter if full else base),
        "adapter_name_or_path": None if full else str(adapter),
        "template": params.adapter.template,
        "infer_dtype": server.stored_dtype(base) if full and dtype == "auto" else dtype,
        "export_dir": str(out),
    }


def export(config: dict, out: Path) -> None:
    """Run LLaMA-Factory's export in a process of its own.

    Its Modelfile goes: it knows neither our template nor our decoding; `make exports` writes one that agrees with both.
    """
    out.mkdir(parents=True)
    file = out / "export.yaml"
    try:
        file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        call([f"{sys.prefix}/bin/llamafactory-cli", "export", str(file)], {}, LOGS / "merged.log")
    finally:
        remove(file)
        remove(out / "Modelfile")


def put_files(base: Path, tokenizer: Path, folder: Path, decoding: Decoding) -> None:
    """Give the export in `folder` the proven tokenizer and template, the scored decoding, and the base's own configuration.

    LLaMA-Factory exports the base's template, not the one that it trained with (LF#9392), the base's sampling, and files
    that transformers 5 alone reads.
    """
    for written in folder.iterdir():
        if (
            written.suffix in (".json", ".jinja", ".txt", ".model")
            and ".safetensors" not in written.name
            and written.name != "config.json"
        ):
            remove(written)
    for name in TOKENIZER:
        shutil.copyfile(tokenizer / name, folder / name)
    known = base / "generation_config.json"
    end = read_json(tokenizer / "tokenizer_config.json")["eos_token"]
    ends = {token["id"] for token in read_json(tokenizer / "tokenizer.json")["added_tokens"] if token["content"] == end}
    tokens = read_json(known) if known.exists() else server.read_config(base)
    write_json(folder / "generation_config.json", generation_config(decoding, tokens, ends))
    write_json(folder / "config.json", both_dialects(read_json(base / "config.json"), server.stored_dtype(folder)))


def differences(before: list[dict], after: list[dict]) -> np.ndarray:
    """Return |Δ log-probability| of each token; the prompts and answers must be the same token ids."""
    for old, new in zip(before, after, strict=True):
        for part in ("prompt", "answer"):
            if old[part] != new[part]:
                raise CommandError(
                    f"parity: sample {old['id']}: the merged model reads the {part} as other token ids than the adapter did"
                )
    pairs = [(o["logprobs"], n["logprobs"]) for o, n in zip(before, after, strict=True)]
    return np.concatenate([np.abs(np.subtract(old, new)) for old, new in pairs])


def parity(folder: Path, predictions: Path, params: Params, base: Path) -> dict:
    """Return how far the merged model's log-probabilities lie from the adapter's; stop if farther than the tolerance."""
    before = read_jsonl(predictions / "logprobs.jsonl")
    if not before:
        raise CommandError(f"{predictions}/logprobs.jsonl: no answers to compare, the tuned model gave empty ones only")
    rows = {row["id"]: row for row in read_jsonl(predictions / "tuned.jsonl")}
    settings = params.predictions
    options = server.device_options(settings)
    dtypes = precisions(params, base, folder)
    coarsest = max(dtypes, key=list(TOLERANCE).index)
    options |= {"dtype": dtypes[-1], "max_model_len": settings.max_model_len}
    log = folder.with_name(".vllm.log")
    with server.serving(server.vllm(folder, log, settings.batch_invariant, served_model_name="merged", **options)) as [url]:
        after = logprobs(url, "merged", [rows[row["id"]] for row in before])
    remove(log)
    moved = differences(before, after)
    tolerance = params.merged.tolerance or TOLERANCE[coarsest]
    found = {"answers": len(before), "tokens": moved.size, "mean": float(moved.mean()), "max": float(moved.max())}
    if found["mean"] > tolerance:
        raise CommandError(
            f"parity: log-probabilities moved by {found['mean']:.4f} nats a token by the merge, {coarsest} allows "
            f"{tolerance:g}: after a few steps an adapter changes weights by less than {coarsest} can hold: train longer, or "
            "set merged.tolerance; else models/adapter is not the one that answered: dvc repro --force predictions"
        )
    return {name: round(value, 5) for name, value in found.items()} | {"tolerance": tolerance, "dtype": coarsest}


def precisions(params: Params, base: Path, merged: Path) -> list[str]:
    """Return what the weights pass through: what the base is computed in, the merged model stored in, and computed in here."""
    setting = params.predictions.dtype
    stored = [server.stored_dtype(folder) for folder in (base, merged)]
    before, after = (server.compute_dtype(setting, dtype, "predictions.dtype") for dtype in stored)
    return [before, stored[1], after]


def trained_sources(stats: Path, train: Path, max_samples: int | None) -> list[dict]:
    """Return what stats.json says of each source, with the number of its rows among those trained on."""
    with train.open("rb") as lines:
        files = Counter(json.loads(line)["source"] for line in islice(lines, max_samples))
    return [source | {"rows": sum(files[file] for file in source["files"])} for source in read_json(stats)["sources"]]


def card(template: Path, **facts: Any) -> str:
    """Return the model card, to be published with the model; a fact that the template names and nobody gave is an error."""
    return jinja2.Template(template.read_text(encoding="utf-8"), undefined=jinja2.StrictUndefined).render(facts)


def main() -> None:
    names = ("base", "adapter", "predictions", "metrics", "template", "card", "converted", "split", "tokenizer", "out")
    paths = start(__doc__, *names)
    params = Params.read()
    metrics = read_json(paths.metrics)
    if short := shortfalls(metrics, params.merged.gate):
        raise CommandError(f"gate: {'; '.join(short)}: nothing was merged")
    record = read_json(paths.base)
    base = open_base(record, paths.tokenizer)
    dtype = server.compute_dtype(params.predictions.dtype, server.stored_dtype(base), "predictions.dtype")
    need_room(record, base, dtype, "merged")
    need_space(
        Path("."), 3 * sum(file["bytes"] for file in record["files"].values()), "the merged model and its copy in DVC's cache"
    )
    sources = trained_sources(paths.converted / "stats.json", paths.split / "train.jsonl", params.adapter.max_samples)
    overlap = read_json(paths.split / "report.json")["overlap"]
    template = yaml.safe_load(paths.template.read_text(encoding="utf-8"))
    with atomic_path(paths.out) as folder:
        export(export_config(template, params, base, paths.adapter, folder), folder)
        put_files(base, paths.tokenizer, folder, params.decoding)
        found = parity(folder, paths.predictions, params, base)
        write_json(folder / "parity.json", found)
        facts = {"base": record, "metrics": metrics, "params": params, "parity": found, "sources": sources, "overlap": overlap}
        (folder / "README.md").write_text(card(paths.card, **facts), encoding="utf-8")
        params.ensure_unchanged()
    print(
        f"merged: gate passed, log-probabilities moved by {found['mean']:.4f} nats a token "
        f"({found['tolerance']:g} allowed) -> {paths.out}"
    )


if __name__ == "__main__":
    run_command(main)
