/** The choice of a network: what each one is for, and how long it takes on this machine. */

import * as words from "./words.js";

/** In plain words, for those that come with the server; of others the server's own note is shown. */
const PURPOSE = {
  "fidelity-x4": "Fast. Stays with the picture and invents nothing: for text, screens, and large pictures.",
  RealESRGAN_x4plus: "Photos. Draws the most detail, some of it invented.",
  RealESRGAN_x4plus_anime_6B: "Drawings and anime, with clean lines.",
  "realesr-animevideov3": "Drawings and animations. Small and fast.",
};

export class Networks {
  names = [];
  #root;
  #models = [];
  #chosen = "auto";

  /** `root` is index.html's #networks. */
  constructor(root) {
    this.#root = root;
    root.addEventListener("change", (event) => this.choose(event.target.value));
  }

  /** Fill the list; `models` as GET /models has them. */
  offer(models) {
    const names = models.map((each) => each.name);
    this.#models = models;
    if (names.join() === this.names.join()) return; // new rows would lose the focus while one is being chosen
    this.names = names;
    const list = this.#root.querySelector(".networks");
    list.replaceChildren(list.firstElementChild, ...models.map((each) => this.#row(each)));
    this.choose(this.#chosen);
  }

  /** A name, or "auto"; one that is not here stays wanted until the list comes. */
  choose(name) {
    this.#chosen = name;
    const radios = [...this.#root.querySelectorAll("[name=model]")];
    const found = radios.find((each) => each.value === name) ?? radios[0];
    found.checked = true;
    this.#root.querySelector(".chosen").textContent = found.value === "auto" ? "Automatic" : found.value;
  }

  /** Say how long each takes for pictures of so many pixels together. */
  time(pixels) {
    for (const { name, seconds_per_megapixel: pace } of this.#models) {
      const note = this.#root.querySelector(`[data-network="${CSS.escape(name)}"] .time`);
      const seconds = pace && (pace * (pixels || 1e6)) / 1e6;
      note.textContent = !seconds
        ? "Its time here is not known yet."
        : pixels
          ? `About ${words.duration(seconds)} for the pictures that are ready.`
          : `About ${words.duration(seconds)} here for a picture of one megapixel.`;
    }
  }

  #row({ name, note }) {
    const row = document.getElementById("network").content.firstElementChild.cloneNode(true);
    row.dataset.network = name;
    row.querySelector("input").value = name;
    row.querySelector(".name").textContent = name;
    row.querySelector(".purpose").textContent = PURPOSE[name] ?? words.sentence(note);
    return row;
  }
}
