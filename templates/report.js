"use strict";
// The answers stand in the page as JSON. Only those that are looked at become elements, their words as text nodes, never as HTML.
const data = document.getElementById("data");
if (data) show(JSON.parse(data.textContent));

// What a closed fold holds would be missing on paper.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((fold) => { fold.open = true; }));

function show({ metrics, rows }) {
  const STEP = 20;
  const SPEAKERS = { system: "系统", user: "患者", assistant: "医生" };
  const FLAGS = { truncated: "截断", empty: "空答", repetitive: "重复" };
  const [search, metric, order, list, count, more] = ["search", "metric", "order", "list", "count", "more"].map((id) => document.getElementById(id));
  const texts = rows.map((row) => [row.id, ...row.messages.map((said) => said.content), row.reference, row.base.text, row.tuned.text].join("\n"));
  let found = [], wanted = null;

  metric.append(...metrics.map((name) => new Option(name)));
  metric.disabled = order.disabled = !metrics.length;

  const make = (tag, name, ...children) => {
    const element = document.createElement(tag);
    element.className = name;
    element.append(...children.flat());
    return element;
  };
  const marked = (text) => (wanted ? text.split(wanted).map((part, i) => (i % 2 ? make("mark", "", part) : part)) : text);
  const turn = ({ role, content }) => make("p", `turn ${role}`, make("b", "", SPEAKERS[role] ?? role), make("span", "", marked(content)));
  const gain = (row) => row.tuned.scores[metric.value] - row.base.scores[metric.value];
  const signed = (number) => (number < 0 ? "−" : "+") + Math.abs(number).toFixed(2);

  function side(title, name, text, score, flags) {
    const head = make("h4", "", title, score === undefined ? "" : make("span", "score", score.toFixed(2)), flags.map((flag) => make("span", "flag", FLAGS[flag] ?? flag)));
    return make("section", name, head, make("p", "", text ? marked(text) : make("i", "", "（空）")));
  }

  function article(number) {
    const row = rows[number], before = row.messages.slice(0, -1);
    const head = make("h3", "", `${number + 1} `, make("small", "", row.id));
    if (metrics.length) head.append(make("span", gain(row) < 0 ? "gain worse" : "gain", `${metric.value} ${signed(gain(row))}`));
    const whole = make("article", "", head);
    if (before.length) {
      const fold = make("details", "", make("summary", "", `前文 ${before.length} 条`), before.map(turn));
      fold.open = Boolean(wanted) && before.some((said) => wanted.test(said.content));
      whole.append(fold);
    }
    const scores = (model) => row[model].scores[metric.value];
    whole.append(turn(row.messages.at(-1)), make("div", "sides",
      side("基座", "base", row.base.text, scores("base"), row.base.flags),
      side("微调后", "tuned", row.tuned.text, scores("tuned"), row.tuned.flags),
      side("参考答案", "reference", row.reference, undefined, [])));
    return whole;
  }

  function draw() {
    const shown = list.childElementCount;
    list.append(...found.slice(shown, shown + STEP).map(article));
    count.value = `${found.length} 题，已显示 ${list.childElementCount} 题`;
    more.hidden = list.childElementCount === found.length;
  }

  function select() {
    const query = search.value.trim();
    wanted = query ? new RegExp(`(${query.replace(/[\^$\\.*+?()[\]{}|\/]/g, "\\$&")})`, "iu") : null;
    found = rows.map((_, number) => number).filter((number) => !wanted || wanted.test(texts[number]));
    const sign = { best: -1, worst: 1 }[order.value];
    if (sign) found.sort((a, b) => sign * (gain(rows[a]) - gain(rows[b])));
    list.replaceChildren();
    draw();
  }

  search.addEventListener("input", select);
  metric.addEventListener("change", select);
  order.addEventListener("change", select);
  more.addEventListener("click", draw);
  select();
}
