/** The other jobs of the same key, newest first: of earlier visits and of other programs. */

import * as api from "./api.js";
import { Card } from "./card.js";
import * as words from "./words.js";

const PAGE = 20;

const newest = (one, other) => (one.job.created_at < other.job.created_at ? 1 : -1);

export class Earlier {
  #root;
  #list;
  #act;
  #mine;
  #cards = new Map();
  /** How many older jobs are not in the list. They are counted from the oldest, so that new jobs move nothing. */
  #rest = null;

  /** `root`: index.html's #earlier. `mine(job)`: the card of this visit with that job, or undefined. */
  constructor(root, act, mine) {
    this.#root = root;
    this.#list = root.querySelector("ol");
    this.#act = act;
    this.#mine = mine;
  }

  get cards() {
    return [...this.#cards.values()];
  }

  /** The newest jobs, again; the first time also enough of them to fill a page. */
  async refresh() {
    if (this.#rest === null) return this.more();
    const { jobs, total } = await api.jobs(PAGE);
    const known = this.cards.map((card) => card.job.created_at).sort();
    const oldest = this.#rest ? known[0] : "";
    this.#take(jobs.filter((job) => this.#cards.has(job.id) || job.created_at > (oldest ?? "")));
    if (jobs.length === total) this.#rest = 0;
    const last = jobs.at(-1)?.created_at ?? "";
    const ids = new Set(jobs.map((job) => job.id));
    for (const [id, card] of this.#cards) {
      const gone = card.job.created_at > last || jobs.length === total;
      if (gone && !ids.has(id)) this.drop(card);
    }
    return this.render();
  }

  /** Older ones: a page of them. */
  async more() {
    const wanted = this.#cards.size + PAGE;
    do {
      const { total } = this.#rest === null ? { total: 0 } : await api.jobs(1);
      const offset = Math.max(0, total - (this.#rest ?? 0));
      const found = await api.jobs(PAGE, offset);
      this.#take(found.jobs);
      this.#rest = found.jobs.length ? Math.max(0, found.total - offset - found.jobs.length) : 0;
    } while (this.#rest && this.#cards.size < wanted);
    this.render();
  }

  /** Cards that were of this visit. */
  adopt(cards) {
    for (const card of cards) this.#cards.set(card.job.id, card);
    this.render();
  }

  drop(card) {
    if (!this.#cards.delete(card.job?.id)) return;
    card.close();
    this.render();
  }

  forget() {
    for (const card of this.cards) this.drop(card);
    this.#rest = null;
  }

  #take(jobs) {
    for (const job of jobs) {
      const mine = this.#mine(job);
      if (mine) {
        if (!mine.followed && !mine.ended) mine.update(job);
        if (this.#cards.has(job.id)) this.drop(this.#cards.get(job.id));
        continue;
      }
      const card = this.#cards.get(job.id);
      if (!card) this.#cards.set(job.id, new Card({ job }, this.#act));
      else if (!card.followed) card.update(job);
    }
  }

  render() {
    const sorted = this.cards.sort(newest);
    sorted.forEach((card, place) => {
      const there = this.#list.children[place];
      if (there !== card.element) this.#list.insertBefore(card.element, there ?? null);
    });
    this.#root.querySelector("#earlier-none").hidden = sorted.length > 0;
    const more = this.#root.querySelector("[data-do=more]");
    more.hidden = !this.#rest;
    more.textContent = `Show more (${words.count(this.#rest ?? 0)} older)`;
  }
}
