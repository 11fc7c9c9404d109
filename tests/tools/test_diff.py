"""Two revisions compared as a person would: what is said of them, and that nobody's words do harm."""

import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import params_with
from tests.reviewed import AFTER, BEFORE, answers_csv, make_server, metrics_json, predictions, run
from tools import changes, diff
from tools.changes import Change
from tools.revisions import Scores
from xinglin.scoring.intervals import interval

METRICS = params_with().metrics


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("server")
    make_server(place)
    return place


@pytest.fixture
def author(server: Path, tmp_path: Path) -> Path:
    """A copy of the author's checkout, on the branch, cache and all."""
    return shutil.copytree(server / "author", tmp_path / "author", symlinks=True)


def compare(folder: Path, *words: str) -> str:
    """Return the Markdown of tools.diff, run in `folder`; it never ends in a stack trace."""
    done = run(folder, sys.executable, "-m", "tools.diff", *words)
    assert "Traceback" not in done.stderr
    return done.stdout


class Rendered(HTMLParser):
    """The tags and the text of Markdown, rendered with the HTML in it."""

    def __init__(self, markdown: str) -> None:
        from markdown_it import MarkdownIt

        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[int] = []
        self.text = ""
        self.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.cells.append(0)
        elif tag in ("td", "th"):
            self.cells[-1] += 2 if ("colspan", "2") in attrs else 1

    def handle_data(self, data):
        self.text += data


def test_nobodys_words_become_markup_or_a_mention(author):
    found = compare(author, "main")
    page = Rendered(found)
    assert page.tags <= {"p", "h3", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "details", "summary"}
    assert "alert(1)</script>" in page.text and "http://evil" in page.text
    assert set(page.cells) == {2, 3, 5, 6}, "example, parameters, data, scores: no row has a cell too many"
    assert re.sub(r"`[^`\n]*`", "", found).count("@") == found.count("@&#8203;") == 40
    assert "\u202e" not in found and "长" * diff.SHOWN not in found
    assert "| `converted.system` | `\"\"` | `a \\| 'b' <i> @all` |" in found
    assert "| `merged.gate.gains.bleu-4` | `0.0` | – |" in found and "| `merged.gate.gains` | – | `{}` |" in found


def test_two_revisions_are_compared_whatever_lies_in_the_workspace(author):
    (author / "metrics.json").write_text("{}")
    found = compare(author, "rank", "main", "--by", "rouge-1")
    assert re.match(r"tuned rouge-1 [\d.]+ → [\d.]+, \S+ \[\S+ \S+: within noise\n", found)
    assert re.search(r"tuned rouge-l 16\.79 \| 14\.88 \| -1\.91 \|.* worse", found.replace("tuned rouge-l |", "tuned rouge-l"))
    assert "| train | 35 | 30 | 1 | 6 |" in found


def test_the_same_run_again_changes_nothing(author):
    found = compare(author, "HEAD")
    assert found.startswith("tuned rouge-l 16.79 → 16.79, +0.00 [+0.00, +0.00]: within noise\n")
    assert found.count("None changed.") == 2 and "The same rows in train, val and test" in found
    assert "By rouge-l, 0 answers got better, 0 worse, 40 stayed." in found and "mermaid" not in found


def test_without_scores_of_single_answers_nothing_is_called_better(author):
    (author / "plots/answers.csv").unlink()
    found = compare(author, "main")
    assert found.startswith("tuned rouge-l 14.88 → 16.79, +1.91 (no interval)\n")
    assert "No `plots/answers.csv` at `workspace`: nothing says whether a difference is noise." in found
    assert not re.search(r"\| (better|worse|within noise) \|", found)


def test_another_part_is_not_compared(author):
    (author / "metrics.json").write_text(metrics_json(answers_csv(AFTER), part="val"))
    found = compare(author, "main")
    assert found.startswith("not comparable: the test part was answered before, the val part after\n")
    assert not re.search(r"\| (better|worse|within noise) \|", found)


