// From strokes and pictures to the small images that the networks take.
//
// An Omniglot character fills a frame of 105 by 105 pixels like this: its larger side is about 69 pixels, its middle is
// near the middle of the frame, and its lines are 5 pixels wide (medians over the data set). The 28 by 28 images that
// networks are trained on take one pixel of every 3.75, as Pillow's nearest neighbour does.

export const FRAME = 105;
const SIDE = 69;
const LINE = 5;
const MOST_GROWTH = 4; // a dot stays a dot

// The grey levels of a drawing, `size * size * channels` bytes, where 255 is ink. Drawings are on paper of 0.
export function fromStrokes(strokes, { size, channels }) {
  const path = normalised(strokes);
  const levels = new Uint8Array(size * size);
  const radius = LINE / 2;
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      const x = sampled(column, size);
      const y = sampled(row, size);
      if (touches(path, x, y, radius)) levels[row * size + column] = 255;
    }
  }
  // A dot may lie between the pixels that are sampled.
  if (path.length && !levels.includes(255)) levels[Math.floor(size / 2) * (size + 1)] = 255;
  return repeated(levels, channels);
}

// The pixel of the frame that a pixel of the small image shows.
export function sampled(index, size) {
  return Math.floor(((index + 0.5) * FRAME) / size) + 0.5;
}

// Strokes in the frame's pixels: the middle of the drawing in the middle, its larger side as large as Omniglot's.
export function normalised(strokes) {
  const points = strokes.flat();
  if (!points.length) return [];
  const [left, right] = range(points.map((point) => point[0]));
  const [top, bottom] = range(points.map((point) => point[1]));
  const extent = Math.max(right - left, bottom - top);
  const scale = Math.min((SIDE - LINE) / Math.max(extent, 1e-6), MOST_GROWTH * FRAME);
  const middle = [(left + right) / 2, (top + bottom) / 2];
  return strokes.map((stroke) =>
    stroke.map(([x, y]) => [FRAME / 2 + (x - middle[0]) * scale, FRAME / 2 + (y - middle[1]) * scale]),
  );
}

function range(values) {
  return [Math.min(...values), Math.max(...values)];
}

function touches(path, x, y, radius) {
  for (const stroke of path) {
    for (let i = 0; i < stroke.length; i++) {
      if (distance2(x, y, stroke[i], stroke[Math.min(i + 1, stroke.length - 1)]) <= radius * radius) return true;
    }
  }
  return false;
}

// The squared distance of a point from a line between two others.
function distance2(x, y, [ax, ay], [bx, by]) {
  const dx = bx - ax;
  const dy = by - ay;
  const length2 = dx * dx + dy * dy;
  const along = length2 ? Math.max(0, Math.min(1, ((x - ax) * dx + (y - ay) * dy) / length2)) : 0;
  return (x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2;
}

function repeated(levels, channels) {
  if (channels === 1) return levels;
  const all = new Uint8Array(levels.length * channels);
  for (let channel = 0; channel < channels; channel++) all.set(levels, channel * levels.length);
  return all;
}

// The grey levels of a picture of a drawing: its ink is found, centred, scaled and brought to the usual line width.
// Null if nothing stands out. `grey` has width * height levels from 0 to 255.
export function fromPicture(grey, width, height, { size, channels }) {
  const ink = inked(grey, width, height);
  const box = ink && bounds(ink, width, height);
  if (!box) return null;
  let mask = framed(ink, width, height, box);
  const wide = lineWidth(mask);
  for (let k = 0; k < Math.round((wide - LINE) / 2) && lineWidth(mask) > LINE; k++) mask = changed(mask, true);
  for (let k = 0; k < Math.round((LINE - wide) / 2); k++) mask = changed(mask, false);
  const levels = new Uint8Array(size * size);
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      const at = Math.floor(sampled(row, size)) * FRAME + Math.floor(sampled(column, size));
      levels[row * size + column] = mask[at] ? 255 : 0;
    }
  }
  return repeated(levels, channels);
}

