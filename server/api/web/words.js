/** Quantities, sizes and parameters in words. */

const number = (value, digits = 0) => value.toLocaleString("en", { maximumFractionDigits: digits });

export const decimal = (value) => number(value, 2);
/** A number with its digits in groups of three. */
export const count = (value) => number(value);
export const plural = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;
export const size = ([width, height]) => `${number(width)} × ${number(height)}`;
export const megapixels = ([width, height]) => `${number((width * height) / 1e6, width * height < 1e7 ? 1 : 0)} MP`;

export function duration(seconds) {
  if (seconds < 1) return "a second";
  if (seconds < 90) return `${number(seconds)} s`;
  return seconds < 5400 ? `${number(seconds / 60)} min` : `${number(seconds / 3600, 1)} h`;
}

export function bytes(value) {
  if (value < 1e5) return `${number(value / 1e3, 1)} kB`;
  return value < 1e9 ? `${number(value / 1e6, 1)} MB` : `${number(value / 1e9, 1)} GB`;
}

export const percent = (share) => `${Math.round(100 * share)} %`;

export function moment(iso) {
  const [then, now] = [new Date(iso), new Date()];
  const today = then.toDateString() === now.toDateString();
  return then.toLocaleString(undefined, today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}

/** A message of the server as a sentence: its long numbers in groups, the first letter large. Names stay as they are. */
export function sentence(message) {
  const grouped = message.replace(/(?<![\w.])\d{5,}(?!\w|\.\w)/g, (digits) => number(Number(digits)));
  const whole = /[.!?…`]$/.test(grouped) ? grouped : `${grouped}.`;
  return whole.charAt(0).toUpperCase() + whole.slice(1);
}

/** "4x", "4k", "640x480" or "24mp": the requested size, short enough for a file name. */
export function wanted({ scale, target, size: exact, megapixels }) {
  if (megapixels) return `${number(megapixels, 2)}mp`;
  return target ?? (exact ? (Array.isArray(exact) ? exact.join("x") : exact) : `${number(scale, 2)}x`);
}

/** The name under which a result is saved, with the folders of its source. */
export function outputName(name, params) {
  return `${name.replace(/\.[^./]*$/, "")}-${params.sweep ? "creativities" : wanted(params)}.${params.format}`;
}
