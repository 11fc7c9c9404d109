"""split: train, val and test by dialogue group, so that no text is on two sides, and LLaMA-Factory's dataset_info.json.

Usage: stages/run split --converted data/converted --out data/split
"""

import contextlib
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import orjson
from pydantic import Field, model_validator

from xinglin.cli import CommandError, run_command, start
from xinglin.dialogues.rows import texts_of
from xinglin.files import atomic_path, read_json, write_json
from xinglin.leakage.boilerplate import is_common
from xinglin.leakage.containment import CONTAINED
from xinglin.leakage.grams import gram_overlap, smallest_grams
from xinglin.leakage.links import Kind, Texts, closest, compared, contained_pairs, equal_links, likely_pairs, near_links
from xinglin.leakage.similarity import all_pairs, groups
from xinglin.params import ParamsFile, Section, Seed

SIDES = ("train", "val", "test")  # from the least to the most held out
FREE = -1  # the own side of a dialogue that has none
COLUMNS = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}
DEPARTMENTS = 10  # that the report names
LARGE_SHARE, LARGE_FLOOR = 0.05, 50  # of the dialogues: a larger group has no side of its own choice
COUNTED = 20_000  # dialogues whose 13-grams are looked for
SHOWN = 40  # characters of a text
SHOWN_PAIRS = 3
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
    parts: list[str]  # the side that the dialogue's file is, "" for none
    places: list[str]  # where it stands in data/raw


def draw(questions: Sequence[str], split: Split, common: np.ndarray, ratios: np.ndarray | None = None) -> np.ndarray:
    """Return the side (its place in SIDES) that each first question draws [questions], whatever else the data holds.

    `ratios` [sides] stand instead of those of the parameters.

    What is drawn by is the smallest seeded hash of the question's 8-grams, which near-equal questions mostly have in common
    (MinHash), so that few are moved by their group and the shares stay the ratios. Those that are `common` to many questions
    are left out as long as there are others.
    """
    point = smallest_grams(questions, split.seed, is_common(common)) / 2.0**64
    ratios = ratios_of(split) if ratios is None else ratios
    return (point >= ratios[0]).astype(np.int64) + (point >= ratios[0] + ratios[1])


def ratios_of(split: Split) -> np.ndarray:
    return np.array([getattr(split.ratios, name) for name in SIDES])


class Drawn(NamedTuple):
    """What becomes of each dialogue before its group has a say."""

    sides: np.ndarray  # [dialogues] the side that it draws
    own: np.ndarray  # [dialogues] the side that it keeps whatever is drawn, FREE without one
    ratios: np.ndarray  # [sides] by which the free ones draw

    @property
    def free(self) -> np.ndarray:
        return self.own == FREE


def draw_all(texts: Texts, parts: list[str], split: Split) -> Drawn:
    """Draw for each dialogue; one whose file is a part stands there, and draws the rest of its group after it.

    Where every file is a part and val or test is missing, it is drawn from train, in the ratio of the two.
    """
    own = np.array([SIDES.index(part) if part else FREE for part in parts], np.int64)
    ratios = ratios_of(split)
    if (own == FREE).any():
        return Drawn(np.where(own == FREE, draw(texts.drawn, split, texts.common), own), own, ratios)
    there = np.isin(np.arange(len(SIDES)), own)
    if not there[0]:
        given = " and ".join(name for name, is_there in zip(SIDES, there, strict=True) if is_there)
        raise CommandError(
            f"split: every file is a part, {given}, and none is train: name one train, or give a file without part"
        )
    if there.all():
        return Drawn(own, own, ratios)
    ratios = np.where(there & (np.arange(len(SIDES)) > 0), 0, ratios)
    ratios /= ratios.sum()
    for name, ratio in itertools.compress(zip(SIDES, ratios.tolist(), strict=True), ~there):
        print(f"split: no file is {name}: it is drawn from train, {ratio:.0%} of it", file=sys.stderr)
    own = np.where(own == 0, FREE, own)
    return Drawn(np.where(own == FREE, draw(texts.drawn, split, texts.common, ratios), 0), own, ratios)


def assign(draws: np.ndarray, labels: np.ndarray, own: np.ndarray | None = None) -> np.ndarray:
    """Return each dialogue's side [dialogues]: the most held-out one that any of its group drew, or its `own`.

    So a dialogue that joins two groups later can move others out of training, never a test one into it.
    """
    drawn = np.zeros(labels.max(initial=0) + 1, np.int64)
    np.maximum.at(drawn, labels, draws)
    return drawn[labels] if own is None else np.where(own == FREE, drawn[labels], own)


