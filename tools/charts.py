"""The charts of the report, as SVG that stands in a page and takes its colours and fonts."""

import re
import warnings
from collections.abc import Callable
from io import StringIO
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

# matplotlib knows nothing of CSS: it draws in these colours, and the page's variables take their place.
INK, GRID, FIRST, SECOND, THIRD = (f"#01020{n}" for n in range(1, 6))
VARIABLES = {INK: "currentColor", GRID: "var(--line)", FIRST: "var(--first)", SECOND: "var(--second)", THIRD: "var(--third)"}
NAMES = {"base": "基座", "tuned": "微调后"}
STYLE = {
    "svg.fonttype": "none",  # text stays text: the browser has the Chinese glyphs
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def chart(title: str, x: str, y: str, draw: Callable[[Any], None], height: float = 2.7, left: float = 0.15) -> Markup:
    """Return a figure of the page, its SVG 360 units wide, of what `draw` puts on the axes.

    `height` is in inches, of 72 units; `left`, the room for the labels of the y axis, is a share of the width.
    """
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": title}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # in matplotlib's own font, which the page does not use
        figure = Figure(figsize=(5, height))
        axes = figure.add_axes((left, 0.54 / height, 0.97 - left, 1 - 0.9 / height))
        draw(axes)
        axes.set(xlabel=x, ylabel=y)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2)  # above, where it covers no curve
        output = StringIO()
        figure.savefig(output, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    place = Markup('<figure class="tall">' if height > 4 else "<figure>")
    return place + Markup("<figcaption>{}</figcaption>{}</figure>").format(title, in_page(output.getvalue(), title))


def in_page(svg: str, title: str) -> Markup:
    """Return the svg element alone, named for screen readers, without ids and styles that could clash with other charts'."""
    svg = re.sub(r'<style.*?</style>| id="[\w.]+_\d+"', "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{escape(title)}"', svg, count=1)
    for drawn, shown in VARIABLES.items():
        svg = svg.replace(drawn, shown)
    return Markup(svg)


def whole_numbers(axis: Any) -> None:
    axis.set_major_locator(MaxNLocator(integer=True))


def loss(training: pd.DataFrame, validation: pd.DataFrame) -> Markup:
    def draw(axes: Any) -> None:
        axes.plot(training["step"], training["loss"], color=FIRST, label="训练")
        axes.plot(validation["step"], validation["loss"], "o--", color=SECOND, label="验证")
        whole_numbers(axes.xaxis)

    return chart("训练与验证损失", "步", "损失（nats/token）", draw)


def distribution(name: str, values: dict[str, pd.Series]) -> Markup:
    """Return a histogram of each model's scores over the same bins, with a line at its mean."""
    edges = np.linspace(0, max(1.0, *(column.max() for column in values.values())), 26)

    def draw(axes: Any) -> None:
        for (model, column), colour, line in zip(values.items(), (FIRST, SECOND), ("--", "-"), strict=True):
            axes.hist(column, edges, color=colour, alpha=0.2)
            axes.hist(column, edges, color=colour, histtype="step", linestyle=line, linewidth=1.4)
            axes.axvline(column.mean(), color=colour, linestyle=line, label=f"{NAMES[model]} {column.mean():.2f}")
        whole_numbers(axes.yaxis)

    return chart(f"{name} 的分布", f"{name}（%），竖线为均值", "回答数", draw)


def turns(counts: pd.DataFrame) -> Markup:
    def draw(axes: Any) -> None:
        for place, (part, colour) in enumerate(zip(counts.columns[1:], (FIRST, SECOND, THIRD), strict=True)):
            axes.bar(counts["questions"] + (place - 1) * 0.28, counts[part], 0.26, color=colour, label=part)
        whole_numbers(axes.xaxis)

    return chart("每段对话的提问数", "提问数", "对话数", draw)


def characters(counts: pd.DataFrame) -> Markup:
    def draw(axes: Any) -> None:
        for column, label, colour, line in (("questions", "提问", FIRST, "--"), ("answers", "回答", SECOND, "-")):
            axes.fill_between(counts["characters"], counts[column], step="post", color=colour, alpha=0.2)
            axes.step(counts["characters"], counts[column], where="post", color=colour, linestyle=line, label=label)

    return chart("提问与回答的长度", "字数（末格含更长的）", "条数", draw)


def cutoff(shares: pd.DataFrame) -> Markup:
    def draw(axes: Any) -> None:
        axes.plot(shares["cutoff_len"], shares["cut"], "o-", color=FIRST, label="被截断的对话")
        axes.plot(shares["cutoff_len"], shares["lost"], "o--", color=SECOND, label="丢失的 token")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))

    return chart("cutoff_len 截去多少", "cutoff_len（token）", "占比", draw)


def topics(counts: pd.DataFrame) -> Markup:
    names = counts["topic"].astype(str)
    widest = max(map(len, names), default=0)

    def draw(axes: Any) -> None:
        axes.barh(names, counts["dialogues"], 0.65, color=SECOND)
        axes.margins(y=0.01)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        whole_numbers(axes.xaxis)

    return chart("最常见的科室或主题", "对话数", "", draw, 1 + 0.22 * len(counts), min(0.5, 0.04 + 0.032 * widest))
