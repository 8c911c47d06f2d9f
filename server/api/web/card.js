/** One picture in a list, with its plan, its progress or its result. */

import * as words from "./words.js";

const FINAL = ["succeeded", "failed", "cancelled"];
const STAGES = { loading: "Loading the networks", upscaling: "Upscaling", refining: "Adding detail", encoding: "Saving" };

export class Card {
  file;
  /** Address of the file's bytes in this browser. */
  address;
  /** (width, height) of the source, once known. */
  size = null;
  plan = null;
  job;
  /** What went wrong with it, an ApiError. */
  error = null;
  sending = false;
  /** The file is not a readable picture, with any options. */
  refused = false;
  /** The server no longer answers for this job. */
  lost = false;
  /** A stream of its changes is open. */
  followed = false;
  #pace = null;

  /** `file`: chosen on this page; or `job`: sent by any program. `act(what, card)` is called for the card's buttons. */
  constructor({ file = null, job = null }, act) {
    this.file = file;
    this.job = job;
    this.address = file && URL.createObjectURL(file);
    this.element = document.getElementById("card").content.firstElementChild.cloneNode(true);
    this.element.addEventListener("click", (event) => {
      const what = event.target.dataset.do;
      if (what) act(what, this);
    });
    const thumb = this.#part(".thumb");
    thumb.onload = () => (thumb.hidden = false);
    thumb.onerror = () => (thumb.hidden = true);
    if (file) thumb.src = this.address;
    this.render();
  }

  get name() {
    return this.file?.name ?? `Job ${this.job.id.slice(0, 8)}`;
  }

  get sent() {
    return this.sending || this.job !== null;
  }

  get ended() {
    return this.lost || FINAL.includes(this.job?.state);
  }

  get outputName() {
    return words.outputName(this.name, this.job.params);
  }

  update(job) {
    this.job = job;
    if (job.state === "running") this.#pace ??= { at: performance.now(), progress: job.progress };
    this.render();
  }

  /** The card is no longer needed. */
  close() {
    if (this.address) URL.revokeObjectURL(this.address);
    this.element.remove();
  }

  render() {
    const { job } = this;
    const focused = document.activeElement;
    const done = job?.state === "succeeded";
    const alive = job !== null && !this.ended;
    this.element.dataset.state = job?.state ?? "";
    this.#part(".name").textContent = this.name;
    this.#part(".facts").textContent = this.#facts();
    const notes = (job?.result ?? this.plan)?.notes ?? [];
    this.#part(".notes").textContent = notes.join(" ");
    this.#part(".notes").hidden = !notes.length;
    this.#part(".state").textContent = this.#state();
    const error = job?.error?.message ?? this.error?.message ?? "";
    this.#part(".error").textContent = error;
    this.#part(".error").hidden = !error;
    const progress = this.#part("progress");
    progress.hidden = !alive;
    progress.value = job?.progress ?? 0;
    progress.setAttribute("aria-label", `Progress of ${this.name}`);
    this.#button("show", done, this.file ? "Compare" : "Show");
    this.#button("cancel", alive && !job.cancel_requested, "Cancel");
    this.#button("again", this.file !== null && this.ended, "Again");
    this.#button("remove", !this.sending && !alive, job && !this.lost ? "Delete" : "Remove");
    this.#button("download", done, "Download");
    if (focused.hidden && this.element.contains(focused)) this.element.focus(); // else no element would have the focus
  }

  #part(selector) {
    return this.element.querySelector(selector);
  }

  #button(what, shown, text) {
    const button = this.#part(`[data-do=${what}]`);
    button.hidden = !shown;
    button.textContent = text;
    button.setAttribute("aria-label", `${text} ${this.name}`);
  }

  #facts() {
    const { job, plan } = this;
    const facts = job?.result ? madeFacts(job) : plan ? plannedFacts(plan) : job ? askedFacts(job) : [];
    if (job && job.dialect !== "native") facts.push(`through ${job.dialect}`);
    return facts.join(" · ");
  }

  #state() {
    if (this.sending) return "Sending …";
    if (this.lost) return "";
    if (this.job === null) return this.error ? "" : this.plan ? "Ready" : "Checking …";
    if (this.job.cancel_requested && !this.ended) return "Cancelling …";
    const running = () => [STAGES[this.job.stage] ?? "Working", this.#done(), this.#left()].filter(Boolean).join(", ");
    const states = { queued: () => "Waiting for its turn", running, succeeded: () => "Done", cancelled: () => "Cancelled" };
    return states[this.job.state]?.() ?? "";
  }

  #done() {
    return this.job.stage === "loading" ? "" : `${Math.round(100 * this.job.progress)} %`;
  }

  /** Time left: from the speed since it was first seen running; before that, from the plan. */
  #left() {
    const { progress } = this.job;
    const made = progress - (this.#pace?.progress ?? 0);
    const seconds = this.#pace && made > 0 ? (performance.now() - this.#pace.at) / 1000 / made : this.plan?.estimate.seconds;
    if (progress === 1) return "saving";
    return seconds ? `about ${words.duration(seconds * (1 - progress))} left` : "";
  }
}

const madeFacts = ({ result, finished_at }) => [
  `${words.size([result.width, result.height])} ${result.format.toUpperCase()}`,
  words.bytes(result.size_bytes),
  result.model,
  words.moment(finished_at),
];

const plannedFacts = ({ source, result, tiles, estimate }) => [
  `${words.size(source)} → ${words.size(result)}`,
  tiles ? words.plural(tiles, "tile") : "resampled only",
  ...(estimate.seconds ? [`about ${words.duration(estimate.seconds)}`] : []),
  `about ${words.bytes(estimate.result_bytes)}`,
];

const askedFacts = ({ params, created_at }) => [words.wanted(params), params.format.toUpperCase(), words.moment(created_at)];
