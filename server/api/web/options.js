/** The form with the options of a job. They are remembered by this browser. */

import { presets } from "./presets.js";
import * as store from "./store.js";
import * as words from "./words.js";

const LONG_EDGE = { "2k": 2048, "4k": 4096, "8k": 8192 };
const WITH_LOSS = ["jpeg", "webp", "avif"];
const EITHER_WAY = ["webp", "avif"];
const CM_PER = { cm: 1, in: 2.54 };
/** Of a picture when there is none yet, for the examples. */
const USUAL = [1500, 1000];
/** The meanings of server/job/creativity.py; each holds up to the next value. */
const CREATIVITIES = [
  [-2, "Strict: nothing is invented."],
  [-1, "Faithful: almost nothing is invented."],
  [0, "Balanced: detail where the picture has lost it."],
  [1, "Creative: more texture, some of it invented."],
  [2, "Reimagine: as much texture as possible, much of it invented."],
];
const NAMES = [
  "size", "factor", "width", "height", "print", "unit", "dpi", "megapixels", "automatic", "content", "creativity",
  "grain", "faces", "format", "quality", "lossless", "metadata", "hdr", "certificate", "wrap", "model",
];

/** The size of the same shape whose longer side has so many pixels. */
function fitted([width, height], edge) {
  const [long, short] = width >= height ? [width, height] : [height, width];
  const other = Math.max(1, Math.round((short * edge) / long));
  return width >= height ? [edge, other] : [other, edge];
}

export class Options {
  #form;
  #networks;

