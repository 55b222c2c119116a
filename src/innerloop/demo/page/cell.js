// A pad with its tools: erase, upload, and pictures dropped onto it.

import { iconButton, make, relabel } from "./dom.js";
import { t } from "./i18n.js";
import { Pad, preview } from "./pad.js";
import { fromStrokes } from "./raster.js";
import { choose } from "./upload.js";

// The bytes of a drawing for the learners, made once for each drawing.
const made = new WeakMap();

export function levelsFor(drawing, images) {
  if (drawing.levels) return drawing.levels;
  if (!made.has(drawing)) {
    const levels = fromStrokes(drawing.strokes, images);
    // Photographs are dark on light: ink is drawn as black on white for networks that were trained on them.
    made.set(drawing, images.drawings ? levels : levels.map((level) => 255 - level));
  }
  return made.get(drawing);
}

export class Cell {
  // `on` has changed(drawing), erased(), files(list) and spoken(text). `label()` names the pad.
  constructor(images, on, label, { several = true, line } = {}) {
    this.images = images;
    this.label = label;
    this.drawing = undefined;
    this.pad = new Pad((drawing) => (drawing ? on.changed(drawing) : on.erased()), { spoken: on.spoken, line });
    this.eraser = iconButton("erase", t("erase"), () => on.erased(), "tool");
    this.uploader = iconButton("image", t("upload"), () => choose(several, on.files), "tool");
    this.hint = make("span", { class: "empty", "aria-hidden": "true" });
    const tools = make("div", { class: "cell-tools" }, this.uploader, this.eraser);
    this.element = make("div", { class: "cell" }, this.pad.element, this.hint, tools);
    this.element.addEventListener("dragover", (event) => event.preventDefault());
    this.element.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files.length) on.files([...event.dataTransfer.files]);
    });
    this.translate();
  }

  translate() {
    this.pad.label = this.label();
    this.hint.textContent = t("empty");
    relabel(this.eraser, t("erase"));
    relabel(this.uploader, t("upload"));
  }

  show(drawing) {
    if (drawing === this.drawing) return;
    this.drawing = drawing;
    this.element.classList.toggle("is-empty", !drawing);
    this.eraser.disabled = !drawing;
    this.repaint();
  }

  // Anew, as after the colours have changed.
  repaint() {
    const color = getComputedStyle(this.pad.element).color;
    const shown = this.drawing?.levels
      ? { ...this.drawing, preview: preview(this.drawing.levels, this.images, color) }
      : (this.drawing ?? null);
    this.pad.show(shown);
    this.pad.paint();
  }
}
