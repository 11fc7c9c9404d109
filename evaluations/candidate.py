"""candidate: what a base is worth before any training: its answers to the validation part, scored, with its size and speed.

Usage: stages/run evaluations.candidate --profile profiles/tiny.yaml --tiny models/tiny --split data/split \
           --out evaluations/candidates/tiny.json --answers data/candidates/tiny.jsonl

A candidate is a profile: its base, its template and its predictions are laid over params.yaml, the part is always val.
"""

import json
import struct
import time
from math import prod
from pathlib import Path

import numpy as np

from xinglin.bases.check import Asked
from xinglin.bases.folder import open_base
from xinglin.bases.record import prove_base
from xinglin.cli import run_command, start
from xinglin.files import fingerprint, work_folder, write_json, write_jsonl
from xinglin.hubs.settings import Base
from xinglin.params import ParamsFile, Part
from xinglin.scoring.intervals import interval
from xinglin.scoring.scores import NAMES, RATES, diversity, table
from xinglin.scoring.settings import Metrics
from xinglin.serving.answers import answer_all, endpoints, measured, need_room, precision, samples, what_counts
from xinglin.serving.client import answered
from xinglin.serving.decoding import Decoding
from xinglin.serving.settings import Predictions


class Template(Part):
    template: str


class Params(ParamsFile):
    adapter: Template
    base: Base
    decoding: Decoding
    metrics: Metrics
    predictions: Predictions


def parameters(folder: Path) -> int:
    """Return how many parameters the model's safetensors hold, by their headers (a JSON text after its length, 8 bytes)."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as weights:
            (length,) = struct.unpack("<Q", weights.read(8))
            header = json.loads(weights.read(length))
        total += sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total


def main() -> None:
    paths = start(__doc__, "profile", "tiny", "split", "out", "answers")
    params = Params.read(profile=paths.profile)
    predictions, name = (
        params.predictions.model_copy(update={"base_url": None}),
        paths.profile.stem,
    )  # a server there holds one model
    tokenizer = work_folder(f"candidate-{name}-tokenizer", fingerprint(params.base.model_dump(), params.adapter.template))
    base, _ = prove_base(params.base, Asked.read(profile=paths.profile), paths.tiny, tokenizer)
    folder = open_base(base, tokenizer)
    dtype = precision(predictions, folder, lora=False)
    need_room(base, folder, dtype, f"candidate {name}")
    part = paths.split / "val.jsonl"
    asked = samples(part, predictions.max_samples)
    work = work_folder(
        f"candidate-{name}", fingerprint(what_counts(predictions, params.decoding, dtype), base["files"], part, tokenizer)
    )
    with endpoints(predictions, folder, None, work / "vllm.log") as urls:
        began, before = time.perf_counter(), len(answered(work / "base.jsonl"))
        answer_all(urls, "base", asked, work / "base.jsonl", predictions, params.decoding)
        seconds = time.perf_counter() - began
    found = answered(work / "base.jsonl")
    rows = [found[sample["id"]] for sample in asked]
    speed = measured(work, {"base": rows}, seconds, len(rows) - before)
    values = table(rows, name)
    means = dict(zip((*NAMES, *RATES), np.round(values.mean(0), 4).tolist(), strict=True))
    params.ensure_unchanged()
    write_jsonl(paths.answers, rows)
    write_json(
        paths.out,
        {
            "base": base["model"],
            "parameters": parameters(folder),
            "samples": len(rows),
            **{key: value if key in NAMES else round(100 * value, 2) for key, value in means.items()},
            **diversity(rows),
            "intervals": dict(zip(NAMES, interval(values[:, : len(NAMES)], params.metrics), strict=True)),
            **{name: speed[name] for name in ("samples_per_second", "tokens_per_second")},
        },
    )
    print(f"candidate: {base['model']}, {len(rows)} answers -> {paths.out}")


if __name__ == "__main__":
    run_command(main)
