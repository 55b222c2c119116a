// What is drawn, as values that never change, with a history to undo and redo.
//
// A drawing is null (nothing), {strokes} or {levels}: a list of lists of [x, y] from 0 to 1, or the bytes of an image.
// A class is {id, name, examples}, and the whole is {classes, query}.

const MOST_UNDO = 200;

export class Store {
  #past = [];
  #future = [];
  #listeners = new Set();
  #ids = 0;

  constructor(limits, start) {
    this.limits = limits;
    this.now = this.#numbered(start);
  }

  subscribe(listener) {
    this.#listeners.add(listener);
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  undo() {
    this.#move(this.#past, this.#future);
  }

  redo() {
    this.#move(this.#future, this.#past);
  }

  #move(from, to) {
    if (!from.length) return;
    to.push(this.now);
    this.now = from.pop();
    this.#tell();
  }

  #change(next) {
    this.#past.push(this.now);
    if (this.#past.length > MOST_UNDO) this.#past.shift();
    this.#future = [];
    this.now = next;
    this.#tell();
  }

  #tell() {
    for (const listener of this.#listeners) listener(this.now);
  }

  #numbered(content) {
    const classes = content.classes.map((one) => ({ ...one, id: one.id ?? ++this.#ids }));
    return { classes, query: content.query };
  }

  #classes(change) {
    this.#change({ ...this.now, classes: change(this.now.classes) });
  }

  replace(content) {
    this.#change(this.#numbered(content));
  }

  setQuery(drawing) {
    this.#change({ ...this.now, query: drawing });
  }

  setExample(id, index, drawing) {
    this.#classes((classes) =>
      classes.map((one) => (one.id === id ? { ...one, examples: one.examples.with(index, drawing) } : one)),
    );
  }

  // Put drawings into a class from a place on, adding examples as far as there may be.
  fill(id, index, drawings) {
    this.#classes((classes) =>
      classes.map((one) => {
        if (one.id !== id) return one;
        const examples = [...one.examples];
        drawings.forEach((drawing, k) => {
          if (index + k < this.limits.shots) examples[index + k] = drawing;
        });
        return { ...one, examples };
      }),
    );
  }

  addExample(id) {
    this.#classes((classes) =>
      classes.map((one) =>
        one.id === id && one.examples.length < this.limits.shots ? { ...one, examples: [...one.examples, null] } : one,
      ),
    );
  }

  // Erase a drawing; an example beside others goes away altogether.
  erase(id, index) {
    const one = this.now.classes.find((each) => each.id === id);
    if (one.examples.length === 1) this.setExample(id, 0, null);
    else this.#classes((classes) => classes.map((c) => (c === one ? { ...c, examples: c.examples.toSpliced(index, 1) } : c)));
  }

  rename(id, name) {
    this.#classes((classes) => classes.map((one) => (one.id === id ? { ...one, name } : one)));
  }

  addClass() {
    if (this.now.classes.length >= this.limits.ways) return;
    const taken = new Set(this.now.classes.map((one) => one.name));
    const letters = [..."ABCDEFGHIJKLMNOPQRSTUVWXYZ"];
    const name = letters.find((letter) => !taken.has(letter)) ?? String(this.now.classes.length + 1);
    this.#classes((classes) => [...classes, { id: ++this.#ids, name, examples: [null] }]);
  }

  removeClass(id) {
    this.#classes((classes) => classes.filter((one) => one.id !== id));
  }

  clear() {
    const classes = this.now.classes.map((one) => ({ ...one, examples: [null] }));
    this.#change({ classes, query: null });
  }
}