// Which pixels are ink: those on the other side of Otsu's threshold than the border.
function inked(grey, width, height) {
  const counts = new Array(256).fill(0);
  for (const level of grey) counts[level]++;
  const total = grey.length;
  let sum = 0;
  counts.forEach((count, level) => (sum += count * level));
  let [below, sumBelow, best, threshold] = [0, 0, 0, -1];
  for (let level = 0; level < 255; level++) {
    below += counts[level];
    sumBelow += counts[level] * level;
    if (!below || below === total) continue;
    const gap = sumBelow / below - (sum - sumBelow) / (total - below);
    const between = below * (total - below) * gap * gap;
    if (between > best && Math.abs(gap) > 20) [best, threshold] = [between, level];
  }
  if (threshold < 0) return null;
  let border = 0;
  for (let x = 0; x < width; x++) border += (grey[x] > threshold) + (grey[(height - 1) * width + x] > threshold);
  for (let y = 0; y < height; y++) border += (grey[y * width] > threshold) + (grey[(y + 1) * width - 1] > threshold);
  const paperIsLight = border >= width + height;
  return Uint8Array.from(grey, (level) => (level > threshold !== paperIsLight ? 1 : 0));
}

// The rows and columns that ink spans, without the few specks that a photograph has.
function bounds(ink, width, height) {
  const columns = new Array(width).fill(0);
  const rows = new Array(height).fill(0);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (ink[y * width + x]) {
        columns[x]++;
        rows[y]++;
      }
    }
  }
  const span = (counts) => {
    const least = Math.max(1, Math.floor(0.002 * Math.max(width, height)));
    const first = counts.findIndex((count) => count >= least);
    const last = counts.length - 1 - [...counts].reverse().findIndex((count) => count >= least);
    return first < 0 ? null : [first, last];
  };
  const [across, down] = [span(columns), span(rows)];
  return across && down ? { left: across[0], right: across[1], top: down[0], bottom: down[1] } : null;
}

// The inked part, scaled into the frame. A pixel of the frame is ink if half of what it covers is.
function framed(ink, width, height, { left, right, top, bottom }) {
  const scale = SIDE / Math.max(right - left + 1, bottom - top + 1);
  const mask = new Uint8Array(FRAME * FRAME);
  const [cx, cy] = [(left + right + 1) / 2, (top + bottom + 1) / 2];
  const N = 4;
  for (let row = 0; row < FRAME; row++) {
    for (let column = 0; column < FRAME; column++) {
      let hits = 0;
      for (let i = 0; i < N * N; i++) {
        const x = Math.floor(cx + (column + ((i % N) + 0.5) / N - FRAME / 2) / scale);
        const y = Math.floor(cy + (row + (Math.floor(i / N) + 0.5) / N - FRAME / 2) / scale);
        if (x >= 0 && y >= 0 && x < width && y < height && ink[y * width + x]) hits++;
      }
      mask[row * FRAME + column] = hits * 3 >= N * N ? 1 : 0;
    }
  }
  return mask;
}

// The mean width of the lines: twice their area by the length of their outline.
function lineWidth(mask) {
  let [area, outline] = [0, 0];
  for (let i = 0; i < mask.length; i++) {
    if (!mask[i]) continue;
    area++;
    for (const step of [1, -1, FRAME, -FRAME]) outline += mask[i + step] ? 0 : 1;
  }
  return outline ? (2.4 * area) / outline : 0;
}

// The mask with its edge taken away (thinner), or with an edge added.
function changed(mask, thinner) {
  return mask.map((own, i) => {
    const around = [1, -1, FRAME, -FRAME].map((step) => mask[i + step] ?? 0);
    return thinner ? Math.min(own, ...around) : Math.max(own, ...around);
  });
}

// A photograph: its middle square, as it is, channel by channel. `pixels` is RGBA of size * size.
export function fromPhotograph(pixels, { size, channels }) {
  const levels = new Uint8Array(size * size * channels);
  for (let i = 0; i < size * size; i++) {
    const [r, g, b] = pixels.subarray(4 * i, 4 * i + 3);
    if (channels === 3) [r, g, b].forEach((level, channel) => (levels[channel * size * size + i] = level));
    else levels[i] = Math.round(0.299 * r + 0.587 * g + 0.114 * b);
  }
  return levels;
}
