/** The pictures of this visit: chosen here, checked, planned and sent; their jobs are found again after a reload. */

import * as api from "./api.js";
import { Card } from "./card.js";
import * as kinds from "./kinds.js";
import { inTurn } from "./lanes.js";
import * as store from "./store.js";
import * as words from "./words.js";

const SETTLE_MS = 150;
const PREVIEW = 352;
/** To look at a picture, without a limit of its result; whatever it is, PNG can hold it. */
const LOOK = { scale: 1, hdr: "tone-map" };

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function unlessGone(error) {
  if (error.code !== "not_found") throw error;
}

export class Visit {
  cards = [];
  #list;
  #options;
  #hooks;
  #limits = null;
  /** New pictures about which the server could not be asked, with their kinds. */
  #unseen = new Map();
  #planning = new AbortController();
  #planned = Promise.resolve();

  /** `hooks`: act(what, card), changed(), say(text), complain(error), left(names): files of folders left out. */
  constructor(list, options, hooks) {
    this.#list = list;
    this.#options = options;
    this.#hooks = hooks;
  }

  /** The server's own, as GET /models has them. */
  set limits(limits) {
    this.#limits = limits;
  }

  get ready() {
    return this.cards.filter((card) => card.ready);
  }

  /** Pictures that are not with the server yet: a reload would lose them. */
  get unsent() {
    return this.cards.some((card) => card.file && (card.sending || card.ready));
  }

  /** The server could not be asked about some pictures. */
  get waits() {
    return this.#unseen.size > 0 || this.cards.some((card) => card.isNew && card.error?.code === "unreachable");
  }

  has(job) {
    return this.cards.some((card) => card.job?.id === job.id);
  }