def test_answers_of_another_run_are_not_shown_beside_the_scores(author):
    (author / "data/predictions/tuned.jsonl").write_text(predictions(["other"], "别"))
    assert "The answers of `workspace` are in neither DVC's cache nor a remote" in compare(author, "main")


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["nowhere"], 2, "REV=nowhere: no such revision here"),
        ([""], 2, "REV=: no such revision here"),
        (["--", "--all"], 2, "REV=--all: no such revision here"),
        (["bare"], 1, "bare: no metrics.json there"),
        (["torn"], 1, "metrics.json at torn: not the scores of base and tuned"),
        (["main", "--by", "rouge-9"], 2, "--by rouge-9: no such metric, expected one of rouge-1, rouge-l"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(author, words, status, line):
    for name, change in (("bare", ["rm", "metrics.json"]), ("torn", ["cp", "dvc.yaml", "metrics.json"])):
        run(author, "git", "checkout", "--quiet", "-b", name, "main")
        run(author, *change)
        run(author, "git", "commit", "--quiet", "--all", "--message", name)
    run(author, "git", "checkout", "--quiet", "rank")
    done = run(author, sys.executable, "-m", "tools.diff", *words, expect=status)
    assert done.stdout == "" and done.stderr.startswith(f"error: {line}") and done.stderr.count("\n") == 1


def scores_of(values: dict[str, float], name: str = "rouge-l") -> Scores:
    return {key: {name: value} for key, value in values.items()}


def test_the_interval_is_of_the_paired_differences():
    found = changes.differences(scores_of(BEFORE), scores_of(AFTER), METRICS)["rouge-l"]
    expected = interval(np.array([[AFTER[key] - BEFORE[key]] for key in sorted(BEFORE)]), METRICS)[0]
    assert (found.low, found.high) == (expected["low"], expected["high"])
    assert found.after - found.before == pytest.approx(np.mean(list(AFTER.values())) - np.mean(list(BEFORE.values())))


def test_only_questions_in_common_count_where_there_are_any():
    after = {key: value + 1 for key, value in BEFORE.items() if key > "q09"} | {"new": 99.0, "newer": 98.0}
    found = changes.differences(scores_of(BEFORE), scores_of(after), METRICS)["rouge-l"]
    assert found.before == pytest.approx(np.mean([BEFORE[key] for key in BEFORE if key > "q09"]))
    assert (found.low, found.high) == (1, 1)


def test_other_questions_are_compared_apart_and_with_less_certainty():
    paired = changes.differences(scores_of(BEFORE), scores_of(AFTER), METRICS)["rouge-l"]
    apart = changes.differences(scores_of(BEFORE), scores_of({f"other {key}": value for key, value in AFTER.items()}), METRICS)[
        "rouge-l"
    ]
    assert apart.after - apart.before == pytest.approx(paired.after - paired.before)
    spread = 1.96 * np.sqrt(sum(np.var(list(side.values())) / len(side) for side in (BEFORE, AFTER)))
    assert apart.low == pytest.approx(apart.after - apart.before - spread, abs=0.1)
    assert apart.high == pytest.approx(apart.after - apart.before + spread, abs=0.1)
    assert apart.high - apart.low > paired.high - paired.low


def test_one_answer_has_no_interval():
    assert changes.differences(scores_of({"a": 1.0}), scores_of({"a": 2.0}), METRICS) == {}


@pytest.mark.parametrize(
    ("name", "low", "high", "said"),
    [
        ("rouge-l", 0.1, 1.0, "better"),
        ("rouge-l", -1.0, -0.1, "worse"),
        ("rouge-l", -0.1, 1.0, "within noise"),
        ("rouge-l", 0.0, 1.0, "within noise"),
        ("truncated", 0.1, 1.0, "worse"),
        ("repetitive", -1.0, -0.1, "better"),
        ("length-ratio", None, None, "–"),
    ],
)
def test_a_difference_is_noise_unless_the_interval_leaves_out_zero(name, low, high, said):
    assert diff.verdict(name, Change(1.0, 2.0, low, high)) == said


def test_curves_of_other_steps_are_a_table_and_long_ones_are_thinned():
    assert diff.curves({10: 5.0}, {20: 4.0, 30: 3.5})[2:] == [
        "| 10 | 5.0000 | – |",
        "| 20 | – | 4.0000 |",
        "| 30 | – | 3.5000 |",
    ]
    long = {step: 5 - step / 1000 for step in range(1, 501)}
    chart = diff.curves(long, {step: loss - 0.1 for step, loss in long.items()})
    assert chart[0] == "```mermaid" and chart[4].endswith(" 500]") and chart[4].count(",") < 25
    assert "mermaid" not in str(diff.curves({1: 5.0, 2: 4.0}, {1: 5.0, 2: float("nan")})), "no chart can draw it"
