"""How many emergencies the net finds, and how many it sees where none is, on phrases that it was never trained on.

Usage: python -m benchmarks.red_flags [--out benchmarks/results/DATE-red-flags.json]        (five minutes)

Measured, with Wilson's 95 % intervals: one whole batch that is never trained on, also after small talk and by level; the
older phrases of tests/app/red_flags.tsv, written before the kinds were and never trained on; a quarter of the kinds at a time
by a classifier that saw none of them. Beside them the signs of the list alone, one class for all look-alikes instead of many,
the curve over the threshold, what more batches teach, and what is still wrong.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from app.red_flags import THRESHOLD, classifier, find, rules
from tools.red_flags import HELD_OUT, Phrase, batches, train
from xinglin.cli import run_command

OLDER = Path(__file__).parent.parent / "tests" / "app" / "red_flags.tsv"
PARTS = 4
CURVE = (0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75)
Scores = Sequence[float]


def interval(hits: int, count: int) -> str:
    """Return a share in percent with Wilson's 95 % interval (Wilson 1927)."""
    if not count:
        return "–"
    z, share = 1.96, hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return f"{share:.1%} [{max(0, middle - half):.1%}, {min(1, middle + half):.1%}] of {count:,}"


def is_urgent(phrase: Phrase) -> bool:
    return not phrase[0].startswith("-")


def scores(phrases: Sequence[Phrase], model: classifier.Model) -> list[float]:
    """Return how likely each is an emergency."""
    return [float(classifier.probabilities(classifier.plain(said), model)[model.urgent].sum()) for _, said in phrases]


def row(phrases: Sequence[Phrase], found: Sequence[bool]) -> dict[str, str]:
    """Return recall, of conversations too, and false alarms."""

    def share(wanted: Callable[[Phrase], bool]) -> str:
        hits = [hit for phrase, hit in zip(phrases, found, strict=True) if wanted(phrase)]
        return interval(sum(hits), len(hits))

    return {
        "found": share(is_urgent),
        "found, several messages": share(lambda phrase: is_urgent(phrase) and len(phrase[1]) > 1),
        "false": share(lambda phrase: not is_urgent(phrase)),
    }


def shown(phrases: Sequence[Phrase], threshold: float = THRESHOLD) -> list[bool]:
    return [bool(find(said, threshold)) for _, said in phrases]


def above(values: Scores, threshold: float = THRESHOLD) -> list[bool]:
    return [value >= threshold for value in values]


def each_kind(known: dict[str, list[Phrase]], held_out: list[Phrase]) -> tuple[list[Phrase], list[float]]:
    """Return the held-out batch's phrases with the scores of a classifier that never saw their kind."""
    kinds = sorted({kind for kind, _ in held_out})
    phrases, values = [], []
    for part in range(PARTS):
        unseen = set(kinds[part::PARTS])
        model = train([phrase for batch in known.values() for phrase in batch if phrase[0] not in unseen])
        asked = [phrase for phrase in held_out if phrase[0] in unseen]
        phrases += asked
        values += scores(asked, model)
    return phrases, values


def older() -> list[Phrase]:
    """Return the older phrases, each of its first kind there or a look-alike."""
    lines = [line.split("\t") for line in OLDER.read_text(encoding="utf-8").splitlines()]
    return [("-older" if expected == "-" else expected.split(",")[0], [text]) for text, expected in lines]


def by_level(phrases: Sequence[Phrase]) -> dict[str, Any]:
    """Return for each level how many phrases are found, and how many of those at that level or a more urgent one."""
    order = ("hospital", "120", "crisis")
    found: dict[str, Any] = {}
    for level in order:
        asked = [said for kind, said in phrases if is_urgent((kind, said)) and rules.by_id()[kind].level == level]
        seen = [{flag.level for flag in find(said)} for said in asked]
        enough = [bool(levels) and (level in levels or (level == "hospital" and "120" in levels)) for levels in seen]
        found[level] = {
            "found": interval(sum(map(bool, seen)), len(seen)),
            "at that level or above": interval(sum(enough), len(enough)),
        }
    return found


def by_kind(phrases: Sequence[Phrase]) -> dict[str, str]:
    """Return for each kind how many of its phrases are judged rightly, the fewest first."""
    right: dict[str, list[bool]] = {}
    for phrase, found in zip(phrases, shown(phrases), strict=True):
        right.setdefault(phrase[0], []).append(found == is_urgent(phrase))
    ranked = sorted(right.items(), key=lambda item: (sum(item[1]) / len(item[1]), item[0]))
    return {kind: interval(sum(hits), len(hits)) for kind, hits in ranked}


