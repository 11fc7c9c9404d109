"""The report, opened from the disk in a real browser: search, order, what an answer may not do, phone, dark, paper."""

import csv
import json
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import ROOT, ends
from tools import report
from xinglin.timings import write_timing

ANSWERS = 45  # more than the page shows at once
ATTACKS = [
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    "<!--<script>",
    "<img src=x onerror='window.hacked = 3'>",
    "{{ 7 * 7 }}",
]
NAMES = ("bleu-4", "chrf")
INTERVALS = {"bleu-4": {"low": 0.5, "high": 1.5}, "chrf": {"low": -0.2, "high": 0.3}}
TRAINING = {"steps": 9, "best_step": 6, "best_validation_loss": 2.5, "last_validation_loss": 2.75}


def metrics(**training) -> dict:
    rates = {"truncated": 2.0, "empty": 0.0, "repetitive": 4.0}
    return {
        "base": {"bleu-4": 1.0, "chrf": 5.0} | rates,
        "tuned": {"bleu-4": 2.0, "chrf": 5.1} | rates,
        "gain": {"bleu-4": 1.0, "chrf": 0.1},
        "intervals": {"gain": INTERVALS},
        "samples": ANSWERS,
        "part": "val",
        "training": TRAINING | training,
    }


def write(file: str, text: str) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(text, encoding="utf-8")


def write_rows(file: str, rows: list[list]) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="", encoding="utf-8") as output:
        csv.writer(output).writerows(rows)


def prediction(model: str, number: int) -> dict:
    text = ATTACKS[number] if number < len(ATTACKS) else f"{model} 的第 {number} 个回答\n第二行"
    messages = [
        {"role": "user", "content": "先前的问题"},
        {"role": "assistant", "content": "先前的回答，少见词阿司匹林" if number == 30 else "先前的回答"},
        {"role": "user", "content": f"第 {number} 问：咳嗽怎么办"},
    ]
    return {"id": f"{number:02}e44", "messages": messages, "reference": "多喝水。", "prediction": text, "finish_reason": "stop"}


def write_predictions() -> None:
    for model in ("base", "tuned"):
        rows = (json.dumps(prediction(model, number), ensure_ascii=False) for number in range(ANSWERS))
        write(f"data/predictions/{model}.jsonl", "\n".join(rows) + "\n")


def write_answers() -> None:
    """Write scores of which bleu-4 gains most in answer 20 and loses most in 40; chrf gains most in 10."""
    peaks = {("bleu-4", 20): 9.0, ("bleu-4", 40): -3.0, ("chrf", 10): 8.0}
    rows: list[list] = [["id", "model", *NAMES, "truncated", "empty", "repetitive"]]
    for model in ("base", "tuned"):
        for number in range(ANSWERS):
            gains = [peaks.get((name, number), 0.5) if model == "tuned" else 0 for name in NAMES]
            rows.append([f"{number:02}e44", model, *(4 + gain for gain in gains), int(number == 20 and model == "base"), 0, 0])
    write_rows("plots/answers.csv", rows)


