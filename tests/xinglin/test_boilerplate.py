import random

import pytest

from tests.near import shingle_set
from xinglin.leakage.boilerplate import FLOOR, LEAST, common_grams, limit, without
from xinglin.leakage.containment import candidates, contained
from xinglin.leakage.grams import NOT_WORD, plain, plain_texts

DRAW = random.Random(6)
TEMPLATE = "请判断下面这句话属于哪一类并说明理由可选的类别有疾病症状体征药物"
TAIL = "谢谢医生麻烦您看到回复一下"


def body(length):
    return "".join(chr(DRAW.randrange(0x4E00, 0x6E00)) for _ in range(length))


def brute(texts):
    """Return the texts without characters of 8-grams that more than `limit` of them contain, by a plain loop."""
    counts: dict[str, int] = {}
    for text in texts:
        for gram in {text[i : i + 8] for i in range(len(text) - 7)}:
            counts[gram] = counts.get(gram, 0) + 1
    found = []
    for text in texts:
        hit = [counts[text[i : i + 8]] > limit(len(texts)) for i in range(len(text) - 7)]
        rest = "".join(c for i, c in enumerate(text) if not any(hit[max(0, i - 7) : i + 1]))
        found.append(rest if len(rest) >= LEAST or rest == text else "")
    return found


@pytest.mark.parametrize("common", [FLOOR, FLOOR + 1, 300])
def test_what_is_common_to_many_texts_is_left_out_as_a_loop_leaves_it_out(common):
    texts = [body(DRAW.randint(0, 30)) for _ in range(600)]
    texts = [TEMPLATE + text + TAIL * (i % 2) if i < common else text for i, text in enumerate(texts)]
    texts = list(dict.fromkeys([*texts, TEMPLATE, "", TEMPLATE + "咳"]))
    assert list(without(texts, [common_grams(texts)])) == brute(texts)


def test_a_text_without_boilerplate_is_the_same_text():
    texts = [body(40) for _ in range(300)]
    assert list(without(texts, [common_grams(texts)])) == texts


def test_many_texts_are_made_plain_as_one_is():
    texts = ["ABC，头痛 怎么办？", "", "？！", "İstanbul Σ ΑΣ", "𠮷野家 é 体温３９℃", "a_b", "中\x00文"]
    assert [plain_texts([text])[0] for text in texts] == plain_texts(texts) == [plain(text) for text in texts]
    every = "".join(chr(point) for point in range(1, 0x3000) if point not in (0x130, 0x3A3))
    assert plain_texts([every]) == [NOT_WORD.sub("", every).lower()]


def test_a_text_inside_another_is_found_as_comparing_all_with_all_finds_it():
    texts = [body(DRAW.randint(12, 90)) for _ in range(300)]
    for i in range(0, 300, 3):
        kept = texts[i + 1][: max(12, int(len(texts[i + 1]) * 0.95))]
        texts[i] = kept + body(DRAW.randint(5, 60))
    found = set(map(tuple, contained(texts, texts, candidates(texts, texts)[0], 20, 20).tolist()))
    sets = list(map(shingle_set, texts))
    expected = {
        (i, j)
        for i in range(len(texts))
        for j in range(i + 1, len(texts))
        if min(len(texts[i]), len(texts[j])) >= 20 and len(sets[i] & sets[j]) >= 0.8 * min(len(sets[i]), len(sets[j]))
    }
    assert found == expected and len(found) > 50
    assert set(map(tuple, contained(texts[:90], texts, candidates(texts[:90], texts[90:])[0] + [0, 90], 20, 20).tolist())) == {
        (i, j) for i, j in expected if i < 90 <= j
    }


def test_a_short_text_must_stand_in_the_other_whole():
    texts = ["空腹血糖六点五算糖尿病吗", "请问空腹血糖六点五算糖尿病吗我今年四十岁", "请问空腹血糖六点五算糖尿病么我今年五十岁"]
    pairs = candidates(texts, texts)[0]
    assert (0, 1) in set(map(tuple, pairs.tolist()))
    assert (0, 2) not in set(map(tuple, contained(texts, texts, pairs, 10, 20).tolist()))
