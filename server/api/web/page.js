/** The page: takes pictures, sends jobs, and shows their progress and results. */

import * as api from "./api.js";
import { Card } from "./card.js";
import { Compare } from "./compare.js";
import { Options } from "./options.js";
import * as snippet from "./snippet.js";
import * as words from "./words.js";

/** NOTE: a browser opens six connections to one host, for all its tabs together, and each stream keeps one open. */
const STREAMS = 2;
const RECENT = 12;
const REFRESH_MS = 5000;
const SETTLE_MS = 150;

const $ = (id) => document.getElementById(id);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const compare = new Compare($("compare"));
const options = new Options($("options"));
/** Pictures chosen on this page, in the order in which they were added. */
let cards = [];
/** Other jobs of the same key, by id. */
const recent = new Map();
let compared = null;
let connected = false;
/** The server has refused the key: no further requests until another one is typed in. */
let locked = false;
let following = 0;
let planning = new AbortController();
let planned = Promise.resolve();

// --- words --------------------------------------------------------------------------------------------------------

/** Announce something to screen readers. */
function say(text) {
  $("said").textContent = text;
}

/** Show an error that belongs to no single picture. */
function complain(error) {
  if (error.code === "unauthorized") {
    locked = true;
    $("key").open = true;
  }
  const asks = error.code === "unauthorized" && !api.key.get();
  $("notice").textContent = asks ? "This server asks for an API key." : error.message;
  $("notice").hidden = false;
}

function summarise() {
  const ready = sendable();
  const plans = ready.map((card) => card.plan);
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const seconds = sum(plans.map((plan) => plan.estimate.seconds ?? 0));
  const networks = [...new Set(plans.filter((plan) => plan.tiles).map((plan) => plan.model))];
  $("send").disabled = !ready.length;
  $("send").textContent = ready.length > 1 ? `Upscale ${words.plural(ready.length, "picture")}` : "Upscale";
  const facts = [words.plural(plans.length, "picture"), words.plural(sum(plans.map((plan) => plan.tiles)), "tile")];
  if (seconds) facts.push(`about ${words.duration(seconds)}`);
  $("summary").textContent = plans.length
    ? `${facts.join(", ")}. ${networks.length ? `Network: ${networks.join(", ")}.` : "No network is needed."}`
    : "Add a picture to see what will be done.";
}

function write() {
  const { params } = options;
  const file = cards.findLast((card) => card.file)?.name ?? "photo.jpg";
  const base = new URL(".", location.href).href.replace(/\/$/, "");
  const what = { base, params, file, output: words.outputName(file, params), withKey: Boolean(api.key.get()) };
  $("curl").textContent = snippet.curl(what);
  $("python").textContent = snippet.python(what);
}

// --- pictures -----------------------------------------------------------------------------------------------------

/** Pictures that were not sent yet and that the server would accept. */
const sendable = () => cards.filter((card) => !card.sent && card.plan);

function add(files) {
  for (const file of files) {
    const card = new Card({ file }, act);
    cards.push(card);
    $("pictures").append(card.element);
  }
  if (files.length) say(`${words.plural(files.length, "picture")} added`);
  plan();
}

/** (width, height), or null if this browser can't read the file; the server may be able to. */
async function measure(card) {
  const image = new Image();
  image.src = card.address;
  try {
    await image.decode();
  } catch {
    return null;
  }
  return [image.naturalWidth, image.naturalHeight];
}

/** Ask for the plan of every picture that was not sent yet; an earlier round is aborted. */
function plan() {
  planning.abort();
  planning = new AbortController();
  summarise();
  write();
  if (options.valid) planned = planAll(options.params, planning.signal);
}

async function planAll(params, signal) {
  await pause(SETTLE_MS);
  for (const card of cards.filter((each) => !each.sent && !each.refused)) {
    if (signal.aborted) return;
    try {
      card.size ??= await measure(card);
      const made = await (card.size ? api.plan(params, card.size, signal) : api.planFile(params, card.file, signal));
      Object.assign(card, { plan: made, size: made.source, error: null });
    } catch (error) {
      if (error.name === "AbortError") return;
      Object.assign(card, { plan: null, error, refused: error.code.startsWith("source_") });
      if (error.code === "unauthorized") complain(error);
      else say(`${card.name}: ${error.message}`);
    }
    card.render();
    summarise();
  }
}

async function send() {
  await planned;
  const { params } = options;
  const sent = sendable();
  sent[0]?.element.focus(); // because the button will be disabled
  for (const card of sent) {
    Object.assign(card, { sending: true, error: null });
    card.render();
  }
  summarise();
  for (const card of sent) {
    try {
      card.job = await api.submit(params, card.file);
    } catch (error) {
      card.error = error;
      say(`${card.name}: ${error.message}`);
    }
    card.sending = false;
    card.render();
    summarise();
    follow();
  }
}

// --- jobs ---------------------------------------------------------------------------------------------------------

