// Making elements.

// `make("button", {class: "quiet", "aria-label": "Undo", onclick: f}, child, "text")`
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function icon(name) {
  return svg("svg", { "aria-hidden": "true", focusable: "false" }, svg("use", { href: `#i-${name}` }));
}

// A button with an icon and no text, which is read aloud and shown on hover.
export function iconButton(name, label, onclick, kind = "quiet icon") {
  const button = make("button", { type: "button", class: kind, onclick }, icon(name));
  relabel(button, label);
  return button;
}

export function relabel(element, label) {
  element.setAttribute("aria-label", label);
  element.title = label;
}

export const byId = (id) => document.getElementById(id);
