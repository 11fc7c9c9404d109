"""split: train, val and test by dialogue group, so that no question is on two sides, and LLaMA-Factory's dataset_info.json.

Usage: stages/run split --converted data/converted --out data/split
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from datasketch import MinHash, MinHashLSH
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stages.common import arguments, fail, read_json, read_jsonl, whole, write_json, write_jsonl
from stages.params import Split, read_params

SIDES = ("train", "val", "test")  # from the least to the most held out
COLUMNS = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}
SHINGLE = 3  # characters
PERMUTATIONS = 64
NOT_WORDS = re.compile(r"[\W_]+")


def first_question(row: dict) -> str:
    """Return a dialogue's first question as it is compared: letters, digits and ideographs, in lower case."""
    text = row["history"][0][0] if row["history"] else row["instruction"]
    return NOT_WORDS.sub("", text).lower() or text


def shingles(text: str) -> set[str]:
    """Return the character 3-grams of `text` (the text itself if it is shorter)."""
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


def near_pairs(questions: list[str], threshold: float) -> list[tuple[int, int]]:
    """Return the index pairs of distinct questions whose 3-grams overlap by `threshold` (Jaccard) or more.

    MinHash proposes candidates (Broder 1997), the exact overlap decides.
    """
    grams = [shingles(question) for question in questions]
    hashes = MinHash.bulk(([gram.encode() for gram in g] for g in grams), num_perm=PERMUTATIONS)
    index, pairs = MinHashLSH(threshold=min(threshold, 0.95) * 0.9, num_perm=PERMUTATIONS), []
    for i, minhash in enumerate(hashes):
        pairs += [(j, i) for j in index.query(minhash) if jaccard(grams[i], grams[j]) >= threshold]
        index.insert(i, minhash)
    return pairs


def groups(questions: list[str], threshold: float) -> list[int]:
    """Return a group number for each question: equal and near-equal ones, and chains of them, share it."""
    distinct = {question: i for i, question in enumerate(dict.fromkeys(questions))}
    pairs = near_pairs(list(distinct), threshold)
    size = len(distinct)
    links = coo_array(([True] * len(pairs), ([a for a, _ in pairs], [b for _, b in pairs])), shape=(size, size))
    _, labels = connected_components(links, directed=False)
    return [int(labels[distinct[question]]) for question in questions]


def side(question: str, split: Split) -> str:
    """Return the side that a question's seeded hash falls on: the same everywhere, whatever else the data holds."""
    draw = int.from_bytes(sha256(f"{split.seed}\x1f{question}".encode()).digest()[:8]) / 2**64
    if draw < split.ratios.train:
        return "train"
    return "val" if draw < split.ratios.train + split.ratios.val else "test"


def assign(questions: list[str], labels: list[int], split: Split) -> list[str]:
    """Return each row's side: the most held-out one that any question of its group hashes to.

    So a row that joins two groups later can move rows out of training, never a test row into it.
    """
    drawn: dict[int, str] = {}
    for question, label in zip(questions, labels, strict=True):
        drawn[label] = max(drawn.get(label, "train"), side(question, split), key=SIDES.index)
    return [drawn[label] for label in labels]


def report(questions: list[str], sides: list[str], labels: list[int], split: Split) -> dict:
    """Return sizes, shares and the overlap between sides, counted again from the finished split."""
    total, sizes = len(sides), Counter(sides)
    return {
        "rows": {name: sizes[name] for name in SIDES},
        "shares": {name: round(sizes[name] / total, 4) for name in SIDES},
        "groups": len(set(labels)),
        "overlap": {"exact": exact_overlap(questions, sides), "near": near_overlap(questions, sides, split)},
    }


def exact_overlap(questions: list[str], sides: list[str]) -> int:
    """Count first questions that stand on more than one side."""
    where: defaultdict[str, set[str]] = defaultdict(set)
    for question, name in zip(questions, sides, strict=True):
        where[question].add(name)
    return sum(len(names) > 1 for names in where.values())


def near_overlap(questions: list[str], sides: list[str], split: Split) -> int:
    """Count pairs of near-equal first questions that stand on different sides."""
    where = dict(zip(questions, sides, strict=True))
    distinct = list(where)
    pairs = near_pairs(distinct[::-1], split.near_duplicate_threshold)
    return sum(where[distinct[::-1][a]] != where[distinct[::-1][b]] for a, b in pairs)


def read_rows(folder: Path) -> list[dict]:
    array = folder / "dialogues.json"
    return read_json(array) if array.is_file() else read_jsonl(folder / "dialogues.jsonl")


def write_split(rows: Iterable[dict], sides: list[str], folder: Path) -> None:
    parts: dict[str, list[dict]] = {name: [] for name in SIDES}
    for row, name in zip(rows, sides, strict=True):
        parts[name].append(row)
    for name, part in parts.items():
        write_jsonl(folder / f"{name}.jsonl", part)
    info = {name: {"file_name": f"{name}.jsonl", "columns": COLUMNS} for name in SIDES}
    write_json(folder / "dataset_info.json", info)


def main() -> None:
    paths = arguments(__doc__, "converted", "out")
    split = read_params().split
    rows = read_rows(paths.converted)
    questions = [first_question(row) for row in rows]
    labels = groups(questions, split.near_duplicate_threshold)
    sides = assign(questions, labels, split)
    found = report(questions, sides, labels, split)
    for name in SIDES:
        if not found["rows"][name]:
            fail(f"split.ratios.{name}: no dialogue of {len(rows)} falls into it: give more data or a larger share")
    with whole(paths.out) as folder:
        folder.mkdir()
        write_split(rows, sides, folder)
        write_json(folder / "report.json", found)
    print(f"split: {found['rows']} in {found['groups']} groups, overlap {found['overlap']}")


if __name__ == "__main__":
    main()
