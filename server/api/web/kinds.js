/** What a file is, by its first bytes. Its name and the type that the browser states do not count. */

const text = (bytes, from, to) => String.fromCharCode(...bytes.subarray(from, to));
const starts = (bytes, ...values) => values.every((value, index) => bytes[index] === value);
const HEAD_BYTES = 65536;

/** Kinds that every browser shows. */
const SHOWN = ["jpeg", "png", "gif", "webp", "bmp"];

function kind(bytes) {
  if (starts(bytes, 0xff, 0xd8, 0xff)) return "jpeg";
  if (starts(bytes, 0x89, 0x50, 0x4e, 0x47)) return "png";
  if (text(bytes, 0, 4) === "GIF8") return "gif";
  if (text(bytes, 0, 4) === "RIFF" && text(bytes, 8, 12) === "WEBP") return "webp";
  if (text(bytes, 0, 2) === "BM") return "bmp";
  if (text(bytes, 4, 8) === "ftyp") return "heif"; // HEIC, AVIF, and videos
  if (["II*\0", "MM\0*", "II+\0", "MM\0+"].includes(text(bytes, 0, 4))) return "tiff"; // and many camera raws
  return null;
}

/**
 * `known`: it may be a picture that the server reads; if not, `head` is enough for the server to say what it is.
 * `shown`: the browser can measure and show it. `moving`: it may have several frames, which only the server counts.
 */
export async function look(file) {
  const head = file.slice(0, HEAD_BYTES);
  const bytes = new Uint8Array(await head.arrayBuffer());
  const found = kind(bytes);
  const mark = { png: "acTL", webp: "ANIM" }[found];
  const moving = found === "gif" || (mark !== undefined && new TextDecoder("latin1").decode(bytes).includes(mark));
  return { known: found !== null, shown: SHOWN.includes(found), moving, head };
}

const THUMB = 176;

/** Size of a picture that the browser can show, and an address of a small copy of it. Null if it can't after all. */
export async function measure(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return null;
  }
  const { width, height } = bitmap;
  const ratio = Math.min(1, THUMB / Math.min(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const small = await new Promise((resolve) => canvas.toBlob(resolve, "image/webp", 0.8));
  return { size: [width, height], thumb: small && URL.createObjectURL(small) };
}
