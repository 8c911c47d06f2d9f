/** Quantities, sizes and parameters in words. */

const number = (value, digits = 0) => value.toLocaleString("en", { maximumFractionDigits: digits });

export const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
export const size = ([width, height]) => `${width} × ${height}`;

export function duration(seconds) {
  if (seconds < 1) return "a second";
  if (seconds < 90) return `${number(seconds)} s`;
  return seconds < 5400 ? `${number(seconds / 60)} min` : `${number(seconds / 3600, 1)} h`;
}

export function bytes(count) {
  if (count < 1e5) return `${number(count / 1e3, 1)} kB`;
  return count < 1e9 ? `${number(count / 1e6, 1)} MB` : `${number(count / 1e9, 1)} GB`;
}

export function moment(iso) {
  const [then, now] = [new Date(iso), new Date()];
  const today = then.toDateString() === now.toDateString();
  return then.toLocaleString(undefined, today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}

/** "4x", "4k" or "640x480": the requested size, short enough for a file name. */
export function wanted({ scale, target, size: exact }) {
  return target ?? (exact ? exact.join("x") : `${number(scale, 2)}x`);
}

/** The name under which a result is saved. */
export function outputName(name, params) {
  return `${name.replace(/\.[^.]*$/, "")}-${wanted(params)}.${params.format}`;
}
