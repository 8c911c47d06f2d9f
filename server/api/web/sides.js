/** What can stand on the two sides of the comparison: the picture as it was, and results of pictures of its shape. */

import * as api from "./api.js";
import * as words from "./words.js";

const BEFORE = "before";
/** How far the shapes of two pictures may differ, as rounding to whole pixels makes them. */
const TOLERANCE = 0.02;
const PREVIEW = 2048;

const shape = ({ width, height }) => Math.log(width / height);

export class Sides {
  #compare;
  #selects;
  #cards;
  #card = null;

  /** `root` is index.html's #compare; `cards()`: all there are. */
  constructor(root, compare, cards) {
    this.#compare = compare;
    this.#cards = cards;
    this.#selects = [root.querySelector("#left-side"), root.querySelector("#right-side")];
    for (const select of this.#selects) select.addEventListener("change", () => this.#show());
  }

  /** The card whose result is being looked at, or null. */
  get card() {
    return this.#card;
  }

  /** Its result beside the picture as it was. */
  open(card) {
    this.#card = card;
    this.#fill();
    const [left, right] = this.#selects;
    left.value = card.address ? BEFORE : card.job.id;
    right.value = card.job.id;
    this.#show();
  }

  close() {
    this.#card = null;
    this.#compare.hide();
  }

  /** There may be other results to choose from. */
  refresh() {
    if (!this.#card) return;
    const chosen = this.#selects.map((select) => select.value);
    this.#fill();
    this.#selects.forEach((select, index) => (select.value = chosen[index]));
    if (this.#selects.some((select) => !select.value)) this.open(this.#card); // one of them was deleted
  }

  #fill() {
    const { result } = this.#card.job;
    const others = this.#cards().filter(
      (card) => card.done && card !== this.#card && !card.job.params.sweep && Math.abs(shape(card.job.result) - shape(result)) < TOLERANCE,
    );
    const same = others.filter((card) => card.name === this.#card.name);
    const results = [this.#card, ...same, ...others.filter((card) => !same.includes(card))];
    const labels = results.map((card) => [card.job.id, label(card, card.name !== this.#card.name)]);
    if (this.#card.address) labels.unshift([BEFORE, "Before"]);
    const now = JSON.stringify(labels);
    for (const select of this.#selects) {
      if (select.dataset.labels === now) continue; // an open list would close
      select.dataset.labels = now;
      select.replaceChildren(...labels.map(([value, text]) => new Option(text, value)));
      select.closest("label").hidden = labels.length < 3;
    }
  }

  #show() {
    const [left, right] = this.#selects.map((select) => this.#side(select.value));
    const { width, height } = this.#card.job.result;
    const single = this.#selects[0].value === this.#selects[1].value;
    this.#compare.show({ name: this.#card.name, left: single ? null : left, right, width, height });
  }

  #side(value) {
    const card = this.#cards().find((each) => each.job?.id === value) ?? this.#card;
    if (value !== BEFORE) {
      const { result } = card.job;
      const tag = this.#selects[0].value === BEFORE && value === this.#card.job.id ? "After" : label(card, false);
      return { address: api.address(result), otherwise: api.previewAddress(result, PREVIEW), tag };
    }
    const otherwise = this.#card.source && api.previewAddress(this.#card.source, PREVIEW);
    return { address: this.#card.address, otherwise, tag: "Before" };
  }
}

function label(card, withName) {
  const { params, result, finished_at } = card.job;
  const creativity = params.creativity === null ? [] : [`creativity ${params.creativity}`.replace("-", "−")];
  const facts = [words.size([result.width, result.height]), result.model, ...creativity, words.moment(finished_at)].join(", ");
  return withName ? `${card.name}: ${facts}` : facts;
}