def write_run() -> None:
    """Write a run's files into the working folder."""
    shutil.copy(ROOT / "dvc.yaml", ".")
    write("params.yaml", "app:\n  database: postgresql+psycopg://ward:secret@db/x  # where are conversations kept?\n")
    write("metrics.json", json.dumps(metrics(verdict="overfitted", reason="validation rose", advice="fewer epochs")))
    write_rows("plots/loss/training.csv", [["step", "epoch", "loss"], [3, 0.3, 4.0], [6, 0.6, 3.0]])
    write_rows("plots/loss/validation.csv", [["step", "epoch", "loss"], [6, 0.6, 2.5], [9, 0.9, 2.75]])
    write_predictions()
    write_timing("adapter", Path("plots/loss/training.csv"), seconds=3725.2)
    write_answers()
    lengths = {"p5": 1, "p50": 5, "p95": 9, "p99": 10, "p100": 11}
    write(
        "plots/data/stats.json",
        json.dumps(
            {
                "dialogues": 90,
                "questions": 180,
                "characters": {"question": lengths, "answer": lengths},
                "tokens": {"dialogue": lengths, "per_character": 0.9},
                "vocabulary": {"characters": 1, "words": 2, "tokens": 3},
            }
        ),
    )
    write_rows("plots/data/turns.csv", [["questions", "train", "val", "test"], [1, 5, 2, 2], [2, 4, 1, 1]])
    write_rows("plots/data/characters.csv", [["characters", "questions", "answers"], [0, 4, 0], [10, 1, 5]])
    write_rows("plots/data/cutoff_len.csv", [["cutoff_len", "cut", "lost", "cost"], [256, 0.5, 0.2, 0.8], [512, 0, 0, 1]])
    write_rows("plots/data/topics.csv", [["topic", "dialogues"], ["<b>急诊科</b>", 9], ["妇科", 4]])
    counts = {"raw": 95, "converted": 90, "rejected": 3, "duplicates": 2, "shape": "huatuo", "multi_turn": 40}
    write("data/converted/stats.json", json.dumps(counts | {"reasons": {"an empty turn": 3}, "mended": {"trimmed": 6}}))
    shares = {"train": 0.6, "val": 0.2, "test": 0.2}
    write(
        "data/split/report.json",
        json.dumps(
            {
                "rows": {"train": 54, "val": 18, "test": 18},
                "shares": shares,
                "deviation": shares,
                "chance": shares,
                "mix": {part: {"multi_turn": 0.5} for part in shares},
                "grams_13": {"test": {"texts": 0.25, "grams": 0.1}},
                "groups": 88,
                "largest_group": 2,
                "overlap": {"exact": 0, "near": 0, "contained": 0},
            }
        ),
    )
    write(
        "models/merged/README.md",
        "---\nlanguage: zh\n---\n# 卡\n\n**不是医生** <script>window.hacked = 4</script>\n\n"
        "![图](https://example.com/x.png) [坏](javascript:window.hacked=5)\n\n|指标|值|\n|---|---|\n|chrf|5|\n",
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_run()
        report.main()
    return folder / "report.html"


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1100, "height": 800}, locale="zh-CN")
    opened.goto(file.as_uri())
    yield opened
    opened.close()


def first(page: Page) -> str:
    return page.locator("article h3").first.inner_text().split()[0]


def count(page: Page):
    return page.locator("#count")


def is_dark(page: Page, place: str, style: str) -> bool:
    colour = page.evaluate(f"getComputedStyle(document.querySelector('{place}')).{style}")
    red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue  # as ITU-R BT.709 weighs them
    return luminance < 128


def test_without_metrics_it_ends_with_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with ends() as end:
        report.main()
    assert end.value.code == 1 and capsys.readouterr().err == "error: metrics.json: no such file: run 'dvc repro' to make it\n"
    assert not Path("report.html").exists()


def test_each_missing_file_names_the_command_that_makes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", ".")
    write("metrics.json", json.dumps(metrics()))
    report.main()
    text = Path("report.html").read_text(encoding="utf-8")
    for name, command in {
        "plots/loss/training.csv": "dvc repro adapter",
        "plots/answers.csv": "dvc repro metrics",
        "data/converted/stats.json": "dvc repro converted",
        "plots/data/stats.json": "dvc repro statistics",
        "data/split/report.json": "dvc repro split",
        "data/predictions/base.jsonl": "dvc repro predictions",
        "models/merged/README.md": "dvc repro merged",
        "params.yaml": "git restore params.yaml",
    }.items():
        assert f"没有 <code>{name}</code>，运行 <code>{command}</code> 生成。" in text
    assert 'class="verdict ' not in text


def test_scores_of_other_answers_stop_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run()
    write_rows("plots/answers.csv", [["id", "model", "bleu-4"], ["other", "base", 1]])
    with ends():
        report.main()
    assert "plots/answers.csv: its answers are not those of data/predictions" in capsys.readouterr().err
    assert not Path("report.html").exists()