def wrong(phrases: Sequence[Phrase]) -> dict[str, list[str]]:
    """Return what is missed, by its kind, and what is flagged falsely, by the kind that it was taken for."""
    seen: dict[str, list[str]] = {"missed": [], "false": []}
    for kind, said in phrases:
        found = find(said)
        if is_urgent((kind, said)) != bool(found):
            seen["false" if found else "missed"].append(f"{found[0].id if found else kind}: {' | '.join(said)}")
    return seen


def in_talk(phrases: Sequence[Phrase], count: int) -> list[Phrase]:
    """Return single messages with `count` mild complaints of the batch before them."""
    draw, single = random.Random(count), [phrase for phrase in phrases if len(phrase[1]) == 1]
    mild = [said[0] for kind, said in single if kind.startswith("-mild")]
    return [(kind, [*draw.sample(mild, count), *said]) for kind, said in single]


def learning(known: dict[str, list[Phrase]], held_out: list[Phrase]) -> dict[str, dict[str, str]]:
    """Return the measures on the held-out batch of classifiers of one, two, four … batches."""
    names, found = list(known), {}
    for count in sorted({1, 2, 4, 8, len(names)}):
        if count <= len(names):
            phrases = [phrase for name in names[:count] for phrase in known[name]]
            model = train(phrases)
            name = f"{count} batch{'es' * (count > 1)}, {len(phrases):,} phrases"
            found[name] = row(held_out, above(scores(held_out, model)))
    return found


def two_classes(known: dict[str, list[Phrase]], *asked: list[Phrase]) -> list[str]:
    """Return how many emergencies a classifier of two classes finds, with as many false alarms as the shipped one."""
    model = train([("urgent" if is_urgent(phrase) else "-", phrase[1]) for batch in known.values() for phrase in batch])
    found = []
    for phrases in asked:
        false = sum(above([v for p, v in zip(phrases, scores(phrases, classifier.model()), strict=True) if not is_urgent(p)]))
        values = scores(phrases, model)
        threshold = sorted((v for p, v in zip(phrases, values, strict=True) if not is_urgent(p)), reverse=True)[false]
        hits = [v > threshold for p, v in zip(phrases, values, strict=True) if is_urgent(p)]
        found.append(interval(sum(hits), len(hits)))
    return found


def milliseconds(phrases: Sequence[Phrase]) -> float:
    start = time.perf_counter()
    for _, said in phrases:
        find(said)
    return round(1000 * (time.perf_counter() - start) / len(phrases), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--kinds", action="store_true", help="only the held-out batch, kind by kind: seconds")
    args = parser.parse_args()
    every = batches()
    held_out = every[HELD_OUT]
    if args.kinds:
        print(json.dumps(by_kind(held_out), indent=2))
        return
    known = {name: batch for name, batch in every.items() if name != HELD_OUT}
    former = older()
    kinds, kind_values = each_kind(known, held_out)
    seen = {
        "phrases": {"trained on": sum(map(len, known.values())), "held out": len(held_out), "older": len(former)},
        "threshold": THRESHOLD,
        "held-out batch": row(held_out, shown(held_out)),
        "older phrases": row(former, shown(former)),
        "held-out messages after small talk": {n: row(talk, shown(talk)) for n in (1, 2, 3) for talk in [in_talk(held_out, n)]},
        "by level, held-out batch": by_level(held_out),
        "kinds never seen, held-out batch": row(kinds, above(kind_values)),
        "signs of the list alone, held-out batch": row(held_out, [any(map(rules.shown, said)) for _, said in held_out]),
        "two classes instead of all kinds": two_classes(known, held_out, former),
        "curve, held-out batch": {t: row(held_out, shown(held_out, t)) for t in CURVE},
        "curve, older phrases": {t: row(former, shown(former, t)) for t in CURVE},
        "learning curve, held-out batch": learning(known, held_out),
        "milliseconds a conversation": milliseconds(held_out),
        "wrong, held-out batch": wrong(held_out),
        "wrong, older phrases": wrong(former),
    }
    text = json.dumps(seen, ensure_ascii=False, indent=2) + "\n"
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    run_command(main)
