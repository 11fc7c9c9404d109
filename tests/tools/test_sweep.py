import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, ends
from tools import best, sweep
from tools.all_params import read_params
from tools.experiments import Experiment, flat


def test_a_grid_is_every_combination_once():
    found = sweep.combinations("adapter.learning_rate=1e-3,2e-3 adapter.lora_rank=4,8,16")
    assert len({(one["adapter.learning_rate"], one["adapter.lora_rank"]) for one in found}) == 6 == len(found)
    assert {type(one["adapter.lora_rank"]) for one in found} == {int} and found[0]["adapter.learning_rate"] == 0.001


def test_fewer_runs_are_drawn_the_same_for_the_same_seed():
    found = sweep.combinations("adapter.learning_rate=1e-3,2e-3,4e-3 adapter.lora_rank=4,8,16")
    drawn = sweep.drawn(found, 4, seed=42)
    assert drawn == sweep.drawn(found, 4, seed=42) != sweep.drawn(found, 4, seed=7)
    assert len({sweep.name_of(one) for one in drawn}) == 4 and all(one in found for one in drawn)
    assert sweep.drawn(found, None, 42) == sweep.drawn(found, 99, 42) == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "what is to be tried?"),
        ("adapter.lora_rank", "SET=adapter.lora_rank: expected NAME=a,b,c"),
        ("adapter.lora_rank=4:8", "expected NAME=a,b,c"),
    ],
)
def test_what_cannot_be_tried_is_one_line(capsys, words, said):
    with ends() as end:
        sweep.combinations(words)
    assert end.value.code == 2 and said in capsys.readouterr().err


def test_equal_settings_have_one_name_whatever_their_order():
    assert sweep.name_of({"a": 1, "b": 2}) == sweep.name_of({"b": 2, "a": 1}) != sweep.name_of({"a": 1, "b": 3})


QUEUE = """Task     Name            Created       Status
1111111  sweep-{0}  08:41 PM      Running
2222222  sweep-{1}  Nov 25, 2025  Queued
3333333  sweep-{2}  08:40 PM      Failed
4444444  sweep-{3}  Nov 25, 2025  Success

Worker status: 1 active, 0 idle
"""


def test_only_what_waits_or_runs_is_not_queued_again_what_failed_or_ended_on_another_commit_is(monkeypatch):
    names = [sweep.name_of({"adapter.lora_rank": rank}).removeprefix("sweep-") for rank in (4, 8, 16, 32)]
    tried = []
    monkeypatch.setattr(sweep, "find", lambda prefix: [])
    monkeypatch.setattr(sweep, "queue", lambda settings: tried.append(settings["adapter.lora_rank"]))
    monkeypatch.setattr(
        sweep.subprocess, "run", lambda line, **options: subprocess.CompletedProcess(line, 0, QUEUE.format(*names), "")
    )
    sweep.search(sweep.combinations("adapter.lora_rank=4,8,16,32"), 1)
    assert sorted(tried) == [16, 32]


def experiment(name: str, scores: list[float], **settings) -> Experiment:
    metrics = {
        "part": "val",
        "tuned": {"rouge-l": sum(scores) / len(scores)},
        "gain": {"rouge-l": 1.0},
        "intervals": {"gain": {"rouge-l": {"low": 0.5, "high": 1.5}}},
        "training": {"tokens": 4567, "verdict": "cut short"},
    }
    return Experiment(name, settings, metrics, {str(i): {"rouge-l": score} for i, score in enumerate(scores)})


def test_the_table_says_which_run_is_best_and_whether_the_others_are_behind_or_within_noise(workplace, monkeypatch):
    workplace()
    close, far = [10.0, 20.1, 29.8, 40.2] * 10, [8.0, 18.0, 28.0, 38.0] * 10
    runs = [
        experiment("sweep-far", far, **{"adapter.lora_rank": 4, "adapter.seed": 42}),
        experiment("sweep-best", [10.1, 20.0, 30.0, 40.1] * 10, **{"adapter.lora_rank": 8, "adapter.seed": 42}),
        experiment("sweep-close", close, **{"adapter.lora_rank": 16, "adapter.seed": 42}),
    ]
    monkeypatch.setattr(sweep, "find", lambda prefix: runs)
    lines = sweep.show(sweep.ranked("rouge-l"), "rouge-l").splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["sweep-best", "sweep-close", "sweep-far"]
    assert "noise" in lines[2] and "noise" not in lines[3] and "2.05" in lines[3]
    assert (
        "adapter.lora_rank=8" in lines[1] and "adapter.seed" not in lines[1] and "cut short" in lines[1] and "4,567" in lines[1]
    )


