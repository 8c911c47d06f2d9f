/** The form with the options of a job. */

const LONG_EDGE = { "2k": 2048, "4k": 4096, "8k": 8192 };
const WITH_LOSS = ["jpeg", "webp", "avif"];
/** The meanings of server/job/creativity.py; each holds up to the next value. */
const CREATIVITIES = [
  [-2, "Strict: nothing is invented."],
  [-1, "Faithful: almost nothing is invented."],
  [0, "Balanced: detail where the picture has lost it."],
  [1, "Creative: more texture, some of it invented."],
  [2, "Reimagine: as much texture as possible, much of it invented."],
];

export class Options {
  #form;

  /** `form` is index.html's #options. */
  constructor(form) {
    this.#form = form;
    this.#say();
    form.addEventListener("input", () => this.#say());
  }

  get valid() {
    return this.#form.checkValidity();
  }

  /** The parameters as the API takes them, without those that have their default. */
  get params() {
    const { size, scale, automatic, content, creativity, faces, format, quality, model } = this.#form.elements;
    return {
      ...(size.value in LONG_EDGE
        ? { target: size.value }
        : { scale: size.value === "other" ? scale.valueAsNumber : Number(size.value.slice(1)) }),
      ...(!automatic.checked && { creativity: creativity.valueAsNumber }),
      ...(!content.disabled && content.value !== "auto" && { content: content.value }),
      ...(faces.checked && { faces: true }),
      format: format.value,
      ...(WITH_LOSS.includes(format.value) && quality.value && { quality: quality.valueAsNumber }),
      ...(model.value !== "auto" && { model: model.value }),
    };
  }

  /** Fill the list of networks. */
  offer(models) {
    const select = this.#form.elements.model;
    const chosen = select.value;
    const names = models.map((each) => each.name);
    const offered = models.map((each) => new Option(`${each.name} (${each.form})`, each.name));
    select.replaceChildren(select.options[0], ...offered);
    if (names.includes(chosen)) select.value = chosen;
    this.#say();
  }

  /** `reason`: why this server can't restore faces, or null if it can. */
  refuseFaces(reason) {
    const { faces } = this.#form.elements;
    faces.disabled = reason !== null;
    if (reason !== null) {
      faces.checked = false;
      this.#form.querySelector("#faces-note").textContent = reason;
    }
  }

  #say() {
    const { size, scale, automatic, content, creativity, format, quality, model } = this.#form.elements;
    const other = size.value === "other";
    this.#form.querySelector("#scale-row").hidden = !other;
    scale.disabled = !other;
    this.#form.querySelector("#size-note").textContent =
      size.value in LONG_EDGE
        ? `The long edge will be exactly ${LONG_EDGE[size.value]} pixels. Larger pictures are reduced to it.`
        : other
          ? "Up to 10. Below 1 the picture is reduced."
          : "Each side becomes this many times as long.";
    const lossy = WITH_LOSS.includes(format.value);
    this.#form.querySelector("#quality-row").hidden = !lossy;
    quality.disabled = !lossy;
    this.#form.querySelector("#creativity-row").hidden = automatic.checked;
    creativity.disabled = automatic.checked;
    // What the picture shows has an effect only if neither creativity nor network is chosen.
    content.disabled = !automatic.checked || model.value !== "auto";
    this.#form.querySelector("#content-row").hidden = content.disabled;
    const level = creativity.valueAsNumber;
    const signed = level > 0 ? `+${level}` : String(level).replace("-", "−");
    this.#form.querySelector("#creativity-value").value = signed;
    const words = CREATIVITIES.findLast(([anchor]) => anchor <= level)[1];
    this.#form.querySelector("#creativity-note").textContent = words;
    creativity.setAttribute("aria-valuetext", `${signed}: ${words}`);
  }
}
