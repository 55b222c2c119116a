// A square to draw on, by mouse, finger, pen or keyboard. It shows a drawing and reports a new one after each stroke.

import { t } from "./i18n.js";

const NEAR = 0.006; // points closer than this to the last one are left out
const MOST_POINTS = 4000;
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pad {
  #canvas = document.createElement("canvas");
  #drawing = null;
  #stroke = null; // the stroke that is being drawn
  #pointer = null;
  #cursor = null; // the keyboard's pen: {x, y, down}
  #changed;
  #spoken;

  // `changed(drawing)` is called after every stroke, `spoken(text)` with what a screen reader should say.
  constructor(changed, { spoken = () => {}, line = 0.045 } = {}) {
    this.#changed = changed;
    this.#spoken = spoken;
    this.line = line;
    const canvas = this.#canvas;
    canvas.className = "pad";
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", (event) => this.#up(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => this.#leave());
    new ResizeObserver(() => this.paint()).observe(canvas);
  }

  get element() {
    return this.#canvas;
  }

  set label(text) {
    this.#canvas.setAttribute("aria-label", text);
  }

  show(drawing) {
    if (drawing === this.#drawing) return;
    this.#drawing = drawing;
    this.paint();
  }

  get #strokes() {
    return this.#drawing?.strokes ?? [];
  }

  #at(event) {
    const box = this.#canvas.getBoundingClientRect();
    const clamp = (value) => Math.max(0, Math.min(1, value));
    return [clamp((event.clientX - box.left) / box.width), clamp((event.clientY - box.top) / box.height)];
  }

  #down(event) {
    if (event.button !== 0 || this.#pointer !== null) return;
    event.preventDefault();
    this.#canvas.focus({ preventScroll: true });
    this.#canvas.setPointerCapture(event.pointerId);
    this.#cursor = null;
    this.#pointer = event.pointerId;
    this.#stroke = [this.#at(event)];
    this.paint();
  }

  #move(event) {
    if (event.pointerId !== this.#pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) this.#extend(this.#at(each));
    this.paint();
  }

  #up(event) {
    if (event.pointerId !== this.#pointer) return;
    this.#pointer = null;
    if (event.type === "pointerup") this.#finish();
    else this.#stroke = null;
    this.paint();
  }

  #extend(point) {
    const last = this.#stroke.at(-1);
    if (Math.hypot(point[0] - last[0], point[1] - last[1]) >= NEAR && this.#stroke.length < MOST_POINTS) {
      this.#stroke.push(point);
    }
  }

  #finish() {
    if (!this.#stroke) return;
    const strokes = [...this.#strokes, this.#stroke];
    this.#stroke = null;
    this.#drawing = { strokes };
    this.#changed(this.#drawing);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in KEYS) {
      this.#steer(KEYS[event.key], event.shiftKey ? 0.01 : 0.04);
    } else if (event.key === " " || event.key === "Enter") {
      this.#cursor ??= { x: 0.5, y: 0.5 };
      if (this.#stroke) this.#finish();
      else this.#stroke = [[this.#cursor.x, this.#cursor.y]];
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.#stroke = null;
      this.#changed(null);
    } else if (event.key === "Escape" && this.#stroke) {
      this.#stroke = null;
    } else {
      return;
    }
    event.preventDefault();
    if (this.#cursor) {
      const [x, y] = [this.#cursor.x, this.#cursor.y].map((value) => `${Math.round(100 * value)} %`);
      this.#spoken(t("penAt", { state: t(this.#stroke ? "penDown" : "penUp"), x, y }));
    }
    this.paint();
  }

  #steer([dx, dy], length) {
    const from = this.#cursor ?? { x: 0.5, y: 0.5 };
    const clamp = (value) => Math.max(0.04, Math.min(0.96, value));
    this.#cursor = { x: clamp(from.x + dx * length), y: clamp(from.y + dy * length) };
    if (this.#stroke) this.#extend([this.#cursor.x, this.#cursor.y]);
  }

  #leave() {
    if (this.#pointer === null) this.#finish();
    this.#cursor = null;
    this.paint();
  }

  paint() {
    const canvas = this.#canvas;
    const side = Math.round(canvas.clientWidth * (window.devicePixelRatio || 1));
    if (!side) return;
    if (canvas.width !== side || canvas.height !== side) canvas.width = canvas.height = side;
    const context = canvas.getContext("2d");
    const style = getComputedStyle(canvas);
    context.clearRect(0, 0, side, side);
    if (this.#drawing?.preview) {
      paintLevels(context, this.#drawing.preview, side);
    }
    context.strokeStyle = context.fillStyle = style.color;
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = Math.max(this.line * side, 2.5);
    for (const stroke of this.#stroke ? [...this.#strokes, this.#stroke] : this.#strokes) line(context, stroke, side);
    if (this.#cursor) {
      context.strokeStyle = style.caretColor;
      context.lineWidth = Math.max(1.5, side / 100);
      context.beginPath();
      context.arc(this.#cursor.x * side, this.#cursor.y * side, side * (this.#stroke ? 0.03 : 0.05), 0, 7);
      context.stroke();
    }
  }
}

// A stroke as a smooth line: through the middles of its points.
function line(context, points, side) {
  const at = points.map(([x, y]) => [x * side, y * side]);
  context.beginPath();
  context.moveTo(...at[0]);
  for (let i = 1; i < at.length - 1; i++) {
    context.quadraticCurveTo(...at[i], (at[i][0] + at[i + 1][0]) / 2, (at[i][1] + at[i + 1][1]) / 2);
  }
  context.lineTo(...at.at(-1));
  context.stroke();
}

// A small image, enlarged with visible pixels. `image` is an ImageBitmap or a canvas.
function paintLevels(context, image, side) {
  context.imageSmoothingEnabled = false;
  context.drawImage(image, 0, 0, side, side);
}

// A canvas that shows levels: drawings as ink on nothing, photographs as they are.
export function preview(levels, { size, channels, drawings }, color) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(size, size);
  const [r, g, b] = (color?.match(/\d+/g) ?? [0, 0, 0]).map(Number);
  for (let i = 0; i < size * size; i++) {
    const level = (channel) => levels[(channels === 3 ? channel : 0) * size * size + i];
    pixels.data.set(drawings ? [r, g, b, levels[i]] : [level(0), level(1), level(2), 255], 4 * i);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}
