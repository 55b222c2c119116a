// The slider over the steps of the inner loop, and the button that plays them.

import { byId, relabel } from "./dom.js";
import { t } from "./i18n.js";

const PAUSE = 420; // milliseconds at each step

export class Player {
  #timer = null;

  constructor(steps, moved) {
    this.steps = steps;
    this.moved = moved;
    this.slider = byId("step");
    this.slider.max = this.slider.value = steps;
    this.slider.addEventListener("input", () => {
      this.pause();
      this.#show();
      moved();
    });
    byId("play").addEventListener("click", () => (this.#timer ? this.pause() : this.play()));
    this.#show();
  }

  get step() {
    return Number(this.slider.value);
  }

  play() {
    if (this.step === this.steps) this.#go(0);
    this.#timer = setInterval(() => {
      this.#go(this.step + 1);
      if (this.step === this.steps) this.pause();
    }, PAUSE);
    this.translate();
  }

  pause() {
    clearInterval(this.#timer);
    this.#timer = null;
    this.translate();
  }

  #go(step) {
    this.slider.value = step;
    this.#show();
    this.moved();
  }

  #show() {
    const text = t("stepValue", { step: this.step, steps: this.steps });
    byId("step-value").textContent = text;
    this.slider.setAttribute("aria-valuetext", text);
    this.slider.style.setProperty("--filled", `${(100 * this.step) / this.steps}%`);
  }

  translate() {
    byId("step-label").textContent = t("stepLabel");
    const button = byId("play");
    relabel(button, t(this.#timer ? "pause" : "play"));
    button.querySelector("use").setAttribute("href", this.#timer ? "#i-pause" : "#i-play");
    this.#show();
  }
}
