/** A dialog: which parts of a picture are protected. Boxes are drawn, or typed; or a mask's picture is chosen. */

import * as api from "./api.js";
import * as words from "./words.js";

const SMALLEST_CSS = 4;

export class Mask {
  #dialog;
  #chosen;
  #card = null;
  #from = null;
  /** The address of a mask's picture on the server, instead of boxes. */
  #image = null;

  /** `dialog` is index.html's #mask. `chosen()` is called when a card's mask has changed. */
  constructor(dialog, chosen) {
    this.#dialog = dialog;
    this.#chosen = chosen;
    const stage = this.#part(".stage");
    stage.addEventListener("pointerdown", (event) => this.#down(event));
    stage.addEventListener("pointermove", (event) => this.#from && this.#drag(event));
    stage.addEventListener("pointerup", () => this.#up());
    stage.addEventListener("pointercancel", () => this.#up());
    dialog.addEventListener("input", (event) => event.target.type === "number" && this.#draw());
    this.#part("[type=file]").addEventListener("change", (event) => this.#take(event.target));
    dialog.addEventListener("click", ({ target }) => {
      const what = target.closest("button")?.dataset.do;
      if (what === "add") this.#add(this.#middle()).querySelector("input").focus();
      else if (what === "picture") this.#part("[type=file]").click();
      else if (what === "remove") this.#remove(target.closest("li"));
      else if (what === "nothing") this.#use(null);
      else if (what === "use") this.#read();
      else if (what === "close") dialog.close();
    });
  }

  open(card) {
    this.#card = card;
    card.showIn(this.#part(".stage"));
    this.#part("select").value = card.mask?.keep ?? "inside";
    this.#part(".boxes").replaceChildren();
    for (const box of card.mask?.boxes ?? []) this.#add(box);
    this.#image = card.mask?.image ?? null;
    this.#say(this.#image ? "A picture says what is protected." : "");
    this.#draw();
    this.#dialog.showModal();
  }

  #part(selector) {
    return this.#dialog.querySelector(selector);
  }

  get #rows() {
    return [...this.#part(".boxes").children];
  }

  #say(text) {
    this.#part(".said").textContent = text;
  }

  #middle() {
    const [w, h] = this.#card.size;
    return [w, h, w, h].map((side, index) => Math.max(index > 1 ? 1 : 0, Math.floor(side / (index > 1 ? 2 : 4))));
  }

  /** `box`: left, top, width and height in pixels of the picture. Boxes replace a mask's picture. */
  #add(box) {
    this.#image = null;
    this.#say("");
    const row = document.getElementById("box").content.firstElementChild.cloneNode(true);
    row.querySelectorAll("input").forEach((field, index) => {
      field.max = this.#card.size[index % 2];
      field.value = box[index];
    });
    this.#part(".boxes").append(row);
    this.#draw();
    return row;
  }

  #remove(row) {
    (row.nextElementSibling?.querySelector("button") ?? this.#part("[data-do=add]")).focus();
    row.remove();
    this.#draw();
  }

  #box(row) {
    return [...row.querySelectorAll("input")].map((field) => field.valueAsNumber || 0);
  }

  /** The frames on the picture, as the numbers say, and of the box that is being drawn. */
  #draw() {
    const stage = this.#part(".stage");
    for (const frame of stage.querySelectorAll(".box")) frame.remove();
    const [w, h] = this.#card.size;
    const boxes = this.#rows.map((row) => this.#box(row));
    if (this.#from?.box) boxes.push(this.#from.box);
    for (const [left, top, width, height] of boxes) {
      const frame = document.createElement("div");
      frame.className = "box";
      Object.assign(frame.style, {
        left: `${(100 * left) / w}%`,
        top: `${(100 * top) / h}%`,
        width: `${(100 * width) / w}%`,
        height: `${(100 * height) / h}%`,
      });
      stage.append(frame);
    }
  }

  // --- drawing ---

  #at(event) {
    const { left, top, width, height } = this.#part(".stage").getBoundingClientRect();
    const shares = [(event.clientX - left) / width, (event.clientY - top) / height];
    return shares.map((share, index) => Math.round(Math.min(1, Math.max(0, share)) * this.#card.size[index]));
  }

  #down(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.#part(".stage").setPointerCapture(event.pointerId);
    this.#from = { at: this.#at(event), x: event.clientX, y: event.clientY, box: null };
  }

  #drag(event) {
    const { at, x, y } = this.#from;
    if (!this.#from.box && Math.hypot(event.clientX - x, event.clientY - y) < SMALLEST_CSS) return;
    const to = this.#at(event);
    const corner = [0, 1].map((side) => Math.min(at[side], to[side], this.#card.size[side] - 1));
    const size = [0, 1].map((side) => Math.max(1, Math.abs(at[side] - to[side])));
    this.#from.box = [...corner, ...size];
    this.#draw();
  }

  /** NOTE: its numbers come only now: the dialog grows with them, and the picture would move below the pointer. */
  #up() {
    const box = this.#from?.box;
    this.#from = null;
    if (box) this.#add(box);
  }

  // --- the end ---

  async #take(input) {
    const [file] = input.files;
    if (!file) return;
    input.value = ""; // so that the same file can be chosen again
    this.#say("Sending …");
    try {
      const image = await api.put(file);
      this.#part(".boxes").replaceChildren();
      this.#draw();
      this.#image = image;
      this.#say(`${file.name} says what is protected. It is stretched to the picture.`);
    } catch (error) {
      this.#say(words.sentence(error.message));
    }
  }

  #read() {
    const bad = this.#rows.flatMap((row) => [...row.querySelectorAll("input")]).find((field) => !field.reportValidity());
    if (bad) return;
    const keep = this.#part("select").value;
    const boxes = this.#rows.map((row) => this.#box(row));
    if (this.#image) this.#use({ image: this.#image, keep });
    else this.#use(boxes.length ? { boxes, keep } : null);
  }

  #use(mask) {
    this.#card.mask = mask;
    this.#card.render();
    this.#dialog.close();
    this.#chosen();
  }
}
