"""split: train, val and test by dialogue group, so that no text is on two sides, and LLaMA-Factory's dataset_info.json.

Usage: stages/run split --converted data/converted --out data/split
"""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import orjson
from pydantic import Field, model_validator
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from xinglin.cli import CommandError, run_command, start
from xinglin.dialogues.rows import texts_of
from xinglin.files import atomic_path, read_json, write_json
from xinglin.leakage.containment import CONTAINED
from xinglin.leakage.links import (
    Texts,
    closest,
    compared,
    contained_pairs,
    equal_links,
    likely_pairs,
    near_across,
    near_links,
)
from xinglin.leakage.similarity import gram_overlap, smallest_grams
from xinglin.params import ParamsFile, Section, Seed

SIDES = ("train", "val", "test")  # from the least to the most held out
COLUMNS = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}
DEPARTMENTS = 10  # that the report names
LARGE_SHARE, LARGE_FLOOR = 0.05, 50  # of the dialogues: a larger group has no side of its own choice
SHOWN = 40  # characters of a text
CURE = "take copies out of the source, or put what is the same in every dialogue into `system`"


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


class Meta(NamedTuple):
    """What the report says of each dialogue beside its texts."""

    multi_turn: list[bool]
    departments: list[str]


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


def separate(texts: Texts, draws: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, dict]:
    """Return each dialogue's side and group, and what is left on two sides with the pairs that come closest to it.

    Groups come from MinHash, which misses one pair in a thousand at the threshold; the exact join then looks for near pairs
    across sides. What it finds, and a text that stands in another for the most part, becomes a link as well, until nothing is
    left. A group only ever moves to a more held-out side, so each join after the first looks at what has moved.
    """
    links = [equal_links(texts), near_links(texts, threshold)]
    likely = [likely_pairs(kind) for kind in texts.kinds]
    inside = [kind.first[contained_pairs(kind, pairs)] for kind, (pairs, _) in zip(texts.kinds, likely, strict=True)]
    sides, moved = np.full(len(draws), -1), np.ones(len(draws), bool)
    while True:
        labels = groups(np.concatenate(links), len(draws))
        before, sides = sides, assign(draws, labels)
        moved = sides != before
        near = [near_across(kind, sides, threshold, moved) for kind in texts.kinds]
        near = [kind.first[pairs] for kind, pairs in zip(texts.kinds, near, strict=True)]
        parts = [pairs[sides[pairs[:, 0]] != sides[pairs[:, 1]]] for pairs in inside]
        if not any(map(len, near + parts)):
            overlap = {"exact": shared(texts, sides), "near": sum(map(len, near)), "contained": sum(map(len, parts))}
            return sides, labels, {"overlap": overlap, "closest": named(closest(texts.kinds, likely, sides))}
        links += near + parts


def named(pairs: list[dict]) -> list[dict]:
    return [pair | {"sides": [SIDES[side] for side in pair["sides"]]} for pair in pairs]


def shared(texts: Texts, sides: np.ndarray) -> int:
    """Count the texts that stand on more than one side."""
    return sum(len(np.unique(kind.text * len(SIDES) + sides[kind.owner])) - len(kind.texts) for kind in texts.kinds)


def need_small_groups(texts: Texts, labels: np.ndarray) -> None:
    """Raise CommandError where one group takes so many dialogues to its side that the ratios mean little."""
    sizes = np.bincount(labels)
    if sizes.max() > max(LARGE_FLOOR, LARGE_SHARE * len(labels)):
        raise CommandError(f"{largest(texts, labels)} (more than {LARGE_SHARE:.0%} on one side); {CURE}")


def largest(texts: Texts, labels: np.ndarray) -> str:
    """Return in words how large the largest group is and the beginning of the text that most of it has in common."""
    sizes = np.bincount(labels)
    inside = labels == sizes.argmax()
    counted = Counter(
        {
            kind.texts[text]: count
            for kind in texts.kinds
            for text, count in enumerate(np.bincount(kind.text[inside[kind.owner]], minlength=len(kind.texts)).tolist())
            if count
        }
    )
    text = counted.most_common(1)[0][0] if counted else ""
    return f"a group of {sizes.max():,} of {len(labels):,} dialogues is held together by texts such as {text[:SHOWN]!r}"