def test_answers_are_shown_before_they_are_scored(browser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run()
    Path("plots/answers.csv").unlink()
    report.main()
    page = browser.new_page()
    page.goto(Path("report.html").absolute().as_uri())
    expect(page.get_by_label("顺序")).to_be_disabled()
    expect(count(page)).to_have_text("45 题，已显示 20 题")
    page.close()


def test_the_table_says_what_the_interval_of_each_gain_allows(page):
    rows = page.get_by_role("region", name="成绩表").get_by_role("row")
    expect(rows.nth(1)).to_have_text("bleu-41.002.00+1.00[+0.50, +1.50]更高")
    expect(rows.nth(2)).to_have_text("chrf5.005.10+0.10[-0.20, +0.30]分不出")
    expect(page.get_by_text("验证集 val 45 题")).to_be_visible()


def test_the_verdict_on_training_stands_out(page):
    box = page.locator(".verdict").first
    for words in ("过拟合", "overfitted", "validation rose", "fewer epochs"):
        expect(box).to_contain_text(words)
    expect(page.get_by_text("1 小时 2 分")).to_be_visible()


def test_search_finds_any_text_of_a_conversation_and_marks_it(page):
    search = page.get_by_label("搜索问题与回答")
    search.fill("tuned 的第 12 个")
    expect(count(page)).to_have_text("1 题，已显示 1 题")
    expect(page.locator("article mark")).to_have_text("tuned 的第 12 个")
    search.fill("阿司匹林")
    assert first(page) == "31"
    expect(page.locator("article details mark")).to_be_visible()  # in an earlier turn, unfolded
    search.fill("TUNED 的第 12")
    expect(page.locator("article")).to_have_count(1)
    search.fill("(.*")
    expect(page.locator("article")).to_have_count(0)
    search.fill("")
    expect(count(page)).to_have_text("45 题，已显示 20 题")


def test_order_follows_the_gain_of_the_metric_that_is_chosen(page):
    order, metric = page.get_by_label("顺序"), page.get_by_label("指标")
    assert first(page) == "1"
    order.select_option("增益从大到小")
    assert first(page) == "21"
    expect(page.locator("article").first).to_contain_text("bleu-4 +9.00")
    expect(page.locator("article .base .flag").first).to_have_text("截断")
    order.select_option("增益从小到大")
    assert first(page) == "41"
    order.select_option("增益从大到小")
    metric.select_option("chrf")
    assert first(page) == "11"


def test_only_the_answers_that_are_looked_at_are_drawn(page):
    more = page.get_by_role("button", name="再显示 20 题")
    expect(page.locator("article")).to_have_count(20)
    more.click()
    more.click()
    expect(page.locator("article")).to_have_count(45)
    expect(more).to_be_hidden()


def test_nothing_in_an_answer_or_a_card_runs(page):
    for number, attack in enumerate(ATTACKS):
        expect(page.locator("article").nth(number).locator(".tuned p")).to_have_text(attack)
    expect(page.locator(".card")).to_contain_text("<script>window.hacked = 4</script>")
    assert page.evaluate("window.hacked") is None
    assert page.locator("article script, article img, .card script, .card img, .card a[href^=javascript]").count() == 0
    expect(page.locator("svg text", has_text="<b>急诊科</b>")).to_have_count(1)


def test_nothing_leaves_the_page_and_nothing_could(browser, file):
    page, asked, complaints = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(file.as_uri())
    page.get_by_label("搜索问题与回答").press("Enter")
    page.wait_for_timeout(300)
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()] and complaints == []
    refused = "fetch('https://example.com').then(() => 'sent', () => 'refused')"
    assert page.evaluate(refused) == "refused" and "Content Security Policy" in " ".join(complaints)
    page.close()


def test_a_password_in_the_parameters_is_not_shown(page, file):
    expect(page.get_by_label("params.yaml")).to_contain_text("ward:***@db/x  # where are conversations kept?")
    assert "secret" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_the_light_and_in_the_dark(browser, file, scheme):
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme, locale="zh-CN")
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for place in ("body", "article"):
        assert is_dark(page, place, "backgroundColor") == (scheme == "dark")
    for place, style in (("article p", "color"), ("td", "color"), ("svg text", "fill")):
        assert is_dark(page, place, style) == (scheme == "light")
    page.close()


def test_on_paper_every_section_is_there_and_folds_are_open(page):
    page.emulate_media(media="print", color_scheme="dark")
    for heading in ("成绩", "训练", "分布", "逐题对照", "数据", "泄漏检查", "模型卡", "环境", "参数"):
        expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    expect(page.get_by_label("搜索问题与回答")).to_be_hidden()
    assert is_dark(page, "body", "color")
    page.pdf()
    assert page.locator("details:not([open])").count() == 0


def test_a_screen_reader_is_told_language_headings_tables_and_charts(page):
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    expect(page.get_by_role("note")).to_contain_text("不是医生")
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(heading => Number(heading.tagName[1]))")
    assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels))
    assert page.locator("th:not([scope])").count() == 0
    for chart in ("训练与验证损失", "bleu-4 的分布", "每段对话的提问数", "cutoff_len 截去多少"):
        expect(page.get_by_role("img", name=chart)).to_be_visible()
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))
