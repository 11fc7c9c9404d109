"""What near texts are, by sets of Python: the reference for xinglin/leakage/similarity.py."""

from xinglin.leakage.grams import SHINGLE


def jaccard(a: str, b: str) -> float:
    """Return the overlap of two texts' sets of shingles."""
    one, other = shingle_set(a), shingle_set(b)
    return len(one & other) / len(one | other)


def shingle_set(text: str) -> set[str]:
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}
