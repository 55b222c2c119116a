// The list of symbols: a tile for each, with its name and its examples.

import { Cell } from "./cell.js";
import { iconButton, make, relabel } from "./dom.js";
import { t } from "./i18n.js";

export class Classes {
  #tiles = new Map();
  #adder;

  // `on` has files(list, id, index) and spoken(text).
  constructor(list, store, images, on) {
    this.list = list;
    this.store = store;
    this.images = images;
    this.on = on;
    this.#adder = make("li", { class: "tile adder" }, iconButton("plus", t("addClass"), () => this.#add(), "add"));
    list.append(this.#adder);
  }

  #add() {
    this.store.addClass();
    this.#tiles.get(this.store.now.classes.at(-1).id)?.cells[0].pad.element.focus();
  }

  show({ classes }) {
    const ids = new Set(classes.map((one) => one.id));
    for (const [id, tile] of this.#tiles) {
      if (ids.has(id)) continue;
      tile.element.remove();
      this.#tiles.delete(id);
    }
    classes.forEach((one, number) => {
      if (!this.#tiles.has(one.id)) this.#tiles.set(one.id, new Tile(this, one.id));
      const tile = this.#tiles.get(one.id);
      if (this.list.children[number] !== tile.element) this.list.insertBefore(tile.element, this.list.children[number]);
      tile.show(one, number + 1, classes.length);
    });
    this.#adder.hidden = classes.length >= this.store.limits.ways;
  }

  translate() {
    relabel(this.#adder.firstChild, t("addClass"));
    for (const tile of this.#tiles.values()) tile.translate();
  }

  repaint() {
    for (const tile of this.#tiles.values()) tile.cells.forEach((cell) => cell.repaint());
  }
}

class Tile {
  constructor(owner, id) {
    this.owner = owner;
    this.id = id;
    this.cells = [];
    const { store } = owner;
    this.name = make("input", {
      class: "name",
      maxlength: store.limits.name,
      spellcheck: "false",
      autocomplete: "off",
      onchange: () => store.rename(id, this.name.value.trim() || String(this.number)),
    });
    this.more = iconButton("plus", "", () => this.#more(), "tool");
    this.remover = iconButton("close", "", () => store.removeClass(id), "tool");
    this.examples = make("div", { class: "examples" });
    const head = make("div", { class: "tile-head" }, this.name, this.more, this.remover);
    this.element = make("li", { class: "tile" }, head, this.examples);
  }

  #more() {
    this.owner.store.addExample(this.id);
    this.cells.at(-1).pad.element.focus();
  }

  show(one, number, count) {
    this.one = one;
    this.number = number;
    const { store, images, on } = this.owner;
    while (this.cells.length > one.examples.length) this.cells.pop().element.remove();
    while (this.cells.length < one.examples.length) {
      const index = this.cells.length;
      const cell = new Cell(
        images,
        {
          changed: (drawing) => store.setExample(this.id, index, drawing),
          erased: () => store.erase(this.id, index),
          files: (files) => on.files(files, this.id, index),
          spoken: on.spoken,
        },
        () => t("examplePad", { number: index + 1, name: this.one.name }),
      );
      this.cells.push(cell);
      this.examples.append(cell.element);
    }
    one.examples.forEach((drawing, index) => this.cells[index].show(drawing));
    this.element.dataset.shots = one.examples.length;
    if (document.activeElement !== this.name) this.name.value = one.name;
    this.more.hidden = one.examples.length >= store.limits.shots;
    this.remover.hidden = count <= 2;
    this.translate();
  }

  translate() {
    const name = this.one.name;
    this.name.setAttribute("aria-label", t("className", { number: this.number }));
    relabel(this.more, t("addExample", { name }));
    relabel(this.remover, t("removeClass", { name }));
    this.cells.forEach((cell) => cell.translate());
  }
}
