/** Files from a drop, a paste or a file chooser, each with its path: folders are walked, however deep they go. */

/** Files that systems put into folders by themselves. */
const HIDDEN = /^(\.|Thumbs\.db$|desktop\.ini$)/i;

const parts = (path) => path.split("/");
const single = (file) => ({ file, path: file.name, inFolder: false });
const within = (file, path) => ({ file, path, inFolder: true });

/** Call it while the event is being handled: afterwards the browser takes the folders back. */
export async function dropped(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const entries = items.map((item) => item.webkitGetAsEntry?.() ?? null);
  const files = [...transfer.files];
  if (!entries.some((entry) => entry?.isDirectory)) return files.map(single);
  const found = await Promise.all(entries.filter(Boolean).map((entry) => walk(entry, "", false)));
  return found.flat();
}

/** Of an input element: files, or all files of a folder. */
export function chosen(files) {
  return [...files]
    .map((file) => (file.webkitRelativePath ? within(file, file.webkitRelativePath) : single(file)))
    .filter(({ path, inFolder }) => !inFolder || !parts(path).some((part) => HIDDEN.test(part)));
}

async function walk(entry, above, inFolder) {
  if (inFolder && HIDDEN.test(entry.name)) return [];
  const path = above + entry.name;
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [inFolder ? within(file, path) : single(file)];
  }
  const found = [];
  const reader = entry.createReader();
  for (;;) {
    // NOTE: a browser gives at most a hundred entries at a time.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    for (const each of some) found.push(...(await walk(each, `${path}/`, true)));
  }
  return found.sort((one, other) => one.path.localeCompare(other.path, undefined, { numeric: true }));
}