def separate(
    texts: Texts, draws: np.ndarray, threshold: float, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, dict]:
    """Return each dialogue's side and group, and what is left on two sides with the pairs that come closest to it.

    Groups come from all texts that are equal or near, exactly. A text that stands in another of another side for the most part
    becomes a link as well, until nothing is left: a group only ever moves to a more held-out side.

    Dialogues with a side of their `own` stay on it: what they share with another side is left there, and counted.
    """
    near = near_links(texts, threshold)
    links = [equal_links(texts), near]
    likely = [likely_pairs(kind) for kind in texts.inside]
    inside = [kind.first[contained_pairs(kind, pairs)] for kind, (pairs, _) in zip(texts.inside, likely, strict=True)]
    sides = np.full(len(draws), FREE)
    while True:
        labels = groups(np.concatenate(links), len(draws))
        before, sides = sides, assign(draws, labels, own)
        parts = [across(pairs, sides) for pairs in inside]
        if own is not None and np.array_equal(sides, before):
            return sides, labels, leaks(texts, sides, threshold)
        if own is None and not any(map(len, parts)):
            overlap = {"exact": shared(texts, sides), "near": len(across(near, sides)), "contained": sum(map(len, parts))}
            return sides, labels, {"overlap": overlap, "closest": named(closest(texts.inside, likely, sides))}
        links += parts


def across(pairs: np.ndarray, sides: np.ndarray) -> np.ndarray:
    return pairs[sides[pairs[:, 0]] != sides[pairs[:, 1]]]


def leaks(texts: Texts, sides: np.ndarray, threshold: float) -> dict:
    """Return what texts on different sides have in common, by the measures of `separate`, and the closest pairs.

    Each text is looked at once on every side that it stands on, so that one on two sides is compared with both.
    """
    near = [unequal(kind, near_across(kind, sides, threshold)) for kind in (once_a_side(kind, sides) for kind in texts.kinds)]
    kinds = [once_a_side(kind, sides) for kind in texts.inside]
    likely = [likely_pairs(kind) for kind in kinds]
    inside = [unequal(kind, contained_pairs(kind, pairs)) for kind, (pairs, _) in zip(kinds, likely, strict=True)]
    contained = sum(len(across(kind.first[pairs], sides)) for kind, pairs in zip(kinds, inside, strict=True))
    overlap = {"exact": shared(texts, sides), "near": sum(map(len, near)), "contained": contained}
    return {"overlap": overlap, "closest": named(closest(kinds, likely, sides))}


