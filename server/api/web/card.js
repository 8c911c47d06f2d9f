/** One picture in a list: not sent yet, on its way, or a job with its progress and its result. */

import * as api from "./api.js";
import * as certificate from "./certificate.js";
import { inTurnOfPreviews } from "./lanes.js";
import * as words from "./words.js";

const FINAL = ["succeeded", "failed", "cancelled"];
const STAGES = { loading: "Loading the networks", upscaling: "Upscaling", refining: "Adding detail", encoding: "Saving" };
const THUMB = 176;

export class Card {
  file;
  /** (width, height) of the source, and its number of frames, once known. */
  size = null;
  frames = 1;
  /** The small copy of the picture: an address; "" if there is none. */
  thumb = "";
  plan = null;
  /** What of it is protected, as the API takes it, or null. */
  mask = null;
  job;
  /** What went wrong with it, an ApiError. */
  error = null;
  /** How much of the file has been sent, 0…1; null while nothing is being sent. */
  sent = null;
  sending = false;
  /** The file can't be upscaled, with any options. */
  refused = false;
  /** The server no longer answers for this job. */
  lost = false;
  /** A stream of its changes is open. */
  followed = false;
  /** Stops what is being sent. */
  control = new AbortController();
  #path;
  #again;
  #address = null;
  /** The address of the small picture that is shown, or will be. */
  #shown = "";
  #closed = false;

  /**
   * `file` with its `path`: chosen on this page; `again`: the same picture as in another card; `job`: sent before, by
   * any program. `act(what, card)` is called for the card's buttons.
   */
  constructor({ file = null, path = "", again = null, job = null }, act) {
    this.file = file ?? again?.file ?? null;
    this.#path = path || (again?.name ?? "");
    this.#again = again?.source ?? null;
    this.job = job;
    if (again) Object.assign(this, { size: again.size, frames: again.frames, thumb: again.thumb, mask: again.mask });
    this.element = document.getElementById("card").content.firstElementChild.cloneNode(true);
    this.element.addEventListener("click", (event) => {
      const what = event.target.dataset.do;
      if (what) act(what, this);
    });
    this.render();
  }

  get name() {
    return this.#path || this.job?.name || `Job ${this.job.id.slice(0, 8)}`;
  }

  /** The file on the server that the picture was, if it is there: `key` and `url`. */
  get source() {
    return this.job?.source ?? this.#again;
  }

