// The page: what is drawn goes to the learners, and what they answer is shown.

import { Answers } from "./answers.js";
import { Asker } from "./asker.js";
import { model, setup } from "./backend.js";
import { Cell, levelsFor } from "./cell.js";
import { Classes } from "./classes.js";
import { byId, make, relabel } from "./dom.js";
import { QUERIES, empty, opening } from "./examples.js";
import { locale, otherLanguage, t, translate } from "./i18n.js";
import { preview } from "./pad.js";
import { Player } from "./player.js";
import { Store } from "./state.js";
import { nextTheme, theme } from "./theme.js";
import { BadPicture, levelsOf } from "./upload.js";

class Page {
  constructor(settings) {
    this.images = settings;
    const content = settings.drawings && settings.ways >= 5 ? opening() : empty(Math.min(3, settings.ways));
    this.store = new Store(settings, content);
    const spoken = (text) => this.say(text);
    this.classes = new Classes(byId("classes"), this.store, settings, {
      files: (files, id, index) => this.upload(files, (drawings) => this.store.fill(id, index, drawings)),
      spoken,
    });
    this.query = new Cell(
      settings,
      {
        changed: (drawing) => this.store.setQuery(drawing),
        erased: () => this.store.setQuery(null),
        files: (files) => this.upload(files.slice(0, 1), ([drawing]) => this.store.setQuery(drawing)),
        spoken,
      },
      () => t("queryPad"),
      { several: false, line: 0.03 },
    );
    this.seen = make("div", { class: "seen" });
    byId("query").append(this.query.element, this.seen);
    this.answers = new Answers(byId("learners"), settings.learners, (id) => this.download(id));
    this.player = new Player(this.answers.steps, () => this.showAnswer(true));
    this.asker = new Asker(
      (answer, task) => this.answered(answer, task),
      (error) => this.complain(error),
    );
    this.store.subscribe(() => this.changed());
    this.#buttons();
    document.addEventListener("keydown", (event) => this.#shortcut(event));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolour());
    this.translate();
    this.changed();
  }

  #buttons() {
    const on = (id, act) => byId(id).addEventListener("click", act);
    on("undo", () => this.store.undo());
    on("redo", () => this.store.redo());
    on("clear", () => this.store.clear());
    on("reset", () => this.store.replace(opening()));
    on("next", () => {
      const at = QUERIES.indexOf(this.store.now.query);
      this.store.setQuery(QUERIES[(at + 1) % QUERIES.length]);
    });
    on("language", () => {
      otherLanguage();
      this.translate();
    });
    on("theme", () => {
      nextTheme();
      this.recolour();
    });
    byId("reset").hidden = !this.images.drawings || this.images.ways < 5;
  }

