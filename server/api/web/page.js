/** The page: connects the parts to each other and to what the visitor does. */

import * as api from "./api.js";
import { Compare } from "./compare.js";
import { Earlier } from "./earlier.js";
import { Follower } from "./follow.js";
import * as gather from "./gather.js";
import { Mask } from "./mask.js";
import { Networks } from "./networks.js";
import { Options } from "./options.js";
import { Sides } from "./sides.js";
import * as snippet from "./snippet.js";
import * as store from "./store.js";
import { Sweep } from "./sweep.js";
import { Total } from "./total.js";
import { Visit } from "./visit.js";
import * as words from "./words.js";

const REFRESH_MS = 4000;
const NAMED = 3;

const $ = (id) => document.getElementById(id);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const networks = new Networks($("networks"));
const options = new Options($("options"), networks);
const visit = new Visit($("pictures"), options, { act, changed, say, complain, left });
const earlier = new Earlier($("earlier"), act, (job) => visit.cards.find((card) => card.job?.id === job.id));
const all = () => [...visit.cards, ...earlier.cards];
const sides = new Sides($("compare"), new Compare($("compare")), all);
const sweep = new Sweep($("sweep"), (creativity) => options.create(creativity));
const mask = new Mask($("mask"), () => visit.plan());
const total = new Total($("total"));
const follower = new Follower(all, changed, ended);
let connected = false;
/** The server has refused the key: no further requests until another one is typed in. */
let locked = false;

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
  const asks = error.code === "unauthorized" && !store.key.get();
  $("notice").textContent = asks ? "This server asks for an API key." : words.sentence(error.message);
  $("notice").hidden = false;
}

/** Files of a folder that are no pictures. */
function left(paths) {
  const named = paths.slice(0, NAMED).join(", ");
  const rest = paths.length > NAMED ? ` and ${words.count(paths.length - NAMED)} more` : "";
  $("left").textContent = `Left out, because this server can't read them: ${named}${rest}.`;
  $("left").hidden = false;
}

function changed() {
  total.show(visit.cards);
  summarise();
  sides.refresh();
  follower.wake();
}

function summarise() {
  const { ready } = visit;
  const sum = (value) => ready.reduce((made, card) => made + value(card), 0);
  const seconds = sum(({ plan }) => plan.estimate.seconds ?? 0);
  const facts = [
    ready.length === 1 && `${words.size(ready[0].plan.result)}, ${words.megapixels(ready[0].plan.result)}`,
    seconds && `about ${words.duration(seconds)}`,
    `about ${words.bytes(sum(({ plan }) => plan.estimate.result_bytes))}`,
  ];
  $("send").disabled = !ready.length;
  $("send").textContent = ready.length > 1 ? `Upscale ${words.count(ready.length)} pictures` : "Upscale";
  $("summary").textContent = ready.length ? facts.filter(Boolean).join(" · ") : "Add a picture to see what will be done.";
  networks.time(sum(({ size: [width, height], frames }) => width * height * frames));
  const card = visit.cards.findLast((each) => each.file);
  const params = options.paramsFor(card?.size ?? null);
  const file = card?.name.split("/").at(-1) ?? "photo.jpg";
  const base = new URL(".", location.href).href.replace(/\/$/, "");
  const what = { base, params, file, output: words.outputName(file, params), withKey: Boolean(store.key.get()) };
  $("curl").textContent = snippet.curl(what);
  $("python").textContent = snippet.python(what);
}

// --- actions ------------------------------------------------------------------------------------------------------

function ended(card) {
  const { result, error, state } = card.job;
  if (result) say(`${card.name}: done, ${result.width} by ${result.height} pixels`);
  else say(`${card.name}: ${error?.message ?? card.error?.message ?? state}`);
  if (result && sides.card === null && visit.cards.includes(card)) sides.open(card);
}

/** NOTE: the answer is a download, so the browser stays on this page, and holds nothing of the file in memory. */
function save(card) {
  const link = document.createElement("a");
  link.href = api.savingAddress(card.job.result, card.outputName.split("/").at(-1));
  link.download = "";
  link.click();
}

