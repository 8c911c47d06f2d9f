/** How far all pictures of this visit are together, and the time that is left. */

import * as words from "./words.js";

/** The share of the work below which no time is stated: it would be a guess. */
const SMALLEST_SHARE = 0.02;

export class Total {
  #root;
  #start = null;

  /** `root`: index.html's #total. */
  constructor(root) {
    this.#root = root;
  }

  show(cards) {
    const sent = cards.filter((card) => !card.isNew);
    const done = sent.filter((card) => card.done);
    const ended = sent.filter((card) => card.ended);
    const part = (selector) => this.#root.querySelector(selector);
    const alive = sent.length > ended.length;
    this.#root.hidden = !cards.length;
    part("progress").hidden = !alive;
    part("[data-do=zip]").hidden = done.length < 2;
    part("[data-do=zip]").textContent = `Download ${words.count(done.length)} as ZIP`;
    part("[data-do=clear]").hidden = !ended.length && !cards.some((card) => card.refused);
    const share = this.#share(sent);
    part("progress").value = share;
    const failed = ended.length - done.length;
    part(".said").textContent = sent.length
      ? [`${words.count(done.length)} of ${words.plural(sent.length, "picture")} done`, failed && `${failed} without a result`, alive && this.#left(share)].filter(Boolean).join(", ")
      : words.plural(cards.length, "picture");
    if (!alive) this.#start = null;
  }

  /** Done work by all work; of two pictures the one that takes twice the time counts twice, where that is known. */
  #share(cards) {
    const known = cards.map((card) => card.plan?.estimate.seconds).filter(Boolean);
    const usual = known.length ? known.reduce((sum, each) => sum + each) / known.length : 1;
    const weight = (card) => card.plan?.estimate.seconds || usual;
    const all = cards.reduce((sum, card) => sum + weight(card), 0);
    return all ? cards.reduce((sum, card) => sum + weight(card) * card.progress, 0) / all : 0;
  }

  #left(share) {
    this.#start ??= { at: performance.now(), share };
    const made = share - this.#start.share;
    if (made < 0) this.#start = { at: performance.now(), share }; // there are new pictures
    if (made < SMALLEST_SHARE) return "";
    const seconds = (performance.now() - this.#start.at) / 1000;
    return `about ${words.duration((seconds / made) * (1 - share))} left`;
  }
}
