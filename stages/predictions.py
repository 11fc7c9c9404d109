"""predictions: answers of base and tuned model to the test part (or val, to choose settings), by the server that users meet.

Usage: stages/run predictions --base models/base.json --adapter models/adapter --split data/split \
           --tokenizer models/tokenizer --out data/predictions

A vLLM server, or several replicas of it, holds the base and the adapter, with our chat template; a model tuned in every
weight has servers of its own after the base's. Each answer is written as it comes to .work/predictions/KEY, so that a
killed run asks for the missing ones only.
"""

import time

from xinglin.bases.folder import open_base
from xinglin.cli import run_command, start
from xinglin.files import atomic_path, drop_work, fingerprint, read_json, work_folder, write_jsonl
from xinglin.params import ParamsFile
from xinglin.serving.answers import (
    MODELS,
    answer_all,
    endpoints,
    has_room,
    logprobs,
    measured,
    need_room,
    precision,
    samples,
    server_groups,
    what_counts,
)
from xinglin.serving.client import answered
from xinglin.serving.decoding import Decoding, described
from xinglin.serving.settings import Predictions
from xinglin.timings import write_timing


class Params(ParamsFile):
    decoding: Decoding
    predictions: Predictions


def main() -> None:
    paths = start(__doc__, "base", "adapter", "split", "tokenizer", "out")
    params = Params.read()
    predictions = params.predictions
    record = read_json(paths.base)
    base, groups = open_base(record, paths.tokenizer), server_groups(predictions, paths.adapter)
    dtype = precision(predictions, base, MODELS in groups)
    if not predictions.base_url:
        need_room(record, base, dtype, "predictions")
    part = paths.split / f"{predictions.part}.jsonl"
    asked = samples(part, predictions.max_samples)
    key = fingerprint(what_counts(predictions, params.decoding, dtype), record["files"], paths.adapter, part, paths.tokenizer)
    work = work_folder("predictions", key)
    before = sum(len(answered(work / f"{model}.jsonl")) for model in MODELS)
    rows, seconds = {}, 0.0
    for models in groups:
        with endpoints(predictions, base, paths.adapter, work / "vllm.log", models) as urls:
            began = time.perf_counter()
            for model in models:
                answer_all(urls, model, asked, work / f"{model}.jsonl", predictions, params.decoding)
                found = answered(work / f"{model}.jsonl")
                rows[model] = [found[sample["id"]] for sample in asked]
            seconds += time.perf_counter() - began
            if "tuned" in models:
                told = [row for row in rows["tuned"] if row["prediction"] and has_room(row, predictions)]
                parity = logprobs(urls[0], "tuned", told[: predictions.parity_samples])
    fresh = sum(map(len, rows.values())) - before
    speed = measured(work, rows, seconds, fresh)
    with atomic_path(paths.out) as folder:
        folder.mkdir()
        for model in MODELS:
            write_jsonl(folder / f"{model}.jsonl", rows[model])
        write_jsonl(folder / "logprobs.jsonl", parity)
        params.ensure_unchanged()
    write_timing("predictions", paths.out / "tuned.jsonl", **speed)
    if predictions.base_url:
        drop_work(work)  # what that server holds is not part of KEY
    rate = f"{speed['samples_per_second']} a second"
    print(f"predictions: {len(asked)} × 2 answers, {described(params.decoding)}, {rate} -> {paths.out}")


if __name__ == "__main__":
    run_command(main)
