/** Keeps cards up to date while their jobs run. */

import * as api from "./api.js";

/** NOTE: a browser opens six connections to one host, for all its tabs together, and each stream keeps one open. */
const STREAMS = 2;
const RETRY_MS = 1000;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const running = (card) => (card.job.state === "running" ? 0 : 1);

export class Follower {
  #cards;
  #changed;
  #ended;
  #open = 0;

  /** `cards()`: all there are. `changed()` is called after every change, `ended(card)` once a job has ended. */
  constructor(cards, changed, ended) {
    this.#cards = cards;
    this.#changed = changed;
    this.#ended = ended;
  }

  /** There may be new jobs, or new changes. Those that run come first. */
  async wake() {
    const waiting = this.#cards().filter((card) => card.job && !card.ended && !card.followed);
    const card = waiting.sort((one, other) => running(one) - running(other))[0];
    if (!card || this.#open === STREAMS) return;
    this.#open += 1;
    card.followed = true;
    this.wake();
    try {
      for await (const job of api.changes(card.job.id)) {
        card.update(job);
        this.#changed();
      }
    } catch (error) {
      // A broken connection is opened again; an error from the server itself is final.
      if (error instanceof api.ApiError && error.code !== "unreachable") Object.assign(card, { error, lost: true });
      else await pause(RETRY_MS);
    }
    card.followed = false;
    this.#open -= 1;
    if (card.ended) {
      card.render();
      this.#ended(card);
    }
    this.#changed();
    this.wake();
  }
}