  #shortcut(event) {
    if (!(event.ctrlKey || event.metaKey) || event.altKey || event.target.matches("input.name")) return;
    const key = event.key.toLowerCase();
    const again = key === "y" || (key === "z" && event.shiftKey);
    if (again) this.store.redo();
    else if (key === "z") this.store.undo();
    else return;
    event.preventDefault();
  }

  // What is drawn has changed: show it, and ask anew.
  changed() {
    const now = this.store.now;
    this.classes.show(now);
    this.query.show(now.query);
    byId("undo").disabled = !this.store.canUndo;
    byId("redo").disabled = !this.store.canRedo;
    // The examples that the queries stand for may have been drawn over or removed.
    byId("next").hidden = !this.images.drawings || !opening().classes.every((one, i) => this.#isOpening(one, i));
    this.showSeen();
    this.ask();
  }

  #isOpening(one, i) {
    const strokes = this.store.now.classes[i]?.examples[0]?.strokes;
    return strokes?.length === one.examples[0].strokes.length && strokes[0].length === one.examples[0].strokes[0].length;
  }

  showSeen() {
    const { query } = this.store.now;
    const color = getComputedStyle(this.seen).color;
    const canvas = query ? preview(levelsFor(query, this.images), this.images, color) : make("span", { class: "blank" });
    this.seen.replaceChildren(canvas, make("span", {}, t("seen")));
  }

  // The classes that have an example, and the task for the learners; null if they are too few.
  #task() {
    const drawn = this.store.now.classes
      .map((one) => ({ ...one, examples: one.examples.filter(Boolean) }))
      .filter((one) => one.examples.length);
    this.symbols = drawn.map((one) => ({ name: one.name, picture: () => this.#thumbnail(one.examples[0]) }));
    if (drawn.length < 2) return null;
    const bytes = (drawing) => levelsFor(drawing, this.images);
    return {
      classes: drawn.map((one) => one.examples.map(bytes)),
      names: drawn.map((one) => one.name),
      query: this.store.now.query ? bytes(this.store.now.query) : null,
    };
  }

  #thumbnail(drawing) {
    return preview(levelsFor(drawing, this.images), this.images, getComputedStyle(document.body).color);
  }

  ask() {
    this.task = this.#task();
    if (!this.task) {
      this.asker.forget();
      this.answer = null;
      this.notice(t("needTwo"), "hint");
      this.showAnswer();
      return;
    }
    this.notice(this.task.query ? "" : t("needQuery"), "hint");
    byId("answers").classList.add("is-working");
    if (!this.answer) byId("time").textContent = t("working");
    this.asker.ask(this.task);
  }

  answered(answer) {
    byId("answers").classList.remove("is-working");
    this.notice(this.task?.query ? "" : t("needQuery"), "hint");
    this.answer = answer;
    this.showAnswer();
    this.say(this.answers.spoken(this.player.step));
  }

  showAnswer(stepped = false) {
    this.answers.show(this.answer, this.symbols, this.player.step);
    const ms = this.answer?.milliseconds;
    byId("time").textContent = ms === undefined ? "" : t("milliseconds", { ms: Math.max(1, Math.round(ms)) });
    if (stepped) this.say(this.answers.spoken(this.player.step));
  }

  async upload(files, then) {
    try {
      const drawings = [];
      for (const file of files.slice(0, this.images.shots)) {
        drawings.push({ levels: await levelsOf(file, this.images) });
      }
      if (drawings.length) then(drawings);
    } catch (error) {
      this.complain(error);
    }
  }

  async download(id) {
    if (!this.task) return;
    try {
      const blob = await model(this.task, id);
      const link = make("a", { href: URL.createObjectURL(blob), download: `${id}-adapted.safetensors` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    } catch (error) {
      this.complain(error);
    }
  }

  complain(error) {
    byId("answers").classList.remove("is-working");
    if (!(error instanceof BadPicture) && !error.key) throw error;
    this.notice(t(error.key, error.values), "error");
  }

  // A sentence above the drawings: what is amiss, or what to do next. Errors stay until something changes.
  notice(text, kind) {
    const place = byId("notice");
    place.textContent = text;
    place.hidden = !text;
    place.dataset.kind = kind;
  }

  say(text) {
    byId("spoken").textContent = text;
  }

  translate() {
    translate();
    byId("language").textContent = t("language");
    byId("language").lang = locale() === "en" ? "zh-CN" : "en";
    byId("language").setAttribute("aria-label", t("languageLabel"));
    for (const id of ["theme", "undo", "redo"]) relabel(byId(id), t(id));
    const [images, steps, methods] = t("about");
    const privacy = t(this.images.server ? "privateOnServer" : "privateInBrowser");
    const own = this.images.learners.some((learner) => learner.id === "maml");
    const about = own ? [images, steps, methods, privacy] : [steps, privacy];
    byId("about").replaceChildren(...about.map((text) => make("p", {}, text)));
    this.classes.translate();
    this.query.translate();
    this.answers.translate();
    this.player.translate();
    this.showSeen();
    if (this.symbols) this.showAnswer();
    if (byId("notice").dataset.kind === "hint") this.notice(this.task ? (this.task.query ? "" : t("needQuery")) : t("needTwo"), "hint");
  }

  recolour() {
    this.classes.repaint();
    this.query.repaint();
    this.showSeen();
    this.showAnswer();
  }
}

theme();
translate();
try {
  new Page(await setup());
} catch (error) {
  if (!error.key) throw error;
  byId("notice").textContent = t(error.key, error.values);
  byId("notice").hidden = false;
}