def once_a_side(kind: Kind, sides: np.ndarray) -> Kind:
    """Return a kind in which a text is one for each side that it stands on."""
    places, text = np.unique(kind.text * len(SIDES) + sides[kind.owner], return_inverse=True)
    return kind._replace(texts=kind.texts.take(places // len(SIDES)), text=text)


def near_across(kind: Kind, sides: np.ndarray, threshold: float) -> np.ndarray:
    """Return all index pairs [n, 2] of near texts on different sides, exactly."""
    on = [np.flatnonzero(sides[kind.first] == side) for side in range(len(SIDES))]
    found = [np.empty((0, 2), np.int64)]
    for left, right in itertools.combinations(on, 2):
        pairs = all_pairs(kind.texts.take(left), kind.texts.take(right), threshold)
        found.append(np.stack([left[pairs[:, 0]], right[pairs[:, 1]]], 1))
    return np.concatenate(found)


def unequal(kind: Kind, pairs: np.ndarray) -> np.ndarray:
    return pairs[[kind.texts[i] != kind.texts[j] for i, j in pairs.tolist()]] if len(pairs) else pairs


def warn_of_leaks(found: dict, meta: Meta) -> None:
    """Say on the screen what own parts have in common, which is reported and not repaired."""
    if not any(found["overlap"].values()):
        return
    counts = ", ".join(f"{count} {measure}" for measure, count in found["overlap"].items())
    pairs = dict.fromkeys(
        " and ".join(f"{meta.places[line - 1]} ({side})" for line, side in zip(pair["lines"], pair["sides"], strict=True))
        for pair in found["closest"]
    )
    print(
        f"warning: split: own parts have texts in common: {counts}; the closest: {'; '.join(list(pairs)[:SHOWN_PAIRS])}: "
        "scores of what training has seen say little. Take these out of the training file, or give the files without parts",
        file=sys.stderr,
    )


def named(pairs: list[dict]) -> list[dict]:
    return [pair | {"sides": [SIDES[side] for side in pair["sides"]]} for pair in pairs]


def shared(texts: Texts, sides: np.ndarray) -> int:
    """Count the texts that stand on more than one side."""
    kinds = (*texts.kinds, *texts.formulas)
    return sum(len(np.unique(kind.text * len(SIDES) + sides[kind.owner])) - len(kind.texts) for kind in kinds)


def need_small_groups(texts: Texts, labels: np.ndarray, free: np.ndarray) -> None:
    """Raise CommandError where one group takes so many `free` dialogues to its side that the ratios mean little."""
    sizes = np.bincount(labels[free], minlength=1)
    if sizes.max() > max(LARGE_FLOOR, LARGE_SHARE * free.sum()):
        raise CommandError(f"{largest(texts, labels)} (more than {LARGE_SHARE:.0%} on one side); {CURE}")


def largest(texts: Texts, labels: np.ndarray) -> str:
    """Return in words how large the largest group is and the beginning of the text that most of it has in common."""
    sizes = np.bincount(labels)
    inside = labels == sizes.argmax()
    counted = [np.bincount(kind.text[inside[kind.owner]], minlength=1) for kind in texts.kinds]
    kind, counts = max(zip(texts.kinds, counted, strict=True), key=lambda pair: pair[1].max())
    text = kind.texts[int(counts.argmax())] if counts.max() else ""
    return f"a group of {sizes.max():,} of {len(labels):,} dialogues is held together by texts such as {text[:SHOWN]!r}"


def report(meta: Meta, sides: np.ndarray, labels: np.ndarray, drawn: Drawn, texts: Texts, split: Split) -> dict:
    """Return sizes, the shares with their distance from the ratios, 13-grams in common with training, and each side's mix.

    Ratios are of the dialogues that drew a side; what others have of their own is expected as it is.
    """
    sizes, total, ratios = np.bincount(labels), len(sides), drawn.ratios
    counts = np.bincount(sides, minlength=len(SIDES))
    expected = np.bincount(drawn.own[~drawn.free], minlength=len(SIDES)) + ratios * drawn.free.sum()
    chance = 1.96 * np.sqrt(ratios * (1 - ratios) * (np.bincount(labels[drawn.free], minlength=1) ** 2).sum()) / total

    def by_side(values: np.ndarray) -> dict[str, float]:
        return {name: round(value, 4) for name, value in zip(SIDES, values.tolist(), strict=True)}

    return {
        "rows": dict(zip(SIDES, counts.tolist(), strict=True)),
        "shares": by_side(counts / total),
        "deviation": by_side((counts - expected) / total),
        "chance": by_side(chance),  # 95 % of draws deviate less
        "groups": len(sizes),
        "largest_group": int(sizes.max()),
        "moved_by_their_group": int((sides != drawn.sides)[drawn.free].sum()),
        "own_parts": {name: meta.parts.count(name) for name in SIDES},
        "boilerplate": texts.left_out,
        "thresholds": {"near": split.near_duplicate_threshold, "contained": CONTAINED},
        "grams_13": {name: grams_in_common(texts, sides, place) for place, name in enumerate(SIDES) if place},
        "mix": {name: mix(meta, sides == place) for place, name in enumerate(SIDES)},
    }


def grams_in_common(texts: Texts, sides: np.ndarray, place: int) -> dict[str, float]:
    """Return the share of a side's dialogues that have a 13-gram of training, and of their 13-grams.

    Of a side with more than COUNTED dialogues, evenly chosen ones are looked at.
    """
    inside = np.flatnonzero(sides == place)
    chosen = np.zeros(len(sides), bool)
    chosen[inside[:: len(inside) // COUNTED + 1]] = True
    held, trained = (flags[texts.owner] & (texts.contents.lengths > 0) for flags in (chosen, sides == 0))
    owner = np.unique(texts.owner[held], return_inverse=True)[1]
    return gram_overlap(texts.contents.take(held), texts.contents.take(trained), owner)


def warn(found: dict) -> None:
    """Say on the screen which side's share is further from its ratio than chance explains."""
    for name in SIDES:
        if abs(found["deviation"][name]) > found["chance"][name]:
            print(
                f"warning: split.ratios.{name}: {found['shares'][name]:.1%} of the dialogues instead of "
                f"{found['shares'][name] - found['deviation'][name]:.1%}, chance explains ±{found['chance'][name]:.1%}: "
                f"groups of dialogues go to one side, the largest has {found['largest_group']:,}",
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
        meta.parts.append(sys.intern(row.get("part") or ""))
        meta.places.append(f"{row.get('source', '')}:{row.get('line', '')}")
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
    split, meta = params.split, Meta([], [], [], [])
    texts = compared(dialogues(paths.converted, meta))
    drawn = draw_all(texts, meta.parts, split)
    own = None if drawn.free.all() else drawn.own
    sides, labels, kept_apart = separate(texts, drawn.sides, split.near_duplicate_threshold, own)
    need_small_groups(texts, labels, drawn.free)
    found = report(meta, sides, labels, drawn, texts, split) | kept_apart
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
    warn(found)
    warn_of_leaks(found, meta)
    seconds = time.perf_counter() - began
    speed = f"{len(sides) / seconds:,.0f} dialogues/s"
    print(f"split: {found['rows']} in {found['groups']} groups, overlap {found['overlap']}, {speed}")


if __name__ == "__main__":
    run_command(main)
