"""Train the classifier of emergencies on the phrases of data/red_flags.

Usage: python -m tools.red_flags        (make red-flags: a minute; writes app/red_flags/classifier.npz)

HELD_OUT is never trained on: benchmarks/red_flags.py measures on it.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from app.red_flags.classifier import FILE, Model, grams_of, plain
from app.red_flags.rules import by_id
from xinglin.cli import CommandError, run_command
from xinglin.files import atomic_path

PHRASES = Path(__file__).parent.parent / "data" / "red_flags"
HELD_OUT = "held_out"
FEATURES = 20_000  # n-grams, the commonest
STRENGTH = 10.0  # inverse of the regularisation, by leaving one batch out
STEPS = 100
SEED, BEHIND = 1, 0.25
Phrase = tuple[str, list[str]]  # its kind, "-…" for a look-alike, and the messages


def read(file: Path) -> list[Phrase]:
    """Return the phrases of a batch; raise CommandError for a line that is none."""
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        kind, *messages = line.split("\t")
        if not messages or not all(message.strip() for message in messages):
            raise CommandError(f"{file}:{number}: expected a kind, a tab, and messages with tabs between them")
        if not kind.startswith("-") and kind not in by_id():
            raise CommandError(f"{file}:{number}: {kind}: no kind of app/red_flags/kinds.yaml")
        found.append((kind, messages))
    return found


def batches() -> dict[str, list[Phrase]]:
    """Return the phrases of each batch by its name."""
    found = {file.stem: read(file) for file in sorted(PHRASES.glob("*.tsv"))}
    if not found:
        raise CommandError(f"{PHRASES}: no phrases")
    return found


def in_talk(phrases: Sequence[Phrase]) -> list[Phrase]:
    """Return every other phrase once more, with up to three messages of look-alikes before it and sometimes one behind.

    People say more than what matters, and that may neither hide an emergency nor make one.
    """
    draw, talk = random.Random(SEED), [said for kind, said in phrases if kind.startswith("-") and len(said) == 1]
    found = []
    for kind, said in phrases[::2]:
        before = [message for other in draw.sample(talk, draw.randint(1, 3)) for message in other]
        behind = draw.choice(talk) if draw.random() < BEHIND else []
        found.append((kind, [*before, *said, *behind]))
    return found


def train(phrases: Sequence[Phrase], features: int = FEATURES, talk: bool = True) -> Model:
    """Return the classifier that these phrases teach, with small talk around them too."""
    phrases = [*phrases, *(in_talk(phrases) if talk else ())]
    vectors = TfidfVectorizer(analyzer=grams_of, min_df=2, sublinear_tf=True, max_features=features)
    seen = vectors.fit_transform([plain(messages) for _, messages in phrases])
    fitted = LogisticRegression(C=STRENGTH, max_iter=STEPS, tol=1e-3).fit(seen, [kind for kind, _ in phrases])
    kinds = fitted.classes_.tolist()
    urgent = np.array([not kind.startswith("-") for kind in kinds])
    places = {gram: int(place) for gram, place in vectors.vocabulary_.items()}
    weights, bias = fitted.coef_.T.astype(np.float32), fitted.intercept_.astype(np.float32)
    if len(kinds) == 2:  # scikit-learn keeps the second one's alone
        weights, bias = np.hstack([0 * weights, weights]), np.append(0 * bias, bias)
    return Model(places, vectors.idf_.astype(np.float32), weights, bias, kinds, urgent)


def write(model: Model, file: Path) -> None:
    """Keep a classifier, its weights as 8-bit numbers with a scale for each kind."""
    scale = np.abs(model.weights).max(0) / 127
    with atomic_path(file) as partial, partial.open("wb") as out:
        np.savez_compressed(
            out,
            grams=np.array("\t".join(sorted(model.places, key=model.places.__getitem__))),
            idf=model.idf.astype(np.float16),
            weights=np.round(model.weights / scale).astype(np.int8),
            scale=scale,
            bias=model.bias,
            kinds=np.array(model.kinds),
        )


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    phrases = [phrase for name, batch in batches().items() if name != HELD_OUT for phrase in batch]
    write(train(phrases), FILE)
    print(f"red_flags: {len(phrases):,} phrases of {len({kind for kind, _ in phrases})} kinds -> {FILE.name}")


if __name__ == "__main__":
    run_command(main)