  /** What api.submit and api.planOf take. */
  get picture() {
    return { file: this.file, url: this.file ? null : this.source?.url, name: this.#path || this.job?.name };
  }

  /** An address of the whole picture. */
  get address() {
    if (this.file) return (this.#address ??= URL.createObjectURL(this.file));
    return this.source && api.address(this.source);
  }

  /** Show the whole picture in a dialog's stage. */
  showIn(stage) {
    const [w, h] = this.size;
    const image = stage.querySelector("img");
    image.onerror = () => (image.src = this.thumb);
    image.src = this.address;
    image.alt = this.name;
    stage.style.setProperty("--aspect", w / h);
    stage.style.setProperty("--wide", `${(w / h) * 46}vh`);
  }

  get isNew() {
    return !this.sending && this.job === null;
  }

  get ready() {
    return this.isNew && this.plan !== null;
  }

  get ended() {
    return this.lost || FINAL.includes(this.job?.state);
  }

  get done() {
    return !this.lost && this.job?.state === "succeeded";
  }

  /** How far it is, 0…1, from the moment when it was sent. */
  get progress() {
    return this.ended ? 1 : (this.job?.progress ?? 0);
  }

  get outputName() {
    return words.outputName(this.name, this.job.params);
  }

  update(job) {
    this.job = job;
    this.render();
  }

  /** The card is no longer needed. */
  close() {
    this.#closed = true;
    this.control.abort();
    if (this.#address) URL.revokeObjectURL(this.#address);
    this.element.remove();
  }

  render() {
    const { job } = this;
    const focused = document.activeElement;
    const alive = job !== null && !this.ended;
    this.element.dataset.state = job?.state ?? (this.refused ? "refused" : this.sending ? "sending" : "new");
    this.#text(".name", this.name);
    this.#part(".name").title = this.name;
    this.#text(".facts", this.#facts());
    this.#text(".notes", ((job?.result ?? this.plan)?.notes ?? []).map(words.sentence).join(" "));
    this.#text(".state", this.#state());
    const error = job?.error?.message ?? this.error?.message ?? "";
    this.#text(".error", error && words.sentence(error));
    const progress = this.#part("progress");
    progress.hidden = !alive && this.sent === null;
    progress.value = this.sent ?? job?.progress ?? 0;
    progress.setAttribute("aria-label", `Progress of ${this.name}`);
    this.#show(this.thumb || (this.source ? api.previewAddress(this.source, THUMB) : ""));
    this.#button("show", this.done, this.source || this.file ? "Compare" : "Show");
    this.#button("download", this.done, "Download");
    this.#button("sweep", this.ready, "Try creativities");
    this.#button("mask", this.ready, this.mask ? "Protected parts" : "Protect parts");
    this.#button("cancel", this.sending || (alive && !job.cancel_requested), "Cancel");
    this.#button("again", this.ended && !job?.params.sweep && Boolean(this.file || this.source), "Again");
    this.#button("remove", !this.sending && !alive, job && !this.lost ? "Delete" : "Remove");
    certificate.show(this.#part(".certificate"), job?.result?.certificate ?? null, this.name);
    if (focused.hidden && this.element.contains(focused)) this.element.focus(); // else no element would have the focus
  }

  #part(selector) {
    return this.element.querySelector(selector);
  }

  #text(selector, text) {
    const part = this.#part(selector);
    if (part.textContent !== text) part.textContent = text;
    part.hidden = !text;
  }

  /** The small picture, from this browser at once, from the server in its turn. */
  async #show(address) {
    if (address === this.#shown) return;
    this.#shown = address;
    const thumb = this.#part(".thumb");
    const load = () =>
      new Promise((resolve) => {
        thumb.onload = thumb.onerror = resolve;
        if (this.#closed || address !== this.#shown) resolve();
        else thumb.src = address;
      });
    await (this.thumb ? load() : inTurnOfPreviews(load));
    if (address === this.#shown) thumb.hidden = !thumb.naturalWidth;
  }

  #button(what, shown, text) {
    const button = this.#part(`[data-do=${what}]`);
    button.hidden = !shown;
    button.textContent = text;
    button.setAttribute("aria-label", `${text} ${this.name}`);
  }

  #facts() {
    const { job, plan } = this;
    const facts = job?.result ? madeFacts(job) : plan ? plannedFacts(plan, this.job) : job ? askedFacts(job) : [];
    if (job && job.dialect !== "native") facts.push(`through ${job.dialect}`);
    return facts.join(" · ");
  }

  #state() {
    if (this.sending) return this.sent === null ? "Waiting to be sent" : `Sending, ${words.percent(this.sent)}`;
    if (this.lost || this.refused) return "";
    if (this.job === null) {
      if (this.error) return "";
      if (this.plan) return "Ready";
      return this.sent === null ? "Checking …" : `Checking, ${words.percent(this.sent)} sent`;
    }
    if (this.job.cancel_requested && !this.ended) return "Cancelling …";
    const running = () => [STAGES[this.job.stage] ?? "Working", this.#done(), this.#left()].filter(Boolean).join(", ");
    const queued = () => ["Waiting for its turn", this.#left()].filter(Boolean).join(", ");
    const states = { queued, running, succeeded: () => "Done", cancelled: () => "Cancelled" };
    return states[this.job.state]?.() ?? "";
  }

  #done() {
    return this.job.stage === "loading" ? "" : words.percent(this.job.progress);
  }

  /** Time left, as the server says: about, and where that is much longer, at most. */
  #left() {
    const { eta_s: about, eta_max_s: most } = this.job;
    if (about === null) return "";
    const bound = most > 2 * about && most >= 10 ? `, at most ${words.duration(most)}` : "";
    return `about ${words.duration(about)} left${bound}`;
  }
}

const madeFacts = ({ result, finished_at, params }) => [
  ...(params.sweep ? ["All creativities on a part"] : []),
  `${words.size([result.width, result.height])} ${result.format.toUpperCase()}`,
  words.bytes(result.size_bytes),
  ...(result.model === "none" ? [] : [result.model]),
  words.moment(finished_at),
];

const plannedFacts = ({ source, result, passes, estimate, frames }) => [
  `${words.size(source)} → ${words.size(result)}`,
  ...(frames > 1 ? [words.plural(frames, "frame")] : []),
  ...(passes.length ? [] : ["made smaller"]),
  ...(estimate.seconds ? [`about ${words.duration(estimate.seconds)}`] : []),
  `about ${words.bytes(estimate.result_bytes)}`,
];

const askedFacts = ({ params, created_at }) => [
  params.sweep ? "All creativities on a part" : words.wanted(params),
  params.format.toUpperCase(),
  words.moment(created_at),
];
