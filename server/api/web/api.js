/** The server's own API, as far as the page needs it. Addresses are relative, so that it works below any prefix. */

/** An error from the server, with its message; `code` is "unreachable" if it did not answer at all. */
export class ApiError extends Error {
  constructor({ code, message, field = null }) {
    super(message);
    this.code = code;
    this.field = field;
  }
}

/** The API key that was typed in, or "". */
export const key = {
  get: () => sessionStorage.getItem("key") ?? "",
  set: (value) => sessionStorage.setItem("key", value),
};

async function call(path, init = {}) {
  const headers = new Headers(init.headers);
  if (key.get()) headers.set("Authorization", `Bearer ${key.get()}`);
  let answer;
  try {
    answer = await fetch(path, { ...init, headers });
  } catch (cause) {
    if (cause.name === "AbortError") throw cause;
    throw new ApiError({ code: "unreachable", message: "The server does not answer." });
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new ApiError(body.error ?? { code: "unknown", message: `The server answered with status ${answer.status}.` });
}

const read = async (path, init) => (await call(path, init)).json();

/** `models`: networks that can be chosen. `faces`: whether faces can be restored, and if not, the reason. */
export const models = () => read("models");
export const jobs = async (limit) => (await read(`jobs?limit=${limit}`)).jobs;
export const cancel = (id) => read(`jobs/${id}/cancel`, { method: "POST" });
export const remove = (id) => call(`jobs/${id}`, { method: "DELETE" });

/** Address of a finished job's picture. Images and links need no key: who knows the name may read it. */
export const resultAddress = (job) => `files/${job.result.key}`;

export const resultFile = async (job) => (await call(resultAddress(job))).blob();

export const sourceFile = async (job) => (await call(`jobs/${job.id}/source`)).blob();

/** What would be done to a picture of that size. */
export const plan = (params, [width, height], signal) =>
  read("plan", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...params, width, height }),
    signal,
  });

/** The plan for a file that only the server can read. */
export const planFile = (params, file, signal) => read("plan", { method: "POST", body: form(params, file), signal });

export const submit = (params, file) => read("jobs", { method: "POST", body: form(params, file) });

function form(params, file) {
  const body = new FormData();
  for (const [name, value] of Object.entries(params)) body.append(name, value);
  body.append("file", file);
  return body;
}

/** The job after each change, until it has ended or is deleted. (EventSource could not send the key.) */
export async function* changes(id) {
  const answer = await call(`jobs/${id}/events`);
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
