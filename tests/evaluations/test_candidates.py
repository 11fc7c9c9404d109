import json

from evaluations import candidate
from tests.conftest import ROOT
from xinglin.scoring.scores import NAMES


def one(score: float, samples: int = 74) -> dict:
    bounds = {name: {"low": score - 1, "high": score + 1} for name in NAMES}
    speed = {"samples_per_second": 2.5, "tokens_per_second": 100.0}
    return (
        dict.fromkeys(NAMES, score)
        | speed
        | {"parameters": 15_740_288, "repetitive": 3.0, "samples": samples, "intervals": bounds}
    )


def write(folder, found: dict[str, dict]) -> None:
    (folder / "candidates").mkdir()
    for name, values in found.items():
        (folder / "candidates" / f"{name}.json").write_text(json.dumps(values))


def test_the_parameters_are_counted_in_the_weights_themselves():
    assert candidate.parameters(ROOT / "models" / "tiny") == 15_740_288


def test_the_best_candidate_stands_first_with_its_size_and_speed(workplace, stage):
    folder = workplace({"candidates": ["small", "large"]})
    write(folder, {"small": one(9.0), "large": one(11.0)})
    done = stage("candidates", folder="candidates", out="candidates.csv")
    assert done.status == 0, done.err
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == ["large", "small"]
    assert "15.7 M" in done.out and "[10.00, 12.00]" in done.out
    assert (folder / "candidates.csv").read_text().splitlines()[1].startswith("small,15740288,9.0")


def test_candidates_that_answered_other_dialogues_are_not_compared(workplace, stage):
    folder = workplace({"candidates": ["small", "large"]})
    write(folder, {"small": one(9.0), "large": one(11.0, samples=10)})
    done = stage("candidates", folder="candidates", out="candidates.csv")
    assert done.status == 1 and "predictions.max_samples" in done.error and not (folder / "candidates.csv").exists()


def test_a_running_server_is_not_taken_for_every_candidate(workplace, stage, monkeypatch):
    folder = workplace({"predictions.base_url": "http://127.0.0.1:9"})
    (folder / "split").mkdir()
    (folder / "split" / "val.jsonl").write_text("")
    seen = []

    def endpoints(predictions, *_):
        seen.append(predictions.base_url)
        raise SystemExit(3)

    monkeypatch.setattr(candidate, "endpoints", endpoints)
    profile = ROOT / "profiles" / "tiny.yaml"
    done = stage("candidate", profile=profile, tiny=ROOT / "models" / "tiny", split="split", out="a.json", answers="a.jsonl")
    assert done.status == 3 and seen == [None]
