"""split: train, val and test by dialogue group, so that no text is on two sides, and LLaMA-Factory's dataset_info.json.

Usage: stages/run split --converted data/converted --out data/split
"""

import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import orjson
from pydantic import Field, model_validator
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from xinglin.cli import CommandError, run_command, start
from xinglin.dialogues.rows import texts_of
from xinglin.files import atomic_path, read_json, write_json
from xinglin.leakage.links import Texts, compared, equal_links, near_links
from xinglin.leakage.similarity import gram_overlap, plain, smallest_grams
from xinglin.params import ParamsFile, Section, Seed

SIDES = ("train", "val", "test")  # from the least to the most held out
COLUMNS = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}
DEPARTMENTS = 10  # that the report names


class Ratios(Section):
    train: Annotated[float, Field(gt=0, lt=1)]
    val: Annotated[float, Field(gt=0, lt=1)]
    test: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def sum_is_one(self) -> "Ratios":
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + val + test must be 1, not {total:g}")
        return self


class Split(Section):
    ratios: Ratios
    seed: Seed
    near_duplicate_threshold: Annotated[float, Field(gt=0, le=1)]


class Params(ParamsFile):
    split: Split


def draw(questions: list[str], split: Split) -> np.ndarray:
    """Return the side (its place in SIDES) that each first question draws [questions], whatever else the data holds.

    What is drawn by is the smallest seeded hash of the question's 8-grams, which near-equal questions mostly have in common
    (MinHash), so that few are moved by their group and the shares stay the ratios.
    """
    point = smallest_grams(questions, split.seed) / 2.0**64
    return (point >= split.ratios.train).astype(np.int64) + (point >= split.ratios.train + split.ratios.val)


def groups(links: np.ndarray, count: int) -> np.ndarray:
    """Return the group number of each of `count` dialogues: those that `links` [n, 2] connect, in chains too, share it."""
    graph = coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def assign(draws: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each dialogue's side [dialogues]: the most held-out one that any of its group drew.

    So a dialogue that joins two groups later can move others out of training, never a test one into it.
    """
    drawn = np.zeros(labels.max(initial=0) + 1, np.int64)
    np.maximum.at(drawn, labels, draws)
    return drawn[labels]


def separate(texts: Texts, draws: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Return each dialogue's side and group, and what is left on two sides.

    Groups come from MinHash, which misses one pair in a thousand at the threshold; the exact join then counts, and what it
    finds on two sides becomes a link as well, until nothing is left.
    """
    links = np.concatenate([equal_links(texts), near_links(texts, threshold, exact=False)])
    near = near_links(texts, threshold, exact=True)
    while True:
        labels = groups(links, len(draws))
        sides = assign(draws, labels)
        crossing = near[sides[near[:, 0]] != sides[near[:, 1]]]
        if not len(crossing):
            return sides, labels, {"exact": shared(texts, sides), "near": len(crossing)}
        links = np.concatenate([links, crossing])


def shared(texts: Texts, sides: np.ndarray) -> int:
    """Count the texts that stand on more than one side."""
    count = 0
    for given, owners in texts.kinds():
        on = {(text, sides[owner]) for text, owner in zip(given, owners, strict=True)}
        count += len(on) - len(set(given))
    return count


def report(rows: list[dict], sides: np.ndarray, labels: np.ndarray, draws: np.ndarray, split: Split) -> dict:
    """Return sizes, the shares with their distance from the ratios, 13-grams in common with training, and each side's mix."""
    sizes, total = np.bincount(labels), len(rows)
    shares = np.bincount(sides, minlength=len(SIDES)) / total
    ratios = np.array([getattr(split.ratios, name) for name in SIDES])
    chance = 1.96 * np.sqrt(ratios * (1 - ratios) * (sizes**2).sum()) / total
    parts = {
        name: [row for row, side in zip(rows, sides.tolist(), strict=True) if side == place] for place, name in enumerate(SIDES)
    }
    whole_texts = {name: ["\n".join(map(plain, texts_of(row))) for row in part] for name, part in parts.items()}

    def by_side(values: np.ndarray) -> dict[str, float]:
        return {name: round(value, 4) for name, value in zip(SIDES, values.tolist(), strict=True)}

    return {
        "rows": {name: len(part) for name, part in parts.items()},
        "shares": by_side(shares),
        "deviation": by_side(shares - ratios),
        "chance": by_side(chance),  # 95 % of draws deviate less
        "groups": len(sizes),
        "largest_group": int(sizes.max()),
        "moved_by_their_group": int((sides != draws).sum()),
        "grams_13": {name: gram_overlap(whole_texts[name], whole_texts["train"]) for name in SIDES[1:]},
        "mix": {name: mix(part) for name, part in parts.items()},
    }


def mix(rows: list[dict]) -> dict:
    """Return the share of multi-turn dialogues and of the commonest departments among rows."""
    total = max(1, len(rows))
    departments = Counter(row["department"] for row in rows if row.get("department"))
    most = {name: round(count / total, 4) for name, count in departments.most_common(DEPARTMENTS)}
    return {"multi_turn": round(sum(bool(row["history"]) for row in rows) / total, 4), "departments": most}


def read_lines(folder: Path) -> list[bytes]:
    """Return the converted rows, each as a line of JSON."""
    if (folder / "dialogues.json").is_file():
        return [orjson.dumps(row) for row in read_json(folder / "dialogues.json")]
    if not (folder / "dialogues.jsonl").is_file():
        raise CommandError(f"{folder}: no dialogues: run 'dvc repro converted' to make them")
    return (folder / "dialogues.jsonl").read_bytes().splitlines()


def write_split(lines: list[bytes], sides: np.ndarray, folder: Path) -> None:
    """Write each side's rows, and LLaMA-Factory's description of them."""
    for place, name in enumerate(SIDES):
        with (folder / f"{name}.jsonl").open("wb") as file:
            file.writelines(line + b"\n" for line, side in zip(lines, sides.tolist(), strict=True) if side == place)
    write_json(folder / "dataset_info.json", {name: {"file_name": f"{name}.jsonl", "columns": COLUMNS} for name in SIDES})


def main() -> None:
    paths = start(__doc__, "converted", "out")
    params, began = Params.read(), time.perf_counter()
    split = params.split
    lines = read_lines(paths.converted)
    rows = [orjson.loads(line) for line in lines]
    texts = compared(map(texts_of, rows))
    draws = draw(texts.questions, split)
    sides, labels, overlap = separate(texts, draws, split.near_duplicate_threshold)
    found = report(rows, sides, labels, draws, split) | {"overlap": overlap}
    for name in SIDES:
        if not found["rows"][name]:
            raise CommandError(
                f"split.ratios.{name}: no dialogue of {len(rows)} falls into it: give more data or a larger share"
            )
    with atomic_path(paths.out) as folder:
        folder.mkdir()
        write_split(lines, sides, folder)
        write_json(folder / "report.json", found)
        params.ensure_unchanged()
    seconds = time.perf_counter() - began
    print(f"split: {found['rows']} in {found['groups']} groups, overlap {overlap}, {len(rows) / seconds:,.0f} dialogues/s")


if __name__ == "__main__":
    run_command(main)
