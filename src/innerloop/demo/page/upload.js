// Pictures in place of drawings. They are decoded here: the server never sees a file.

import { fromPhotograph, fromPicture } from "./raster.js";

const MOST_BYTES = 10e6;
const MOST_PIXELS = 40e6;
const KINDS = /^image\/(png|jpeg|webp|gif|bmp)$/;
const SIDE = 420; // pixels in which ink is looked for

export class BadPicture extends Error {
  // `key` names the text that says what is wrong.
  constructor(key, name) {
    super(key);
    this.key = key;
    this.values = { name };
  }
}

// The levels of a picture file, for images of this kind.
export async function levelsOf(file, images) {
  const name = file.name || "?";
  if (!KINDS.test(file.type)) throw new BadPicture("errorKind", name);
  if (file.size > MOST_BYTES || (await declaredPixels(file)) > MOST_PIXELS) throw new BadPicture("errorLarge", name);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new BadPicture("errorKind", name);
  }
  try {
    if (bitmap.width * bitmap.height > MOST_PIXELS) throw new BadPicture("errorLarge", name);
    if (!images.drawings) return fromPhotograph(middle(bitmap, images.size), images);
    const { grey, width, height } = greyOf(bitmap);
    const levels = fromPicture(grey, width, height, images);
    if (!levels) throw new BadPicture("errorBlank", name);
    return levels;
  } finally {
    bitmap.close();
  }
}

// The number of pixels that a file's header declares, so that a small file of a huge picture is not decoded.
// PNG, GIF and BMP say it at a fixed place. JPEG and WebP cannot declare more than 65535 (or 16384) a side.
async function declaredPixels(file) {
  const head = new DataView(await file.slice(0, 32).arrayBuffer());
  if (head.byteLength < 26) return 0;
  if (head.getUint32(0) === 0x89504e47) return head.getUint32(16) * head.getUint32(20);
  if (head.getUint32(0) === 0x47494638) return head.getUint16(6, true) * head.getUint16(8, true);
  if (head.getUint16(0) === 0x424d) return Math.abs(head.getInt32(18, true) * head.getInt32(22, true));
  return 0;
}

// The picture's light on white paper, at most SIDE pixels wide and high.
function greyOf(bitmap) {
  const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * scale));
  const height = Math.max(1, Math.round(bitmap.height * scale));
  const { data } = drawn(width, height, (context) => context.drawImage(bitmap, 0, 0, width, height));
  const grey = new Uint8Array(width * height);
  for (let i = 0; i < grey.length; i++) grey[i] = 0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2];
  return { grey, width, height };
}

function middle(bitmap, size) {
  const side = Math.min(bitmap.width, bitmap.height);
  const [x, y] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
  return drawn(size, size, (context) => context.drawImage(bitmap, x, y, side, side, 0, 0, size, size)).data;
}

function drawn(width, height, draw) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  draw(context);
  return context.getImageData(0, 0, width, height);
}

// Ask for picture files.
export function choose(several, then) {
  const input = document.createElement("input");
  input.type = "file";
  input.accept = "image/png,image/jpeg,image/webp,image/gif,image/bmp";
  input.multiple = several;
  input.addEventListener("change", () => then([...input.files]));
  input.click();
}
