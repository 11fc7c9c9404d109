import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from xinglin.scoring import scores

PAIRS = [
    ("多喝温水，注意休息，三天不退热要到医院。", "建议多喝水，注意休息，如果发热不退请到医院就诊。"),
    ("相同的句子", "相同的句子"),
    ("没有一个字相同", "XYZ"),
    ("很短", "很"),
    ("参考答案", ""),
    ("", "参考答案"),
    ("参考", "   \n"),
    ("血压 140/90 mmHg，服用氨氯地平 5mg。😀", "血压140/90mmHg，氨氯地平5mg每日一次😀"),
    ("多喝水" * 30, "多喝水" * 7),
]


@pytest.mark.filterwarnings("ignore")
def test_scores_equal_llamafactorys_own_class_to_four_decimals():
    from llamafactory.train.sft.metric import ComputeSimilarity

    class Tokenizer:  # maps the class's token ids back to the texts under test
        pad_token_id = 0

        def batch_decode(self, ids, skip_special_tokens):
            return [texts[int(row[0])] for row in ids]

    drawn, draw = list(PAIRS), random.Random(1)
    text = "".join(a + b for a, b in PAIRS)
    drawn += [
        ("".join(draw.choices(text, k=draw.randint(1, 80))), "".join(draw.choices(text, k=draw.randint(1, 80))))
        for _ in range(40)
    ]
    for reference, prediction in drawn:
        texts = ["", reference, prediction]
        similarity = ComputeSimilarity(tokenizer=Tokenizer())
        theirs = similarity(SimpleNamespace(predictions=np.array([[2]]), label_ids=np.array([[1]])))
        ours = scores.similarity(reference, prediction)
        assert ours == {name: pytest.approx(theirs[name], abs=5e-5) for name in scores.NAMES[:4]}, (reference, prediction)


def test_flags_name_cut_empty_and_repetitive_answers():
    def row(text, finish="stop"):
        return {"prediction": text, "finish_reason": finish}

    assert scores.flags(row("好的", "length"))["truncated"]
    assert scores.flags(row(" \n"))["empty"]
    assert scores.flags(row("防止辛辣刺激食物，" * 3))["repetitive"]
    assert not any(scores.flags(row("建议到呼吸内科就诊，拍胸片，查血常规，按医生的建议用药。")).values())


def chrf_by_hand(reference: str, prediction: str, longest: int = 6, beta: float = 2) -> float:
    """Popović (2015), white space left out: precision and recall averaged over the lengths that both sides have."""
    sides = ["".join(text.split()) for text in (prediction, reference)]
    precisions, recalls = [], []
    for n in range(1, longest + 1):
        theirs, ours = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in sides)
        if theirs and ours:
            common = (theirs & ours).total()
            precisions.append(common / theirs.total())
            recalls.append(common / ours.total())
    if not precisions:
        return 0.0
    precision, recall = np.mean(precisions), np.mean(recalls)
    return 100 * (1 + beta**2) * precision * recall / (beta**2 * precision + recall) if precision + recall else 0.0


def test_chrf_is_the_published_formula():
    for reference, prediction in PAIRS:
        assert scores.chrf(reference, prediction) == pytest.approx(chrf_by_hand(reference, prediction), abs=1e-3), (
            reference,
            prediction,
        )
    assert scores.chrf("相同的句子", "相同的句子") == 100


def test_distinct_counts_different_words_and_pairs_over_all_answers():
    rows = [{"prediction": text, "reference": "四个汉字" * 2} for text in ("感冒 感冒", "感冒 发烧")]
    found = scores.diversity(rows)  # words: 感冒, space, 感冒 | 感冒, space, 发烧
    assert found["distinct-1"] == 50 and found["distinct-2"] == 75
    assert found["length-ratio"] == round(100 * 10 / 16, 2)
    assert scores.diversity([{"prediction": "", "reference": ""}]) == {"distinct-1": 0, "distinct-2": 0, "length-ratio": 0}


def test_meaning_is_the_cosine_of_embeddings_whatever_else_is_in_the_batch(tmp_path):
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizer

    torch.manual_seed(1)
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set("".join(a + b for a, b in PAIRS)))]
    BertTokenizer(vocab={word: number for number, word in enumerate(known)}).save_pretrained(tmp_path)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 256,
    }
    model = BertModel(BertConfig(vocab_size=len(known), **sizes)).eval()
    model.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)

    def embedding(text: str) -> torch.Tensor:
        with torch.no_grad():
            return model(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1)[0]

    rows = [{"prediction": p, "reference": r} for r, p in PAIRS if p.strip() and r.strip()]
    expected = [
        100 * torch.cosine_similarity(embedding(row["prediction"]), embedding(row["reference"]), 0).item() for row in rows
    ]
    found = scores.meaning([*rows, {"prediction": " ", "reference": "参考"}], str(tmp_path))
    assert found[:-1] == pytest.approx(expected, abs=0.01) and found[-1] == 0
