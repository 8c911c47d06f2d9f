/** The server's own API, as far as the page needs it. Addresses are relative, so that it works below any prefix. */

import { key } from "./store.js";

/** An error from the server, with its message; `code` is "unreachable" if it did not answer at all. */
export class ApiError extends Error {
  constructor({ code, message, field = null }) {
    super(message);
    this.code = code;
    this.field = field;
  }
}

const unreachable = () => new ApiError({ code: "unreachable", message: "The server does not answer." });
const refusal = (status, body) =>
  new ApiError(body?.error ?? { code: "unknown", message: `The server answered with status ${status}.` });
const authorization = () => (key.get() ? { Authorization: `Bearer ${key.get()}` } : {});

async function call(path, init = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...init, headers: { ...init.headers, ...authorization() } });
  } catch (cause) {
    if (cause.name === "AbortError") throw cause;
    throw unreachable();
  }
  if (answer.ok) return answer;
  throw refusal(answer.status, await answer.json().catch(() => null));
}

const read = async (path, init) => (await call(path, init)).json();
const post = (path, body, signal) =>
  read(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

/** Bytes of a file that is sent to its end also when its job is no longer wanted. */
const SOON_SENT = 4 << 20;

/** The answer to a form with a file. `onSent(share)`: how much of it has left this browser; fetch does not say. */
function upload(path, fields, file, { signal, onSent }) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, typeof value === "object" ? JSON.stringify(value) : value);
  body.append("file", file);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = ({ loaded, total }) => onSent?.(total ? loaded / total : 0);
    request.onload = () =>
      request.status < 300 ? resolve(request.response) : reject(refusal(request.status, request.response));
    request.onerror = () => reject(unreachable());
    request.onabort = () => reject(new DOMException("aborted", "AbortError"));
    // What is on its way may be on the server before it can be stopped: then only the answer says what it has become.
    let sent = file.size < SOON_SENT;
    request.upload.onload = () => (sent = true);
    signal?.addEventListener("abort", () => sent || request.abort());
    request.send(body);
    if (signal?.aborted && !sent) request.abort();
  });
}

/** Networks that can be chosen, whether faces can be restored, and the server's limits. */
export const models = () => read("models");
/** A page of the jobs, newest first: `jobs`, and how many there are in all, `total`. */
export const jobs = (limit, offset = 0) => read(`jobs?limit=${limit}&offset=${offset}`);
export const job = (id) => read(`jobs/${id}`);
export const cancel = (id) => read(`jobs/${id}/cancel`, { method: "POST" });
export const remove = (id) => call(`jobs/${id}`, { method: "DELETE" });

/** Addresses of a stored picture. Images and links need no key: who knows its name may read it. */
export const address = (file) => `files/${file.key}`;
export const savingAddress = (file, name) => `files/${file.key}?name=${encodeURIComponent(name)}`;
export const previewAddress = (file, side) => `files/${file.key}/preview?side=${side}`;

/** What would be done to a picture of that size. */
export const plan = (params, [width, height], frames, signal) =>
  post("plan", { ...params, width, height, frames }, signal);

/** The plan for a file, or for a picture of this server by its address. */
export async function planOf(params, { file, url }, control) {
  const found = await (url ? post("plan", { ...params, image: url }, control.signal) : upload("plan", params, file, control));
  control.signal?.throwIfAborted();
  return found;
}

/** A new job for a file, or for a picture of this server by its address; `name` is kept with it. Aborted by the signal
 * in `control`, it leaves no job, also where the server had it already. */
export async function submit(params, { file, url, name }, control) {
  const { signal } = control;
  const made = await (url
    ? post("jobs", { ...params, image: url, name })
    : upload("jobs", { ...params, name }, file, control));
  if (!signal.aborted) return made;
  await discard(made.id);
  throw signal.reason;
}

/** Delete a job. One that has not ended is cancelled first. */
export async function discard(id) {
  const answer = await remove(id);
  if (answer.status !== 202) return;
  for await (const _ of changes(id)); // until it has ended
  await remove(id);
}

/** The address of a file that was put onto the server, for `mask`. */
export const put = async (file) => (await read("uploads", { method: "POST", body: file })).url;

/** The job after each change, until it has ended or is deleted. (EventSource could not send the key.) */
export async function* changes(id, signal) {
  const answer = await call(`jobs/${id}/events`, { signal });
  let waiting = "";
  for await (const text of texts(answer.body)) {
    const events = (waiting + text).split(/\r?\n\r?\n/);
    waiting = events.pop();
    for (const event of events) {
      const data = /^data: ?(.*)$/m.exec(event);
      if (data) yield JSON.parse(data[1]);
    }
  }
}

/** NOTE: not `for await` over the stream itself, which Safari lacks. */
async function* texts(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) yield value;
}