def test_the_interval_hangs_on_the_answers_alone_not_on_the_order_of_a_set(workplace, monkeypatch):
    workplace()
    seen = []
    monkeypatch.setattr(sweep, "interval", lambda found, metrics: (seen.append(found), [{"low": 0.0, "high": 1.0}])[1])
    sweep.behind(experiment("a", [float(n) for n in range(50)]), experiment("b", [0.0] * 50), "rouge-l")
    assert seen[0][:, 0].tolist() == list(range(50))


def nothing_may_run(*line, **options):
    raise AssertionError(f"{line} was run")


@pytest.mark.parametrize("metric", ["rouge-9", "repetitive", "distinct-1", "similarity"])
@pytest.mark.parametrize(("tool", "words"), [(sweep, ["--set", "adapter.lora_rank=4,8", "--metric"]), (best, [])])
def test_a_metric_without_intervals_is_one_line_before_anything_runs(workplace, monkeypatch, capsys, tool, words, metric):
    (workplace() / "dvc.lock").touch()
    tuned = {"rouge-l": 1.0, "repetitive": 1.0, "distinct-1": 1.0}
    one = experiment("sweep-one", [1.0])
    monkeypatch.setattr(sweep, "find", lambda prefix: [one._replace(metrics=one.metrics | {"tuned": tuned})])
    monkeypatch.setattr(tool.subprocess, "run", nothing_may_run)
    monkeypatch.setattr(sys, "argv", ["tool", *words, metric])
    with ends() as end:
        tool.main()
    line = capsys.readouterr().err
    assert end.value.code == 2 and line.count("\n") == 1
    assert f"METRIC={metric}: no such score, expected one of bleu-4, rouge-1, rouge-2, rouge-l, chrf\n" in line


def test_a_score_of_meaning_chooses_where_a_model_for_it_is_set_and_every_run_has_it(workplace, monkeypatch, capsys):
    workplace({"metrics.embedding_model": "/models/bge"})
    monkeypatch.setattr(sweep, "find", lambda prefix: [])
    assert sweep.ranked("similarity") == []
    monkeypatch.setattr(sweep, "find", lambda prefix: [experiment("sweep-one", [1.0])])
    with ends() as end:
        sweep.ranked("similarity")
    assert end.value.code == 2 and "METRIC=similarity: sweep-one ran without it" in capsys.readouterr().err


def test_runs_scored_on_the_test_part_do_not_choose(workplace, monkeypatch):
    workplace()
    one = experiment("sweep-test", [1.0])
    monkeypatch.setattr(sweep, "find", lambda prefix: [one._replace(metrics=one.metrics | {"part": "test"})])
    assert sweep.ranked("rouge-l") == []


def test_the_winner_goes_into_params_with_its_comments_kept_and_the_test_part_stays(tmp_path):
    file = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    text = file.read_text(encoding="utf-8")
    settings = flat(read_params(file).model_dump()) | {"adapter.lora_rank": 32, "predictions.part": "val"}
    assert best.apply(settings, file) == {"adapter.lora_rank": 32}
    assert read_params(file).predictions.part == "test"
    assert file.read_text(encoding="utf-8") == text.replace("lora_rank: 8  ", "lora_rank: 32 ")


@pytest.mark.parametrize(("ending", "said"), [(KeyboardInterrupt, KeyboardInterrupt), (1, False), (0, True)])
def test_params_stay_as_they_were_however_bringing_an_experiment_back_ends(workplace, monkeypatch, ending, said):
    file = workplace() / "params.yaml"
    before = file.read_bytes()
    read_params()  # as `ranked` does before, which has later outputs check that the file is still the same

    def apply(line, **options):
        file.write_text("what the experiment had")
        if ending is KeyboardInterrupt:
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(line, ending)

    monkeypatch.setattr(best.subprocess, "run", apply)
    try:
        found = best.bring_back("sweep-one")
    except KeyboardInterrupt:
        found = KeyboardInterrupt
    assert found is said and file.read_bytes() == before
