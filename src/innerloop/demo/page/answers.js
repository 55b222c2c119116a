// What each learner answers, step by step: bars of probabilities, and the loss on the examples.

import { icon, make, relabel, svg } from "./dom.js";
import { percent, t } from "./i18n.js";

const WIDTH = 240;
const HEIGHT = 56;

export class Answers {
  #columns;

  // `download(id)` saves a learner's adapted network.
  constructor(place, learners, download) {
    this.#columns = learners.map((learner) => new Column(learner, download));
    place.append(...this.#columns.map((column) => column.element));
  }

  get steps() {
    return Math.max(...this.#columns.map((column) => column.learner.steps));
  }

  // `answer` is the backend's; `symbols` are the {name, picture} of the classes. Null empties the columns.
  show(answer, symbols, step) {
    const found = new Map((answer?.learners ?? []).map((one) => [one.id, one]));
    for (const column of this.#columns) column.show(found.get(column.learner.id), symbols, step);
  }

  // One sentence for those who hear the page.
  spoken(step) {
    const answers = this.#columns.map((column) => column.spoken).filter(Boolean);
    return answers.length ? t("spoken", { step, answers: answers.join("; ") }) : "";
  }

  translate() {
    for (const column of this.#columns) column.translate();
  }
}

export function titleOf(learner) {
  return learner.id === "untrained" ? t("untrained") : learner.title;
}

class Column {
  spoken = "";
  #rows = [];

  constructor(learner, download) {
    this.learner = learner;
    this.title = make("h3");
    this.note = make("p", { class: "note" });
    this.guess = make("div", { class: "guess" });
    this.bars = make("ol", { class: "bars" });
    this.lossTitle = make("p", { class: "loss-title" });
    this.chart = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
    this.measured = make("p", { class: "measured" });
    this.save = make("button", { type: "button", class: "quiet with-icon save", onclick: () => download(learner.id) });
    const foot = make("div", { class: "column-foot" }, this.measured, this.save);
    const head = make("div", { class: "column-head" }, make("div", {}, this.title, this.note), this.guess);
    const loss = make("div", { class: "loss" }, this.lossTitle, this.chart);
    this.element = make("article", { class: "column", "data-learner": learner.id }, head, this.bars, loss, foot);
    this.translate();
  }

  translate() {
    const { id, facts } = this.learner;
    this.title.textContent = titleOf(this.learner);
    this.note.textContent = t({ maml: "fromMaml", reptile: "fromReptile", untrained: "fromUntrained" }[id] ?? "fromRun");
    const rows = (facts.accuracy ?? []).filter((row) => row.shots === 1 && row.ways === 5);
    this.measured.textContent = rows
      .map((row) => t("measured", { accuracy: percent(row.accuracy, 1), ways: row.ways }))
      .join("");
    this.save.replaceChildren(icon("save"), t("downloadShort"));
    relabel(this.save, `${t("download")} (${titleOf(this.learner)})`);
    if (this.last) this.show(...this.last);
  }

  show(answer, symbols, step) {
    this.last = [answer, symbols, step];
    const at = Math.min(step, this.learner.steps);
    const probabilities = answer?.probabilities?.[at];
    this.element.classList.toggle("is-waiting", !probabilities);
    this.save.disabled = !answer;
    this.#bars(probabilities, symbols);
    this.#guess(probabilities, symbols);
    this.#chart(answer?.losses, at);
  }

  #bars(probabilities, symbols) {
    while (this.#rows.length > symbols.length) this.#rows.pop().element.remove();
    while (this.#rows.length < symbols.length) {
      const row = { picture: make("span", { class: "picture" }), name: make("span", { class: "bar-name" }) };
      row.fill = make("span", { class: "fill" });
      row.value = make("span", { class: "value" });
      const track = make("span", { class: "track", "aria-hidden": "true" }, row.fill);
      row.element = make("li", {}, row.picture, row.name, track, row.value);
      this.#rows.push(row);
      this.bars.append(row.element);
    }
    const most = probabilities ? Math.max(...probabilities) : 1;
    symbols.forEach((symbol, i) => {
      const row = this.#rows[i];
      row.picture.replaceChildren(symbol.picture());
      row.name.textContent = symbol.name;
      const value = probabilities?.[i] ?? 0;
      row.fill.style.transform = `scaleX(${value.toFixed(4)})`;
      row.value.textContent = probabilities ? percent(value) : "";
      row.element.classList.toggle("is-most", Boolean(probabilities) && value === most && most > 1.05 / symbols.length);
    });
    this.bars.classList.toggle("is-long", symbols.length > 8);
  }

  #guess(probabilities, symbols) {
    this.guess.replaceChildren();
    this.spoken = "";
    if (!probabilities) return;
    const most = Math.max(...probabilities);
    const learner = titleOf(this.learner);
    if (most <= 1.05 / symbols.length) {
      this.guess.append(make("span", { class: "tied" }, t("tied")));
      this.spoken = t("spokenOne", { learner, name: t("tied"), probability: percent(most) });
      return;
    }
    const symbol = symbols[probabilities.indexOf(most)];
    this.guess.append(make("span", { class: "big-picture" }, symbol.picture()), make("strong", {}, symbol.name));
    this.spoken = t("spokenOne", { learner, name: symbol.name, probability: percent(most) });
  }

  #chart(losses, at) {
    this.lossTitle.textContent = t("loss");
    this.chart.replaceChildren();
    if (!losses) return;
    const top = Math.max(...losses, 1e-6);
    const x = (step) => 6 + (step * (WIDTH - 12)) / Math.max(1, losses.length - 1);
    const y = (loss) => HEIGHT - 6 - (Math.max(0, loss) / top) * (HEIGHT - 14);
    const points = losses.map((loss, step) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`);
    const base = HEIGHT - 6;
    this.chart.setAttribute("aria-label", t("lossAt", { loss: losses[at].toFixed(2), step: at }));
    this.chart.append(
      svg("path", { class: "area", d: `M${x(0)},${base}L${points.join("L")}L${x(losses.length - 1)},${base}Z` }),
      svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: base, y2: base }),
      svg("polyline", { class: "line", points: points.join(" ") }),
      svg("circle", { class: "dot", cx: x(at), cy: y(losses[at]), r: 4.5 }),
    );
    this.lossTitle.append(make("span", { class: "loss-value" }, losses[at].toFixed(2)));
  }
}