def report(meta: Meta, sides: np.ndarray, labels: np.ndarray, draws: np.ndarray, texts: Texts, split: Split) -> dict:
    """Return sizes, the shares with their distance from the ratios, 13-grams in common with training, and each side's mix."""
    sizes, total = np.bincount(labels), len(sides)
    counts = np.bincount(sides, minlength=len(SIDES))
    ratios = np.array([getattr(split.ratios, name) for name in SIDES])
    chance = 1.96 * np.sqrt(ratios * (1 - ratios) * (sizes**2).sum()) / total
    whole_texts = {
        name: ["\n".join(filter(None, texts.turns[row])) for row in np.flatnonzero(sides == place).tolist()]
        for place, name in enumerate(SIDES)
    }

    def by_side(values: np.ndarray) -> dict[str, float]:
        return {name: round(value, 4) for name, value in zip(SIDES, values.tolist(), strict=True)}

    return {
        "rows": dict(zip(SIDES, counts.tolist(), strict=True)),
        "shares": by_side(counts / total),
        "deviation": by_side(counts / total - ratios),
        "chance": by_side(chance),  # 95 % of draws deviate less
        "groups": len(sizes),
        "largest_group": int(sizes.max()),
        "moved_by_their_group": int((sides != draws).sum()),
        "boilerplate": texts.left_out,
        "thresholds": {"near": split.near_duplicate_threshold, "contained": CONTAINED},
        "grams_13": {name: gram_overlap(whole_texts[name], whole_texts["train"]) for name in SIDES[1:]},
        "mix": {name: mix(meta, sides == place) for place, name in enumerate(SIDES)},
    }


def warn(found: dict, split: Split) -> None:
    """Say on the screen which side's share is further from its ratio than chance explains."""
    for name in SIDES:
        if abs(found["deviation"][name]) > found["chance"][name]:
            print(
                f"warning: split.ratios.{name}: {found['shares'][name]:.1%} of the dialogues instead of "
                f"{getattr(split.ratios, name):.1%}, chance explains ±{found['chance'][name]:.1%}: groups of dialogues go to "
                f"one side, the largest has {found['largest_group']:,}",
                file=sys.stderr,
            )


def mix(meta: Meta, inside: np.ndarray) -> dict:
    """Return the share of multi-turn dialogues and of the commonest departments among the dialogues `inside`."""
    total = max(1, int(inside.sum()))
    departments = Counter(meta.departments[row] for row in np.flatnonzero(inside).tolist() if meta.departments[row])
    most = {name: round(count / total, 4) for name, count in departments.most_common(DEPARTMENTS)}
    return {"multi_turn": round(int(np.array(meta.multi_turn)[inside].sum()) / total, 4), "departments": most}


def read_lines(folder: Path) -> Iterator[bytes]:
    """Yield the converted rows, each as a line of JSON."""
    if (folder / "dialogues.json").is_file():
        yield from map(orjson.dumps, read_json(folder / "dialogues.json"))
    elif (folder / "dialogues.jsonl").is_file():
        with (folder / "dialogues.jsonl").open("rb") as lines:
            yield from (line.rstrip(b"\n") for line in lines)
    else:
        raise CommandError(f"{folder}: no dialogues: run 'dvc repro converted' to make them")


def dialogues(folder: Path, meta: Meta) -> Iterator[list[str]]:
    """Yield the texts of each converted row, and keep in `meta` what the report says of it."""
    for line in read_lines(folder):
        row = orjson.loads(line)
        meta.multi_turn.append(bool(row["history"]))
        meta.departments.append(sys.intern(row.get("department") or ""))
        yield texts_of(row)


def write_split(lines: Iterable[bytes], sides: np.ndarray, folder: Path) -> None:
    """Write each side's rows, and LLaMA-Factory's description of them."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((folder / f"{name}.jsonl").open("wb")) for name in SIDES]
        for line, side in zip(lines, sides.tolist(), strict=True):
            files[side].write(line + b"\n")
    write_json(folder / "dataset_info.json", {name: {"file_name": f"{name}.jsonl", "columns": COLUMNS} for name in SIDES})


def main() -> None:
    paths = start(__doc__, "converted", "out")
    params, began = Params.read(), time.perf_counter()
    split, meta = params.split, Meta([], [])
    texts = compared(dialogues(paths.converted, meta))
    draws = draw(texts.drawn, split)
    sides, labels, kept_apart = separate(texts, draws, split.near_duplicate_threshold)
    need_small_groups(texts, labels)
    found = report(meta, sides, labels, draws, texts, split) | kept_apart
    for name in SIDES:
        if not found["rows"][name]:
            raise CommandError(
                f"split.ratios.{name}: no dialogue of {len(sides)} falls into it: {largest(texts, labels)}; "
                f"give more data or a larger share"
            )
    with atomic_path(paths.out) as folder:
        folder.mkdir()
        write_split(read_lines(paths.converted), sides, folder)
        write_json(folder / "report.json", found)
        params.ensure_unchanged()
    warn(found, split)
    seconds = time.perf_counter() - began
    speed = f"{len(sides) / seconds:,.0f} dialogues/s"
    print(f"split: {found['rows']} in {found['groups']} groups, overlap {found['overlap']}, {speed}")


if __name__ == "__main__":
    run_command(main)
