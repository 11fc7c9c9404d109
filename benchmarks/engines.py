"""Near-duplicate answers found by our own join, by datatrove's MinHash and by DuckDB: seconds, memory, and what each finds.

Usage: python -m benchmarks.engines [--texts 50000] [--folder .work/bench]        (uv fetches the engines for this run alone)

The answers are those of `benchmarks.data`, 2 % of them near duplicates. Near is a Jaccard overlap of 3-grams of 0.9 or more:
ours and DuckDB's SQL (prefix filtering, as Chaudhuri, Ganti and Kaushik 2006) find every pair, MinHash most.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson

from benchmarks.data import ROOT, generate, measure
from xinglin.cli import run_command

THRESHOLD = 0.9
PEERS = {"datatrove": ["datatrove[processing]==0.10.1", "spacy"], "duckdb": ["duckdb==2.0.1"]}
PAIRS = f"""
CREATE TABLE grams AS SELECT DISTINCT id, hash(substr(text, place, 3)) AS gram
  FROM (SELECT id, text, unnest(range(1, length(text) - 1)) AS place FROM texts);
CREATE TABLE sizes AS SELECT id, count(*) AS size FROM grams GROUP BY id;
CREATE TABLE rarity AS SELECT gram, count(*) AS texts FROM grams GROUP BY gram;
CREATE TABLE prefixes AS SELECT id, gram, size FROM (
  SELECT g.id, g.gram, s.size, row_number() OVER (PARTITION BY g.id ORDER BY r.texts, g.gram) AS place
  FROM grams g JOIN sizes s USING (id) JOIN rarity r USING (gram)) WHERE place <= size - ceil({THRESHOLD} * size) + 1;
CREATE TABLE likely AS SELECT DISTINCT a.id AS one, b.id AS other, a.size + b.size AS total
  FROM prefixes a JOIN prefixes b USING (gram)
  WHERE a.id < b.id AND least(a.size, b.size) >= {THRESHOLD} * greatest(a.size, b.size);
SELECT one, other FROM likely JOIN grams a ON a.id = one JOIN grams b ON b.id = other AND b.gram = a.gram
  GROUP BY one, other, total HAVING count(*) >= {THRESHOLD} * (total - count(*));
"""


def texts_of(file: Path) -> list[str]:
    return [orjson.loads(line)["text"] for line in file.open("rb")]


def own(file: Path) -> int:
    """Return how many texts a deduplication would remove."""
    from xinglin.leakage.similarity import groups, near_pairs

    texts = texts_of(file)
    return len(texts) - len(np.unique(groups(near_pairs(texts, THRESHOLD), len(texts))))


def duckdb(file: Path) -> int:
    import duckdb
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    texts = texts_of(file)
    stored = file.with_suffix(".duckdb")
    stored.unlink(missing_ok=True)
    with duckdb.connect(str(stored)) as database:
        database.execute(
            "CREATE TABLE texts AS SELECT * FROM read_json(?, columns = {id: 'INTEGER', text: 'VARCHAR'})", [str(file)]
        )
        pairs = np.array(database.execute(PAIRS).fetchall()).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (len(texts), len(texts)))
    return len(texts) - connected_components(graph, directed=False)[0]


def datatrove(file: Path) -> int:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader

    class Signature(MinhashDedupSignature):
        """Of 3-grams of characters, as the others compare."""

        def get_shingles(self, text: str) -> np.ndarray:
            hashes = (self._hash_func(text[place : place + 3]) for place in range(len(text) - 2))
            return np.fromiter(hashes, np.uint64).reshape(-1, 1)

    folder, config = file.parent / "minhash", MinhashConfig()
    tasks = {
        "signatures": (2, [JsonlReader(str(file.parent / "halves")), Signature(f"{folder}/signatures", config)]),
        "buckets": (config.num_buckets, [MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)]),
        "clusters": (1, [MinhashDedupCluster(f"{folder}/buckets", f"{folder}/removed", config)]),
    }
    for count, steps in tasks.values():
        LocalPipelineExecutor(steps, tasks=count, workers=min(count, 2), logging_dir=None).run()
    return sum(found.stat().st_size // 4 for found in (folder / "removed").rglob("*.remove"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=50_000)
    parser.add_argument("--folder", type=Path, default=ROOT / ".work" / "bench")
    parser.add_argument("--task", choices=("own", *PEERS), help="one alone")
    args = parser.parse_args()
    folder = args.folder.absolute() / f"engines-{args.texts}"
    file = folder / "texts.jsonl"
    if args.task:
        removed = {"own": own, "duckdb": duckdb, "datatrove": datatrove}[args.task](file)
        (folder / f"{args.task}.txt").write_text(str(removed))
        return
    (folder / "halves").mkdir(parents=True, exist_ok=True)
    generate(folder / "raw.jsonl", args.texts)
    rows = [
        orjson.dumps({"id": place, "text": orjson.loads(line)["data"][1][2:]}, option=orjson.OPT_APPEND_NEWLINE)
        for place, line in enumerate((folder / "raw.jsonl").open("rb"))
    ]
    file.write_bytes(b"".join(rows))
    for half in range(2):
        (folder / "halves" / f"{half}.jsonl").write_bytes(b"".join(rows[half::2]))
    os.environ["LOGURU_LEVEL"] = "ERROR"  # datatrove's
    print(f"{len(rows):,} answers, near from {THRESHOLD}\n\n| | s | peak MB | removed |\n|---|---|---|---|")
    for name in ("own", *PEERS):
        packages = [
            word for package in [*PEERS.get(name, []), "numpy", "orjson", "psutil", "scipy"] for word in ("--with", package)
        ]
        python = (
            [sys.executable] if name == "own" else [ROOT / ".tools" / "bin" / "uv", "run", "--no-project", *packages, "python"]
        )
        subprocess.run([*python, "-c", f"import {name}" if name in PEERS else ""], check=True)  # what is to be fetched is there
        command = [*python, "-m", "benchmarks.engines", "--task", name, "--texts", str(args.texts)]
        command += ["--folder", str(args.folder.absolute())]
        seconds, peak = measure(command, ROOT)
        print(f"| {name} | {seconds:.1f} | {peak:.0f} | {(folder / f'{name}.txt').read_text()} |", flush=True)


if __name__ == "__main__":
    run_command(main)
