"""What conversion and grouping cost at the size of HuatuoGPT-sft-data-v1, beside a bare loop and `datasets.map`.

Usage: python -m benchmarks.data [--dialogues 226042] [--folder .work/bench]        (make bench runs it: minutes, 3 GB of disk)
       python -m benchmarks.data --scale 200000 2000000 --folder .work/bench   (`split` alone: 10 GB of disk for 2 million)

The dialogues are generated: as many as the data set has, single and multi-turn in its shares, answers with its lengths
(median 246 characters, 95th percentile 498: log-normal), of shuffled clauses of the embedded texts; 2 % are near duplicates.
Each task is a process of its own; memory is the proportional set size of it and its children, looked at ten times a second.
"""

import argparse
import contextlib
import itertools
import json
import lzma
import os
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import orjson
import psutil

from xinglin.cli import CommandError, run_command

ROOT = Path(__file__).parent.parent
SINGLE = 131_168 / 226_042  # share of single-turn dialogues (the data set's authors)


def clauses() -> list[str]:
    """Return clauses of the embedded sample and of the base's own text, with the punctuation that ends them."""
    with lzma.open(ROOT / "models" / "tiny" / "consultations.jsonl.xz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line)["data"] for line in lines]
    rows += [json.loads(line)["data"] for line in (ROOT / "data" / "sample" / "dialogues.jsonl").open(encoding="utf-8")]
    return list(
        dict.fromkeys(
            itertools.chain.from_iterable(
                re.findall(r"[^，。；！？]{4,}[，。；！？]", text[2:]) for row in rows for text in row
            )
        )
    )


def generate(file: Path, count: int, copies: int = 1) -> None:
    """Write `count` dialogues, `copies` times with other numbers in them."""
    draw, pool = random.Random(1), clauses()
    lengths = np.random.default_rng(1).lognormal(np.log(246), np.log(498 / 246) / 1.645, 3 * copies * count)
    length = iter(np.clip(lengths, 20, 3000).astype(int).tolist())

    def text(wanted: int) -> str:
        found = "".join(draw.choices(pool, k=wanted // 11 + 1))
        return found[:wanted]

    with file.open("wb") as output:
        for copy in range(copies):
            kept: list[list[str]] = []
            for i in range(count):
                if i % 50 == 49:
                    turns = [turn.replace("，", "", 1) for turn in draw.choice(kept)]
                else:
                    questions = 1 if draw.random() < SINGLE else draw.choice((2, 2, 2, 2, 3))
                    turns = [
                        f"{p}{text(q)}"
                        for _ in range(questions)
                        for p, q in (("问：", draw.randint(10, 90)), ("答：", next(length)))
                    ]
                    if copy:
                        turns[0] += f"第{copy}份{i}"
                    if len(kept) < 2000:
                        kept.append(turns)
                output.write(orjson.dumps({"data": turns}, option=orjson.OPT_APPEND_NEWLINE))


def template(file: Path, count: int = 5000) -> None:
    """Write `count` converted rows of one task: a long instruction with a list of classes, a short sentence, a class."""
    draw, pool = random.Random(2), clauses()
    task = "判断下面这条筛选标准属于哪一类，只回答类别名称。可选类别：疾病，症状，体征，怀孕相关，肿瘤进展，过敏耐受。"
    with file.open("wb") as output:
        for _ in range(count):
            row = {"instruction": task + "".join(draw.choices(pool, k=3)), "input": "", "output": draw.choice(("疾病", "症状"))}
            output.write(orjson.dumps(row | {"system": "", "history": []}, option=orjson.OPT_APPEND_NEWLINE))


def scale(folder: Path, sizes: list[int]) -> None:
    """Print what `split` costs at some sizes, and on rows of one task template."""
    rows = []
    for count in (*sizes, 0):
        here = folder / (f"scale-{count}" if count else "template")
        (here / "converted").mkdir(parents=True, exist_ok=True)
        (here / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
        if not count:
            template(here / "converted" / "dialogues.jsonl")
        elif not (here / "raw").is_dir():
            (here / "raw").mkdir()
            generate(here / "raw" / "dialogues.jsonl", count)
            measure([sys.executable, "-m", "stages.converted", "--raw", "raw", "--out", "converted"], here)
        seconds, peak = measure([sys.executable, "-m", "stages.split", "--converted", "converted", "--out", "split"], here)
        rows.append((f"{count:,} dialogues" if count else "5,000 rows of one task template", seconds, peak))
    print(f"\n`split`, {os.cpu_count()} processors\n\n| | s | peak MB |\n|---|---|---|")
    for name, seconds, peak in rows:
        print(f"| {name} | {seconds:.1f} | {peak:.0f} |")


def loop(source: Path, out: Path) -> None:
    """The least that a conversion can do: parse each line, put its texts elsewhere, write it."""
    with source.open("rb") as lines, out.open("wb") as file:
        for line in lines:
            texts = orjson.loads(line)["data"]
            file.write(
                orjson.dumps(
                    {"instruction": texts[-2], "output": texts[-1], "history": texts[:-2]}, option=orjson.OPT_APPEND_NEWLINE
                )
            )


def by_datasets(source: Path, out: Path) -> None:
    """The same conversion by `datasets.map` in two processes, duplicates left in."""
    from collections import Counter

    import datasets

    from xinglin.dialogues.cleaning import clean, tidy
    from xinglin.dialogues.formats import read, shape_of
    from xinglin.dialogues.rows import alpaca_row

    def convert(record: dict) -> dict:
        whole = dict(record)
        dialogue = read(whole, shape_of(whole, None))
        turns, _ = clean(dialogue.turns, 4000)
        return alpaca_row([said for _, said in turns], tidy("", Counter()), dialogue.department)

    rows = datasets.load_dataset("json", data_files=str(source), split="train", cache_dir=str(out.parent / "cache"))
    rows.map(convert, num_proc=2, remove_columns=rows.column_names).to_json(str(out), force_ascii=False)


def group(source: Path, out: Path) -> None:
    """Read the converted dialogues and group them: what `split` does before it draws."""
    from stages.split import groups
    from xinglin.dialogues.rows import texts_of
    from xinglin.leakage.links import compared, equal_links, near_links

    texts = compared(texts_of(orjson.loads(line)) for line in source.open("rb"))
    links = np.concatenate([equal_links(texts), near_links(texts, 0.9)])
    labels = groups(links, len(texts.drawn))
    print(f"{len(texts.drawn)} dialogues, {labels.max() + 1} groups", file=sys.stderr)


def measure(command: list[str], folder: Path) -> tuple[float, float]:
    """Return the seconds that a command takes and the peak memory of its processes in MB."""
    start, peak, done = time.perf_counter(), 0.0, threading.Event()
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    )

    def watch() -> None:
        nonlocal peak
        parent = psutil.Process(process.pid)
        while not done.wait(0.1):
            total = 0
            with contextlib.suppress(psutil.Error):
                for one in [parent, *parent.children(recursive=True)]:
                    total += one.memory_full_info().pss
            peak = max(peak, total / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    if status:
        raise CommandError(f"{' '.join(command)} ended with status {status}")
    return seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dialogues", type=int, default=226_042)
    parser.add_argument("--folder", type=Path, default=ROOT / ".work" / "bench")
    parser.add_argument("--task", choices=("loop", "datasets", "group"), help="one task alone, on --source")
    parser.add_argument("--source", type=Path)
    parser.add_argument("--scale", type=int, nargs="+", metavar="DIALOGUES", help="`split` alone, at these sizes")
    args = parser.parse_args()
    if args.task:
        {"loop": loop, "datasets": by_datasets, "group": group}[args.task](args.source, args.folder / f"{args.task}.jsonl")
        return
    folder = args.folder.absolute()
    if args.scale:
        scale(folder, args.scale)
        return
    for name, copies in (("raw", 1), ("raw4", 4)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        if not (source := folder / name / "dialogues.jsonl").is_file():
            print(f"generating {source}", file=sys.stderr)
            generate(source, args.dialogues, copies)
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())

    def own(stage: str, *words: str) -> list[str]:
        return [sys.executable, "-m", f"stages.{stage}", *words]

    def task(name: str, source: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "benchmarks.data",
            "--task",
            name,
            "--folder",
            str(folder),
            "--source",
            str(folder / source),
        ]

    commands = {
        "bare orjson loop": (task("loop", "raw/dialogues.jsonl"), "raw"),
        "converted": (own("converted", "--raw", "raw", "--out", "converted"), "raw"),
        "datasets.map, 2 processes": (task("datasets", "raw/dialogues.jsonl"), "raw"),
        "converted, four times the data": (own("converted", "--raw", "raw4", "--out", "converted4"), "raw4"),
        "grouping": (task("group", "converted/dialogues.jsonl"), "raw"),
        "split, proof and report included": (own("split", "--converted", "converted", "--out", "split"), "raw"),
    }
    rows, base = [], 0.0
    for name, (command, source) in commands.items():
        subprocess.run(["rm", "-rf", str(folder / "cache")], check=True)
        megabytes = (folder / source / "dialogues.jsonl").stat().st_size / 1e6
        seconds, peak = measure(command, folder)
        base = base or seconds
        rows.append((name, seconds, megabytes / seconds, peak, seconds / base))
    print(
        f"\n{args.dialogues:,} dialogues, {(folder / 'raw' / 'dialogues.jsonl').stat().st_size / 1e6:.0f} MB, "
        f"{os.cpu_count()} processors"
    )
    print("| | s | MB/s | peak MB | × the loop |\n|---|---|---|---|---|")
    for name, seconds, speed, peak, ratio in rows:
        print(f"| {name} | {seconds:.1f} | {speed:.0f} | {peak:.0f} | {ratio:.1f} |")


if __name__ == "__main__":
    run_command(main)