  /** `form` is index.html's #options; `networks` chooses one of them. */
  constructor(form, networks) {
    this.#form = form;
    this.#networks = networks;
    this.fill(store.options.get() ?? {});
    form.addEventListener("input", () => this.#changed());
    form.querySelector("#presets").addEventListener("click", (event) => {
      const preset = presets(this.#networks.names)[event.target.dataset.preset];
      if (!preset) return;
      this.fill(preset);
      form.dispatchEvent(new Event("input", { bubbles: true }));
    });
  }

  get valid() {
    return this.#form.checkValidity();
  }

  /** All fields as they stand: to be remembered. */
  get values() {
    const fields = this.#form.elements;
    const value = (field) => (field.type === "checkbox" ? field.checked : field.value);
    return Object.fromEntries(NAMES.map((name) => [name, value(fields[name])]));
  }

  /** Set these fields, and leave the others as they are. Values that a field can't have are ignored. */
  fill(values) {
    const fields = this.#form.elements;
    for (const name of NAMES.filter((each) => each in values)) {
      const field = fields[name];
      if (name === "model") this.#networks.choose(values.model);
      else if (field.type === "checkbox") field.checked = Boolean(values[name]) && !field.disabled;
      else {
        const before = field.value;
        field.value = values[name];
        if (field.value !== String(values[name])) field.value = before;
      }
    }
    this.#say();
  }

  /** The parameters as the API takes them, without those that have their default, for a picture of that size. */
  paramsFor(size) {
    const { automatic, content, creativity, grain, faces, format, quality, lossless, metadata } = this.#form.elements;
    const { hdr, certificate, wrap, model } = this.#form.elements;
    return {
      ...this.#sizeFor(size ?? USUAL),
      ...(!automatic.checked && { creativity: creativity.valueAsNumber }),
      ...(!content.disabled && content.value !== "auto" && { content: content.value }),
      ...(grain.valueAsNumber && { grain: grain.valueAsNumber }),
      ...(faces.checked && { faces: true }),
      format: format.value,
      ...(!quality.disabled && quality.value && { quality: quality.valueAsNumber }),
      ...(!lossless.disabled && lossless.checked && { lossless: true }),
      ...(metadata.value !== "keep" && { metadata: metadata.value }),
      ...(hdr.value !== "keep" && { hdr: hdr.value }),
      ...(certificate.checked && { certificate: true }),
      ...(wrap.value !== "none" && { wrap: wrap.value }),
      ...(model.value !== "auto" && { model: model.value }),
    };
  }

  /** Set the creativity, as the sheet of all of them does. */
  create(creativity) {
    this.fill({ automatic: false, creativity });
    this.#form.dispatchEvent(new Event("input", { bubbles: true }));
  }

  /** `reason`: why this server can't restore faces, or null if it can. */
  refuseFaces(reason) {
    const { faces } = this.#form.elements;
    faces.disabled = reason !== null;
    if (reason === null) return;
    faces.checked = false;
    const note = this.#form.querySelector("#faces-note");
    const command = /`([^`]+)`/.exec(reason)?.[1];
    if (command) {
      const code = document.createElement("code");
      code.textContent = command;
      note.replaceChildren("To switch this on, run on the server: ", code);
    } else {
      note.textContent = words.sentence(reason);
    }
  }

  get #printEdge() {
    const { print, unit, dpi } = this.#form.elements;
    return Math.max(1, Math.round((print.valueAsNumber * CM_PER[unit.value] * dpi.valueAsNumber) / 2.54));
  }

  #sizeFor([w, h]) {
    const { size, factor, width, height, megapixels } = this.#form.elements;
    if (size.value in LONG_EDGE) return { target: size.value };
    if (size.value === "area") return { megapixels: megapixels.valueAsNumber };
    if (size.value === "factor") return { scale: factor.valueAsNumber };
    if (size.value === "print") return { size: fitted([w, h], this.#printEdge).join("x") };
    if (size.value !== "exact") return { scale: Number(size.value.slice(1)) };
    const [x, y] = [width.valueAsNumber, height.valueAsNumber];
    const wanted = [x || Math.max(1, Math.round((w * y) / h)), y || Math.max(1, Math.round((h * x) / w))];
    return { size: wanted.join("x") };
  }

  #changed() {
    this.#say();
    store.options.set(this.values);
  }

  #sizeNote() {
    const { size, width, height } = this.#form.elements;
    if (size.value in LONG_EDGE) {
      return `The longer side will have exactly ${words.count(LONG_EDGE[size.value])} pixels. Larger pictures are made smaller.`;
    }
    if (size.value === "factor") return "Up to 10. Below 1 the picture is made smaller.";
    if (size.value === "print") {
      const edge = this.#printEdge;
      return edge ? `The longer side will have ${words.count(edge)} pixels.` : "";
    }
    if (size.value === "area") return "Millions of pixels in all. The picture keeps its shape.";
    if (size.value !== "exact") return "Each side becomes this many times as long.";
    if (width.value && height.value) return "The picture is stretched to this size. Leave one empty to keep its shape.";
    return "The other side follows from the shape of the picture.";
  }

  /** Show the rows that matter, and say what the choices mean. */
  #say() {
    const { size, width, height, automatic, content, creativity, format, quality, lossless, model } = this.#form.elements;
    for (const row of this.#form.querySelectorAll("[data-size]")) {
      const shown = row.dataset.size === size.value;
      row.hidden = !shown;
      for (const field of row.querySelectorAll("input, select")) field.disabled = !shown;
    }
    height.required = !width.value;
    width.required = !height.value;
    this.#form.querySelector("#size-note").textContent = this.#sizeNote();
    lossless.disabled = !EITHER_WAY.includes(format.value);
    this.#form.querySelector("#lossless-row").hidden = lossless.disabled;
    quality.disabled = !WITH_LOSS.includes(format.value) || (!lossless.disabled && lossless.checked);
    this.#form.querySelector("#quality-row").hidden = quality.disabled;
    this.#form.querySelector("#creativity-row").hidden = automatic.checked;
    creativity.disabled = automatic.checked;
    // What the picture shows has an effect only if neither creativity nor network is chosen.
    content.disabled = !automatic.checked || model.value !== "auto";
    this.#form.querySelector("#content-row").hidden = content.disabled;
    const level = creativity.valueAsNumber;
    const signed = level > 0 ? `+${level}` : String(level).replace("-", "−");
    this.#form.querySelector("#creativity-value").value = signed;
    const meaning = CREATIVITIES.findLast(([anchor]) => anchor <= level)[1];
    this.#form.querySelector("#creativity-note").textContent = meaning;
    creativity.setAttribute("aria-valuetext", `${signed}: ${meaning}`);
    const { grain } = this.#form.elements;
    this.#form.querySelector("#grain-value").value = words.percent(grain.valueAsNumber);
    grain.setAttribute("aria-valuetext", words.percent(grain.valueAsNumber));
    this.#sayPreset();
  }

  /** A preset is pressed as long as all that it sets is as it sets it. */
  #sayPreset() {
    const values = this.values;
    const known = presets(this.#networks.names);
    for (const button of this.#form.querySelectorAll("[data-preset]")) {
      const fields = Object.entries(known[button.dataset.preset]);
      button.setAttribute("aria-pressed", String(fields.every(([name, value]) => values[name] === value)));
    }
  }
}