  /** `files`: as gather.js returns them. In folders, files that are no pictures are left out and named. */
  async add(files) {
    const found = [];
    const left = [];
    for (const { file, path, inFolder } of files) {
      const kind = await kinds.look(file).catch(() => null);
      if (kind === null) left.push(path); // the browser can't read it (any more)
      else if (inFolder && !kind.known) left.push(path);
      else found.push([new Card({ file, path }, this.#hooks.act), kind]);
    }
    for (const [card] of found) this.#append(card);
    if (found.length) this.#hooks.say(`${words.plural(found.length, "picture")} added`);
    if (left.length) this.#hooks.left(left);
    this.#hooks.changed();
    for (const [card, kind] of found) this.#look(card, kind);
  }

  /** The same picture again, with whatever the options are then. */
  again(card) {
    const next = new Card({ again: card }, this.#hooks.act);
    this.#append(next);
    if (next.size) this.plan();
    else this.#look(next, { known: true, shown: false });
    return next;
  }

  /** Ask for the plan of every picture that was not sent yet; an earlier round is aborted. */
  plan() {
    this.#planning.abort();
    this.#planning = new AbortController();
    this.#hooks.changed();
    for (const [card, kind] of this.#unseen) this.#look(card, kind);
    if (this.#options.valid) this.#planned = this.#planAll(this.#planning.signal);
  }

  async send() {
    await this.#planned;
    const cards = this.ready;
    cards[0]?.element.focus(); // because the button will be disabled
    for (const card of cards) {
      Object.assign(card, { sending: true, error: null, control: new AbortController() });
      card.render();
    }
    this.#hooks.changed();
    await Promise.all(cards.map((card) => this.#send(card, this.#paramsFor(card))));
  }

  /** Take what has ended, and what can't be sent, from the list. Returns the cards that have jobs. */
  clear() {
    const cards = this.cards.filter((card) => card.ended || card.refused);
    this.cards = this.cards.filter((card) => !cards.includes(card));
    for (const card of cards) card.element.remove();
    this.#remember();
    this.#hooks.changed();
    return cards.filter((card) => card.job && !card.lost);
  }

  drop(card) {
    this.#unseen.delete(card);
    this.cards = this.cards.filter((each) => each !== card);
    this.#remember();
  }

  /** The jobs of this tab, as they are now. */
  async restore() {
    const ids = (store.visit.get() ?? []).filter((id) => !this.has({ id }));
    const found = await Promise.all(ids.map((id) => api.job(id).catch(unlessGone)));
    for (const job of found.filter(Boolean)) this.#append(new Card({ job }, this.#hooks.act));
    this.#remember();
    this.#hooks.changed();
  }

  #append(card) {
    this.cards.push(card);
    this.#list.append(card.element);
  }

  #remember() {
    store.visit.set(this.cards.map((card) => card.job?.id).filter(Boolean));
  }

  /** Find the size of a new picture, and whether it can be read at all: by the browser, else by the server. */
  async #look(card, kind) {
    this.#unseen.delete(card);
    Object.assign(card, { error: null });
    card.render();
    try {
      this.#checkBytes(card);
      const found = kind.shown && !kind.moving ? await kinds.measure(card.file) : null;
      Object.assign(card, found ?? (await this.#ask(card, kind)));
      this.#checkPixels(card);
      await this.#planOne(card, this.#planning.signal);
    } catch (error) {
      if (["unauthorized", "unreachable"].includes(error.code)) this.#unseen.set(card, kind);
      this.#refuse(card, error);
    }
    card.sent = null;
    card.render();
    this.#hooks.changed();
  }

  async #ask(card, { known, shown, head }) {
    const onSent = (share) => {
      card.sent = share;
      card.render();
    };
    const control = { signal: card.control.signal, onSent };
    // What the server does not know by its first bytes is refused, however long it is.
    if (!known) return api.planOf(LOOK, { file: head }, control);
    const picture = { ...card.picture };
    const made = await inTurn(picture.file?.size ?? 0, () => api.planOf({ ...LOOK, preview: PREVIEW }, picture, control));
    const found = { size: made.source, frames: made.frames };
    return card.thumb ? found : { ...found, thumb: (shown && (await kinds.measure(card.file))?.thumb) || made.preview };
  }

  #checkBytes({ file }) {
    const limit = this.#limits?.source_bytes;
    if (!file || !limit || file.size <= limit) return;
    const message = `the file has ${words.bytes(file.size)}, and this server takes at most ${words.bytes(limit)}: save it as JPEG, or raise UPSCALE_MAX_SOURCE_BYTES on the server`;
    throw new api.ApiError({ code: "source_too_large", message });
  }

  #checkPixels({ size: [width, height] }) {
    const limit = this.#limits?.source_pixels;
    if (!limit || width * height <= limit) return;
    const message = `the picture has ${words.size([width, height])} pixels, and this server takes at most ${words.count(limit)}: make it smaller first, or raise UPSCALE_MAX_SOURCE_PIXELS on the server`;
    throw new api.ApiError({ code: "source_too_large", message });
  }

  #refuse(card, error) {
    if (error.name === "AbortError") return;
    const code = error.code ?? "unknown";
    Object.assign(card, { plan: null, error, refused: code.startsWith("source_") || code === "too_large" });
    if (code === "unauthorized") this.#hooks.complain(error);
    else this.#hooks.say(`${card.name}: ${error.message}`);
  }

  async #planAll(signal) {
    await pause(SETTLE_MS);
    for (const card of this.cards.filter((each) => each.isNew && each.size && !each.refused)) {
      if (signal.aborted) return;
      await this.#planOne(card, signal);
      card.render();
      this.#hooks.changed();
    }
  }

  async #planOne(card, signal) {
    if (!this.#options.valid) return;
    try {
      const plan = await api.plan(this.#paramsFor(card), card.size, card.frames, signal);
      Object.assign(card, { plan, error: null });
    } catch (error) {
      this.#refuse(card, error);
    }
  }

  #paramsFor({ size, mask }) {
    return { ...this.#options.paramsFor(size), ...(mask && { mask }) };
  }

  async #send(card, params) {
    const onSent = (share) => {
      card.sent = share;
      card.render();
    };
    const { signal } = card.control;
    try {
      await inTurn(card.file?.size ?? 0, async () => {
        signal.throwIfAborted();
        card.job = await api.submit(params, card.picture, { signal, onSent });
      });
      this.#remember();
    } catch (error) {
      if (error.name !== "AbortError") {
        card.error = error;
        this.#hooks.say(`${card.name}: ${error.message}`);
      }
    }
    Object.assign(card, { sending: false, sent: null });
    card.render();
    this.#hooks.changed();
  }
}
