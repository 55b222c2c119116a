// The symbols that the page opens with: strokes of our own, five symbols and each of them drawn a second time.

// "x,y x,y ..." in hundredths of the square, strokes apart by "|", as points from 0 to 1.
function strokes(text) {
  return {
    strokes: text.split("|").map((stroke) => stroke.trim().split(/\s+/).map((point) => point.split(",").map((v) => v / 100))),
  };
}

function arc(cx, cy, rx, ry, from, to, turns = 36) {
  return Array.from({ length: turns + 1 }, (_, i) => {
    const angle = ((from + ((to - from) * i) / turns) * Math.PI) / 180;
    return `${(cx + rx * Math.cos(angle)).toFixed(1)},${(cy + ry * Math.sin(angle)).toFixed(1)}`;
  }).join(" ");
}

function spiral(cx, cy, most, from, to, squeeze = 1) {
  return Array.from({ length: 41 }, (_, i) => {
    const angle = ((from + ((to - from) * i) / 40) * Math.PI) / 180;
    const radius = (most * (i + 4)) / 44;
    return `${(cx + radius * Math.cos(angle)).toFixed(1)},${(cy + squeeze * radius * Math.sin(angle)).toFixed(1)}`;
  }).join(" ");
}

const SYMBOLS = [
  // a loop with a tail below
  [`${arc(50, 32, 19, 18, 80, 430)} 55,62 50,86`, `${arc(53, 32, 17, 20, 60, 415)} 59,56 52,72 43,86`],
  // a loop with a tail above
  ["50,14 45,38 " + arc(50, 67, 19, 18, 200, 550), "66,12 46,34 " + arc(50, 66, 20, 19, 215, 560)],
  // a loop that is crossed
  [`${arc(50, 50, 25, 25, -90, 270)} | 16,50 84,50`, `${arc(49, 50, 22, 28, -70, 285)} | 14,56 86,44`],
  // a loop with a dot
  [`${arc(50, 50, 27, 27, -90, 270)} | 48,50 52,50`, `${arc(51, 50, 30, 23, -110, 245)} | 53,51 56,53`],
  // two loops
  [`${arc(50, 31, 16, 16, 90, 450)} ${arc(50, 67, 20, 20, -90, 270)}`, `${arc(52, 32, 14, 18, 100, 450)} ${arc(48, 69, 22, 17, -80, 275)}`],
];

const NAMES = ["A", "B", "C", "D", "E"];

export const QUERIES = SYMBOLS.map(([, second]) => strokes(second));

export function opening() {
  return {
    classes: SYMBOLS.map(([first], i) => ({ name: NAMES[i], examples: [strokes(first)] })),
    query: QUERIES[4],
  };
}

export function empty(classes = 3) {
  return {
    classes: NAMES.slice(0, classes).map((name) => ({ name, examples: [null] })),
    query: null,
  };
}