function saveAll() {
  const done = visit.cards.filter((card) => card.done);
  const files = done.map((card) => ({ key: card.job.result.key, name: card.outputName }));
  $("zip").elements.files.value = JSON.stringify(files);
  $("zip").submit();
  say(`Downloading ${words.plural(files.length, "picture")}`);
}

function drop(card) {
  const next = card.element.nextElementSibling ?? card.element.previousElementSibling;
  if (card.element.contains(document.activeElement)) (next?.querySelector("button:not([hidden])") ?? $("files")).focus();
  if (sides.card === card) sides.close();
  visit.drop(card);
  earlier.drop(card);
  card.close();
  changed();
}

function unlessGone(error) {
  if (error.code !== "not_found") throw error;
}

async function cancel(card) {
  if (card.sending) return card.control.abort();
  card.update(await api.cancel(card.job.id));
  if (card.ended) ended(card);
  changed();
}

/** The actions of a card's buttons. */
async function act(what, card) {
  try {
    if (what === "show") {
      sides.open(card);
      $("compare").scrollIntoView({ block: "nearest" });
      $("compare").querySelector(".split").focus({ preventScroll: true });
    } else if (what === "download") save(card);
    else if (what === "sweep") sweep.open(card, options.paramsFor(card.size));
    else if (what === "mask") mask.open(card);
    else if (what === "cancel") await cancel(card);
    else if (what === "again") visit.again(card).element.scrollIntoView({ block: "nearest" });
    else if (what === "remove") {
      if (card.job && !card.lost) await api.remove(card.job.id).catch(unlessGone);
      drop(card);
    }
  } catch (error) {
    card.error = error;
    card.render();
  }
}

const actions = {
  zip: saveAll,
  clear: () => earlier.adopt(visit.clear()),
  more: () => earlier.more().catch(complain),
  folder: () => $("folder").click(),
};

// --- the server ---------------------------------------------------------------------------------------------------

async function refresh() {
  await earlier.refresh();
  $("notice").hidden = true;
  if (visit.waits) visit.plan();
  changed();
}

async function refreshForever() {
  for (;;) {
    await pause(REFRESH_MS);
    if (locked || document.hidden || visit.cards.some((card) => card.sending)) continue;
    if (connected) await refresh().catch(complain);
    else await connect();
  }
}

/** Ask what this server can do, and for the jobs; repeated with every new key. */
async function connect() {
  locked = false;
  try {
    const { models, faces, limits } = await api.models();
    networks.offer(models);
    options.refuseFaces(faces.reason);
    options.fill(store.options.get() ?? {});
    visit.limits = limits;
    await visit.restore();
    earlier.forget();
    await refresh();
    connected = true;
  } catch (error) {
    complain(error);
  }
  if (!locked) visit.plan();
}

// --- what the visitor does ----------------------------------------------------------------------------------------

async function add(files) {
  $("left").hidden = true;
  await visit.add(await files);
}

for (const input of [$("files"), $("folder")]) {
  input.addEventListener("change", () => {
    add(gather.chosen(input.files));
    input.value = ""; // so that the same file can be chosen again
  });
}
document.addEventListener("paste", (event) => add(gather.dropped(event.clipboardData)));
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
  add(gather.dropped(event.dataTransfer));
});
document.addEventListener("click", (event) => actions[event.target.closest("[data-do]")?.dataset.do]?.());
window.addEventListener("beforeunload", (event) => {
  if (visit.unsent) event.preventDefault();
});
$("saving").addEventListener("load", () => {
  if ($("saving").contentWindow.location.href === "about:blank") return;
  // A download loads nothing here; an error does.
  complain(new api.ApiError({ code: "not_found", message: "A result is no longer on the server: reload the page" }));
});
$("networks").addEventListener("toggle", async (event) => {
  if (!event.target.open || locked) return;
  await api.models().then(({ models }) => networks.offer(models)).catch(complain); // speeds are measured meanwhile
  summarise();
});
$("options").addEventListener("input", () => visit.plan());
$("options").addEventListener("submit", (event) => {
  event.preventDefault();
  visit.send();
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
  store.key.set($("key-field").value.trim());
  connect();
});

$("key-field").value = store.key.get() ?? "";
summarise();
connect();
refreshForever();
