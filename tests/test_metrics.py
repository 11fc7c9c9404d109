import json
import random
from types import SimpleNamespace

import numpy as np
import pytest

from stages import metrics
from tests.conftest import params_with

METRICS = params_with().metrics
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
    drawn += [("".join(draw.choices(text, k=draw.randint(1, 80))), "".join(draw.choices(text, k=draw.randint(1, 80)))) for _ in range(40)]
    for reference, prediction in drawn:
        texts = ["", reference, prediction]
        similarity = ComputeSimilarity(tokenizer=Tokenizer())
        theirs = similarity(SimpleNamespace(predictions=np.array([[2]]), label_ids=np.array([[1]])))
        ours = metrics.scores(reference, prediction)
        assert ours == {name: pytest.approx(theirs[name], abs=5e-5) for name in metrics.NAMES}, (reference, prediction)


def test_flags_name_cut_empty_and_repetitive_answers():
    def row(text, finish="stop"):
        return {"prediction": text, "finish_reason": finish}

    assert metrics.flags(row("好的", "length"))["truncated"]
    assert metrics.flags(row(" \n"))["empty"]
    assert metrics.flags(row("防止辛辣刺激食物，" * 3))["repetitive"]
    assert not any(metrics.flags(row("建议到呼吸内科就诊，拍胸片，查血常规，按医生的建议用药。")).values())


def test_the_interval_of_the_gain_is_of_pairs():
    draws = np.random.default_rng(0)
    base = np.hstack([draws.normal(50, 20, (300, 4)), np.zeros((300, 3))])
    tuned = base + 1 + draws.normal(0, 0.5, base.shape)
    found = metrics.summarise(base, tuned, METRICS)
    gain = found["intervals"]["gain"]["bleu-4"]
    assert 0.9 < gain["low"] < found["gain"]["bleu-4"] < gain["high"] < 1.1  # far narrower than the scores' own intervals
    assert found["intervals"]["base"]["bleu-4"]["high"] - found["intervals"]["base"]["bleu-4"]["low"] > 3


def test_the_interval_covers_the_true_mean_about_95_times_in_100():
    draws, hits = np.random.default_rng(3), 0
    for seed in range(200):
        sample = draws.exponential(10, (100, 1))
        found = metrics.interval(sample, METRICS.model_copy(update={"seed": seed, "bootstrap": 400}))[0]
        hits += found["low"] <= 10 <= found["high"]
    assert 178 <= hits <= 200


def predictions(folder, base, tuned):
    folder.mkdir()
    for name, texts in (("base", base), ("tuned", tuned)):
        rows = [{"id": str(i), "reference": "多喝温水，注意休息。", "prediction": t, "finish_reason": "stop"} for i, t in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "speed.json").write_text("{}")


def test_the_stage_writes_metrics_and_the_plot(workplace, stage):
    folder = workplace()
    predictions(folder / "predictions", ["喝水", "休息"], ["多喝温水。", "多喝温水，注意休息。"])
    (folder / "adapter").mkdir()
    (folder / "adapter" / "training.json").write_text('{"steps": 1}')
    done = stage("metrics", predictions="predictions", adapter="adapter", out="metrics.json", plots="scores.csv")
    assert done.status == 0
    found = json.loads((folder / "metrics.json").read_text())
    assert found["gain"]["bleu-4"] == pytest.approx(found["tuned"]["bleu-4"] - found["base"]["bleu-4"], abs=2e-4)
    assert found["samples"] == 2 and found["training"] == {"steps": 1}
    assert "bleu-4" in done.out and len((folder / "scores.csv").read_text().splitlines()) == 9


def test_predictions_that_do_not_pair_are_an_error(workplace, stage):
    folder = workplace()
    predictions(folder / "predictions", ["喝水"], ["多喝温水。", "休息"])
    done = stage("metrics", predictions="predictions", adapter="adapter", out="metrics.json", plots="scores.csv")
    assert done.status == 1 and "same samples" in done.error and not (folder / "metrics.json").exists()
