import random

import numpy as np
import pytest

from tests.near import jaccard
from xinglin.leakage.grams import gram_overlap, grams, plain, smallest_grams
from xinglin.leakage.similarity import all_pairs, groups, near_pairs
from xinglin.leakage.stored import batch_of

DRAW = random.Random(5)
IDEOGRAPHS = [chr(point) for point in range(0x4E00, 0x4E00 + 800)]


def texts(count, lengths=(5, 120)):
    """Return random texts, a third of them slightly changed copies of earlier ones."""
    found = []
    for i in range(count):
        if i % 3 == 2:
            changed = list(DRAW.choice(found))
            for _ in range(DRAW.randint(1, 3)):
                changed[DRAW.randrange(len(changed))] = DRAW.choice(IDEOGRAPHS)
            found.append("".join(changed))
        else:
            found.append("".join(DRAW.choices(IDEOGRAPHS, k=DRAW.randint(*lengths))))
    return list(dict.fromkeys(found))


def brute(left, right, threshold):
    return {
        (i, j)
        for i, a in enumerate(left)
        for j, b in enumerate(right)
        if (left is not right or i < j) and jaccard(a, b) >= threshold
    }


def as_set(pairs):
    return set(map(tuple, pairs.tolist()))


def test_texts_are_compared_without_punctuation_space_and_case():
    assert plain("ABC，头痛 怎么办？") == "abc头痛怎么办"
    assert plain("？！") == "？！"


def test_grams_never_cross_from_one_text_to_the_next():
    hashes, counts = grams(batch_of(["abcd", "ab", "", "abcde", "bcd"]), 3)
    assert counts.tolist() == [2, 0, 0, 3, 1]
    abc, bcd, abc_again, bcd_again, cde, bcd_last = hashes.tolist()
    assert abc == abc_again and bcd == bcd_again == bcd_last and len({abc, bcd, cde}) == 3


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9, 1.0])
def test_the_exact_join_finds_what_comparing_all_with_all_finds(threshold):
    some, others = texts(250), texts(150)
    others += some[:20]
    assert as_set(all_pairs(some, others, threshold)) == brute(some, others, threshold)
    assert as_set(all_pairs(some, some, threshold)) == brute(some, some, threshold)


def test_texts_shorter_than_a_shingle_are_equal_or_not_near():
    assert as_set(all_pairs(["咳", "头痛"], ["头痛", "咳", "痛"], 0.5)) == {(0, 1), (1, 0)}
    assert len(all_pairs([], ["a"], 0.9)) == len(all_pairs(["a"], [], 0.9)) == len(near_pairs(["a"], 0.9)) == 0


@pytest.mark.parametrize("threshold", [0.7, 0.8, 0.9, 0.97, 1.0])
def test_near_texts_are_connected_as_comparing_all_with_all_connects_them(threshold):
    some = [text for lengths in ((1, 30), (5, 120), (200, 300)) for text in texts(150, lengths)]
    exact, found = brute(some, some, threshold), as_set(near_pairs(some, threshold))
    labels = [groups(np.array(sorted(pairs)).reshape(-1, 2), len(some)).tolist() for pairs in (exact, found)]
    assert found <= exact and labels[0] == labels[1] and (len(exact) > 30 or threshold > 0.9)


def test_a_thousand_copies_take_no_million_pairs():
    some = [f"{''.join(IDEOGRAPHS[:200])}{a}{b}" for a in IDEOGRAPHS[:40] for b in IDEOGRAPHS[:40]]
    assert len(near_pairs(some, 0.9)) < 30 * len(some) and len(set(groups(near_pairs(some, 0.9), len(some)))) == 1


def test_thirteen_grams_are_counted_by_text_and_by_gram():
    shared = "".join(IDEOGRAPHS[:20])
    known = [f"甲乙丙{shared}", "无关的一句话"]
    found = gram_overlap([shared, "".join(IDEOGRAPHS[100:133]), "短"], known)
    assert found == {"texts": round(1 / 3, 4), "grams": round(8 / (8 + 21), 4)}
    assert gram_overlap([], known) == gram_overlap(["短"], known) == {"texts": 0.0, "grams": 0.0}


def test_the_smallest_gram_is_one_number_everywhere_and_uniform():
    assert smallest_grams(["高血压患者能吃党参吗", "咳"], 42).tolist() == [15735208639186488194, 15441426477134894562]
    points = smallest_grams(texts(4000, (20, 40)), -3) / 2.0**64
    assert abs(points.mean() - 0.5) < 0.03 and abs(np.quantile(points, 0.8) - 0.8) < 0.03