async function follow() {
  const card = cards.find((each) => each.job && !each.ended && !each.followed);
  if (!card || following === STREAMS) return;
  following += 1;
  card.followed = true;
  try {
    for await (const job of api.changes(card.job.id)) card.update(job);
  } catch (error) {
    // A broken connection is opened again; an error from the server itself is final.
    if (error instanceof api.ApiError && error.code !== "unreachable") Object.assign(card, { error, lost: true });
    else await pause(1000);
  }
  card.followed = false;
  following -= 1;
  if (card.ended) ended(card);
  follow();
}

function ended(card) {
  card.render();
  const { result, error, state } = card.job;
  if (result) say(`${card.name}: done, ${result.width} by ${result.height} pixels`);
  else say(`${card.name}: ${error?.message ?? card.error?.message ?? state}`);
  if (result && compared === null) show(card);
}

async function show(card) {
  compared = card;
  showBoth(card);
  if (card.address || !(await readSource(card))) return;
  if (compared === card) showBoth(card);
}

function showBoth(card) {
  const { width, height } = card.job.result;
  compare.show({ name: card.name, before: card.address, after: api.resultAddress(card.job), width, height });
}

/** The source of another program's job as "before", if it still exists and this browser can show it. */
async function readSource(card) {
  try {
    card.address = URL.createObjectURL(await api.sourceFile(card.job));
  } catch {
    return false;
  }
  if (await measure(card)) return true;
  URL.revokeObjectURL(card.address);
  card.address = null;
  return false;
}

/** NOTE: a plain link does not work: the random file name in the answer's headers would override the link's name. */
async function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  await pause(60_000); // the browser may still be reading it
  URL.revokeObjectURL(link.href);
}

function drop(card) {
  const next = card.element.nextElementSibling ?? card.element.previousElementSibling;
  if (card.element.contains(document.activeElement)) (next?.querySelector("button:not([hidden])") ?? $("files")).focus();
  if (compared === card) {
    compared = null;
    compare.hide();
  }
  card.close();
  cards = cards.filter((each) => each !== card);
  recent.delete(card.job?.id);
  $("recent-none").hidden = recent.size > 0;
  summarise();
  write();
}

function unlessGone(error) {
  if (error.code !== "not_found") throw error;
}

/** The actions of a card's buttons. */
async function act(what, card) {
  try {
    if (what === "show") {
      show(card);
      $("compare").scrollIntoView({ block: "nearest" });
      $("compare").querySelector(".split").focus({ preventScroll: true });
    } else if (what === "download") {
      save(await api.resultFile(card.job), card.outputName);
    } else if (what === "cancel") {
      card.update(await api.cancel(card.job.id));
    } else if (what === "again") {
      add([card.file]);
    } else if (what === "remove") {
      if (card.job && !card.lost) await api.remove(card.job.id).catch(unlessGone);
      drop(card);
    }
  } catch (error) {
    card.error = error;
    card.render();
  }
}

async function refresh() {
  const found = await api.jobs(RECENT);
  $("notice").hidden = true;
  if (cards.some((card) => card.sending)) return; // that job may be in the list although it has a card already
  const mine = new Set(cards.map((card) => card.job?.id));
  const others = found.filter((job) => !mine.has(job.id));
  for (const [id, card] of recent) {
    if (!others.some((job) => job.id === id)) drop(card);
  }
  for (const job of others.toReversed()) {
    const card = recent.get(job.id);
    if (card) {
      card.update(job);
    } else {
      recent.set(job.id, new Card({ job }, act));
      $("recent").prepend(recent.get(job.id).element);
    }
  }
  $("recent-none").hidden = recent.size > 0;
}

async function refreshForever() {
  for (;;) {
    await pause(REFRESH_MS);
    if (locked || document.hidden) continue;
    if (connected) await refresh().catch(complain);
    else await connect();
  }
}

/** Ask which networks this server has; repeated with every new key. */
async function connect() {
  locked = false;
  try {
    const { models, faces } = await api.models();
    options.offer(models);
    options.refuseFaces(faces.reason);
    await refresh();
    connected = true;
  } catch (error) {
    complain(error);
  }
  plan();
}

// --- user input ------------------------------------------------------------------------------------------------

$("files").addEventListener("change", (event) => {
  add([...event.target.files]);
  event.target.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", (event) => add([...event.clipboardData.files]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  add([...event.dataTransfer.files]);
});
$("options").addEventListener("input", plan);
$("options").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("options").addEventListener("click", async (event) => {
  const what = event.target.dataset.copy;
  if (!what) return;
  try {
    await navigator.clipboard.writeText($(what).textContent);
    say("Copied");
  } catch {
    // Browsers do not give the clipboard to pages loaded over plain HTTP from another machine.
    getSelection().selectAllChildren($(what));
    say("Selected: copy it with Ctrl and C");
  }
});
$("key").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  api.key.set($("key-field").value.trim());
  connect();
});

$("key-field").value = api.key.get();
connect();
refreshForever();
