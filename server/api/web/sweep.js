/** A dialog: part of a picture is made at each whole creativity, before the whole picture is, and one is chosen. */

import * as api from "./api.js";
import * as words from "./words.js";

const FORMAT = "png";
/** The sheet of server/pipeline/preview.py: panels in rows of three, each below a caption of so many pixels. */
const COLUMNS = 3;
const ROWS = 2;
const CAPTION = 32;
const CROP = 512;
/** Presses of an arrow key from one border of the picture to the other. */
const STEPS = 100;
const PANELS = [
  [null, "As it is", "The source, only made larger."],
  [-2, "−2 strict", "Nothing is invented."],
  [-1, "−1 faithful", "Almost nothing is invented."],
  [0, "0 balanced", "Detail where it was lost."],
  [1, "+1 creative", "More texture, some invented."],
  [2, "+2 reimagine", "As much texture as possible."],
];

export class Sweep {
  #dialog;
  #chosen;
  #card = null;
  #params = null;
  #size = [1, 1];
  #job = null;
  #control = null;
  /** Of a panel, in pixels; and what of it is looked at where it does not fit, 0…1 of the way. */
  #panel = [1, 1];
  #spot = [0.5, 0.5];

  /** `dialog` is index.html's #sweep. `chosen(creativity)` is called with the one that was picked. */
  constructor(dialog, chosen) {
    this.#dialog = dialog;
    this.#chosen = chosen;
    dialog.addEventListener("close", () => this.#stop());
    for (const range of this.#ranges) range.addEventListener("input", () => this.#place());
    this.#ranges[1].addEventListener("keydown", (event) => this.#upOrDown(event));
    const stage = this.#part(".stage");
    const pick = (event) => event.buttons & 1 && this.#pick(event);
    stage.addEventListener("pointerdown", (event) => (stage.setPointerCapture(event.pointerId), pick(event)));
    stage.addEventListener("pointermove", pick);
    new ResizeObserver(() => this.#place()).observe(stage);
    const panels = this.#part(".panels");
    new ResizeObserver(() => this.#look()).observe(panels);
    panels.addEventListener("pointermove", (event) => this.#point(event));
    panels.addEventListener("keydown", (event) => this.#arrow(event));
    dialog.addEventListener("click", (event) => {
      const { do: what, creativity } = event.target.closest("button")?.dataset ?? {};
      if (what === "make") this.#make();
      else if (what === "back") this.#choose();
      else if (what === "close") dialog.close();
      else if (what === "one") this.#toggle();
      else if (creativity !== undefined) this.#use(Number(creativity));
    });
  }

  /** `params`: what the job would be made with, but for the creativity; a sheet has no certificate. */
  open(card, params) {
    const { creativity: _, quality: __, lossless: ___, certificate: ____, ...rest } = params;
    this.#card = card;
    this.#params = { ...rest, format: FORMAT };
    this.#size = card.size;
    const [[x, y], [w, h]] = [card.plan.result, card.size];
    this.#part(".part").style.width = `${Math.min(100, (100 * CROP) / x)}%`;
    this.#part(".part").style.height = `${Math.min(100, (100 * CROP) / y)}%`;
    this.#ranges.forEach((range, index) => {
      range.max = [w, h][index];
      range.step = Math.max(1, Math.round(range.max / STEPS));
      range.value = range.max / 2;
    });
    card.showIn(this.#part(".stage"));
    this.#choose();
    this.#dialog.showModal();
  }

  get #ranges() {
    return [...this.#dialog.querySelectorAll("[type=range]")];
  }

  #part(selector) {
    return this.#dialog.querySelector(selector);
  }

  // --- which part ---

  #choose() {
    this.#stop();
    this.#step("choose");
    this.#say("");
    this.#place();
  }

  #step(name) {
    for (const step of this.#dialog.querySelectorAll("[data-step]")) step.hidden = step.dataset.step !== name;
    this.#part("[data-do=make]").hidden = name !== "choose";
    this.#part("[data-do=back]").hidden = name === "choose";
    this.#part("[data-do=one]").hidden = true;
  }

  #pick(event) {
    const { left, top, width, height } = this.#part(".stage").getBoundingClientRect();
    const at = [(event.clientX - left) / width, (event.clientY - top) / height];
    this.#ranges.forEach((range, index) => (range.value = at[index] * range.max));
    this.#place();
  }

  /** A range's own arrow up makes its value larger, which here would be further down. */
  #upOrDown(event) {
    const [, down] = this.#ranges;
    if (event.key === "ArrowUp") down.stepDown();
    else if (event.key === "ArrowDown") down.stepUp();
    else return;
    event.preventDefault();
    this.#place();
  }

  /** The frame around the part, which does not leave the picture. */
  #place() {
    const part = this.#part(".part");
    const stage = this.#part(".stage");
    const [x, y] = this.#ranges.map((range) => range.value / range.max);
    const within = (share, length, whole) => Math.min(Math.max(share * whole - length / 2, 0), whole - length);
    const left = within(x, part.offsetWidth, stage.clientWidth);
    const top = within(y, part.offsetHeight, stage.clientHeight);
    part.style.transform = `translate(${left}px, ${top}px)`;
    this.#ranges.forEach((range, index) => {
      range.setAttribute("aria-valuetext", words.percent([x, y][index]));
    });
  }

  // --- the sheet ---

  async #make() {
    this.#step("made");
    this.#part(".panels").replaceChildren();
    this.#say("Sending …");
    const control = (this.#control = new AbortController());
    try {
      const at = this.#ranges.map((range) => Math.round(range.value)).join(",");
      const params = { ...this.#params, sweep: true, sweep_at: this.#card.file ? at : at.split(",").map(Number) };
      let job = (this.#job = await api.submit(params, this.#card.picture, { signal: control.signal }));
      for await (job of api.changes(job.id, control.signal)) this.#progress(job);
      if (job.state === "succeeded") this.#fill(job);
      else this.#say(words.sentence(job.error?.message ?? "it was cancelled"));
    } catch (error) {
      if (error.name !== "AbortError") this.#say(words.sentence(error.message));
    }
    this.#part(".made progress").hidden = true;
  }

  #progress(job) {
    const bar = this.#part(".made progress");
    bar.hidden = false;
    bar.value = job.progress;
    this.#say(job.state === "queued" ? "Waiting for its turn" : `Making five versions, ${words.percent(job.progress)}`);
  }

  #fill({ result }) {
    const [w, h] = (this.#panel = [result.width / COLUMNS, result.height / ROWS - CAPTION]);
    const panels = PANELS.map(([creativity, name, note], index) => {
      const panel = document.getElementById("panel").content.firstElementChild.cloneNode(true);
      panel.querySelector("img").src = api.address(result);
      panel.querySelector(".pane").style.aspectRatio = `${w} / ${h}`;
      panel.querySelector(".name").textContent = name;
      panel.querySelector(".note").textContent = note;
      const button = panel.querySelector("button");
      if (creativity === null) button.remove();
      else {
        button.dataset.creativity = creativity;
        button.setAttribute("aria-label", `Use creativity ${name}`);
      }
      return panel;
    });
    this.#part(".panels").replaceChildren(...panels);
    this.#part("[data-do=one]").hidden = false;
    this.#spot = [0.5, 0.5];
    this.#look();
    this.#say("Choose one for the whole picture.");
  }

  // --- what of the sheet is seen ---

  /** Each panel at one to one, or whole; in all of them the same. */
  #look() {
    const [w, h] = this.#panel;
    const whole = this.#part("[data-do=one]").getAttribute("aria-pressed") !== "true";
    this.#dialog.querySelectorAll(".panel .pane").forEach((pane, index) => {
      const [column, row] = [index % COLUMNS, Math.floor(index / COLUMNS)];
      const fit = pane.clientWidth / w;
      const zoom = whole ? fit : Math.max(fit, 1 / window.devicePixelRatio);
      const [x, y] = this.#spot.map((share, side) => share * ([w, h][side] * (zoom - fit)));
      const image = pane.firstElementChild;
      image.style.width = `${w * COLUMNS * zoom}px`;
      image.style.transform = `translate(${-column * w * zoom - x}px, ${-(row * (h + CAPTION) + CAPTION) * zoom - y}px)`;
    });
  }

  #toggle() {
    const button = this.#part("[data-do=one]");
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    this.#look();
  }

  #point(event) {
    const pane = event.target.closest(".pane")?.getBoundingClientRect();
    if (!pane) return;
    this.#spot = [(event.clientX - pane.left) / pane.width, (event.clientY - pane.top) / pane.height];
    this.#look();
  }

  #arrow(event) {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!by || event.target !== event.currentTarget) return;
    event.preventDefault();
    this.#spot = this.#spot.map((share, side) => Math.min(1, Math.max(0, share + by[side] / 10)));
    this.#look();
  }

  #use(creativity) {
    this.#dialog.close();
    this.#chosen(creativity);
  }

  #say(text) {
    this.#part(".said").textContent = text;
  }

  /** The sheet is not kept. One that is still being made is cancelled first, and deleted once it has ended. */
  async #stop() {
    const job = this.#job;
    this.#job = null;
    this.#control?.abort();
    if (!job) return;
    try {
      await api.discard(job.id);
    } catch {
      // It stays in the list of earlier jobs, where it can be deleted.
    }
  }
}
