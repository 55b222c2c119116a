// Light or dark: as the system says, until it is chosen here.

import { recall, remember } from "./i18n.js";

function dark() {
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

export function theme() {
  const chosen = recall("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}

export function nextTheme() {
  const now = document.documentElement.dataset.theme ?? (dark() ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  remember("theme", next);
}
