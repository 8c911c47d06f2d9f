/**
 * Two pictures of one scene in the same view, with a border that can be moved between them; zoom, pan, and a lens that
 * shows both at one to one. Lengths in pixels of the page are "css"; one to one means pixels of the screen.
 */

const LARGEST_ZOOM = 8;
const STEP = 1.4;
const PAN_CSS = 48;
const GRIP_CSS = 28;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const oneToOne = () => 1 / window.devicePixelRatio;

export class Compare {
  #root;
  #view;
  #images;
  #split;
  #lens;
  #pointers = new Map();
  #grip = "";
  #size = [1, 1];
  #zoom = 1; // css pixels for a pixel of the result
  #x = 0; // of its upper left corner in the view
  #y = 0;
  #spot = [0.5, 0.5]; // position of the lens, 0…1 of the picture's width and height
  #fitted = true;

  /** `root` holds the markup of index.html's #compare. */
  constructor(root) {
    this.#root = root;
    this.#view = root.querySelector(".view");
    this.#split = root.querySelector(".split");
    this.#lens = root.querySelector(".lens");
    const [lensLeft, lensRight] = this.#lens.querySelectorAll("img");
    this.#images = { left: [root.querySelector(".left img"), lensLeft], right: [root.querySelector(".right"), lensRight] };
    root.querySelector(".tools").addEventListener("click", (event) => this.#do(event.target.dataset.do));
    this.#split.addEventListener("input", () => this.#place());
    this.#view.addEventListener("keydown", (event) => this.#key(event));
    this.#view.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.#view.addEventListener("dblclick", (event) => this.#toggle(this.#at(event)));
    this.#view.addEventListener("pointerdown", (event) => this.#down(event));
    this.#view.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      this.#view.addEventListener(end, (event) => this.#pointers.delete(event.pointerId));
    }
    new ResizeObserver(() => (this.#fitted ? this.#fit() : this.#place())).observe(this.#view);
  }

  /**
   * Both pictures: `address`, `otherwise` (an address for browsers that can't show the first), and `tag`, its name; and
   * the size in which they are shown. Without `left`, only the other one is shown.
   */
  show({ name, left, right, width, height }) {
    const fresh = this.#root.hidden || this.#size[0] / this.#size[1] !== width / height;
    this.#root.hidden = false;
    this.#root.classList.toggle("single", !left);
    this.#root.querySelector("h3").textContent = name;
    this.#unshown(false);
    this.#load(this.#images.left, left);
    this.#load(this.#images.right, right);
    this.#root.querySelector(".tag-left").textContent = left?.tag ?? "";
    this.#root.querySelector(".tag-right").textContent = right.tag;
    this.#zoom *= this.#size[0] / width;
    this.#size = [width, height];
    this.#view.style.setProperty("--aspect", width / height);
    if (fresh) this.#split.value = 50;
    if (fresh || this.#fitted) this.#fit();
    else this.#place();
  }

  hide() {
    this.#root.hidden = true;
  }

  #load(images, side) {
    for (const image of images) {
      if (!side) {
        image.removeAttribute("src");
        continue;
      }
      image.alt = image === images[0] ? side.tag : "";
      image.onerror = () => {
        if (!side.otherwise || image.getAttribute("src") === side.otherwise) return this.#unshown(true);
        for (const each of images) each.src = side.otherwise;
      };
      if (image.getAttribute("src") !== side.address) image.src = side.address;
    }
  }

  // --- what the view shows ---

  get #box() {
    return [this.#view.clientWidth, this.#view.clientHeight];
  }

  get #fitting() {
    const [[vw, vh], [w, h]] = [this.#box, this.#size];
    return Math.min(vw / w, vh / h, oneToOne());
  }

  #fit() {
    this.#zoom = this.#fitting;
    this.#fitted = true;
    this.#place();
  }

  #zoomTo(zoom, [atX, atY] = this.#box.map((side) => side / 2)) {
    const before = this.#zoom;
    this.#zoom = clamp(zoom, this.#fitting, LARGEST_ZOOM * oneToOne());
    this.#x = atX - ((atX - this.#x) * this.#zoom) / before;
    this.#y = atY - ((atY - this.#y) * this.#zoom) / before;
    this.#fitted = this.#zoom === this.#fitting;
    this.#place();
  }

  #pan(byX, byY) {
    this.#x += byX;
    this.#y += byY;
    this.#place();
  }

  #toggle(at) {
    if (this.#fitted) this.#zoomTo(oneToOne(), at);
    else this.#fit();
  }

  #place() {
    const [[vw, vh], [w, h]] = [this.#box, this.#size];
    const within = (offset, view, length) => (length <= view ? (view - length) / 2 : clamp(offset, view - length, 0));
    this.#x = within(this.#x, vw, w * this.#zoom);
    this.#y = within(this.#y, vh, h * this.#zoom);
    for (const [image] of Object.values(this.#images)) this.#put(image, this.#x, this.#y, this.#zoom);
    this.#view.style.setProperty("--split", `${this.#split.value}%`);
    this.#view.classList.toggle("zoomed", !this.#fitted);
    this.#split.setAttribute("aria-valuetext", `${Math.round(this.#split.value)} % of the left picture`);
    this.#root.querySelector(".zoom").textContent = `${Math.round((100 * this.#zoom) / oneToOne())} %`;
    if (!this.#lens.hidden) this.#placeLens();
  }

  #placeLens() {
    const [[vw, vh], [w, h]] = [this.#box, this.#size];
    const [ix, iy] = [this.#spot[0] * w, this.#spot[1] * h];
    for (const [, image] of Object.values(this.#images)) {
      const side = image.parentElement.clientWidth;
      this.#put(image, side / 2 - ix * oneToOne(), side / 2 - iy * oneToOne(), oneToOne());
    }
    const [atX, atY] = [this.#x + ix * this.#zoom, this.#y + iy * this.#zoom];
    const { offsetWidth, offsetHeight } = this.#lens;
    const above = atY - offsetHeight - GRIP_CSS;
    const left = clamp(atX - offsetWidth / 2, 0, Math.max(0, vw - offsetWidth));
    const top = clamp(above < 0 ? atY + GRIP_CSS : above, 0, Math.max(0, vh - offsetHeight));
    this.#lens.style.transform = `translate(${left}px, ${top}px)`;
  }

  #put(image, x, y, zoom) {
    const [w, h] = this.#size;
    image.style.width = `${w}px`; // of both: the source is stretched over the result
    image.style.height = `${h}px`;
    image.style.transform = `translate(${x}px, ${y}px) scale(${zoom})`;
  }

  #moveLens([atX, atY]) {
    const [w, h] = this.#size;
    this.#spot = [clamp((atX - this.#x) / (w * this.#zoom), 0, 1), clamp((atY - this.#y) / (h * this.#zoom), 0, 1)];
    this.#placeLens();
  }

  #unshown(is) {
    this.#root.classList.toggle("broken", is);
    this.#root.querySelector(".unshown").hidden = !is;
  }

  // --- user input ---

  #do(what) {
    if (what === "fit") this.#fit();
    else if (what === "actual") this.#zoomTo(oneToOne());
    else if (what === "in") this.#zoomTo(this.#zoom * STEP);
    else if (what === "out") this.#zoomTo(this.#zoom / STEP);
    else if (what === "lens") {
      this.#lens.hidden = !this.#lens.hidden;
      this.#root.querySelector("[data-do=lens]").setAttribute("aria-pressed", String(!this.#lens.hidden));
      this.#place();
    }
  }

  #key(event) {
    const what = { "+": "in", "=": "in", "-": "out", 0: "fit", 1: "actual" }[event.key];
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (what) this.#do(what);
    else if (arrow && event.target === this.#view) this.#arrow(...arrow);
    else return;
    event.preventDefault();
  }

  #arrow(x, y) {
    if (this.#lens.hidden) return this.#pan(-x * PAN_CSS, -y * PAN_CSS);
    const [w, h] = this.#size;
    const [atX, atY] = [this.#x + this.#spot[0] * w * this.#zoom, this.#y + this.#spot[1] * h * this.#zoom];
    return this.#moveLens([atX + x * 8, atY + y * 8]);
  }

  #wheel(event) {
    if (!event.ctrlKey && !event.metaKey) return; // without Ctrl the wheel scrolls the page
    event.preventDefault();
    this.#zoomTo(this.#zoom * Math.exp(-event.deltaY / 200), this.#at(event));
  }

  #at(event) {
    const { left, top } = this.#view.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  #down(event) {
    if (event.button !== 0) return;
    this.#view.setPointerCapture(event.pointerId);
    const at = this.#at(event);
    const border = (this.#box[0] * this.#split.value) / 100;
    if (Math.abs(at[0] - border) < GRIP_CSS) this.#grip = "split";
    else if (!this.#lens.hidden) this.#grip = "lens";
    else this.#grip = this.#fitted ? "split" : "pan";
    this.#pointers.set(event.pointerId, at);
    if (this.#pointers.size === 1) this.#drag(at, at);
  }

  #move(event) {
    const at = this.#at(event);
    const was = this.#pointers.get(event.pointerId);
    if (!was) {
      if (!this.#lens.hidden) this.#moveLens(at);
      return;
    }
    this.#pointers.set(event.pointerId, at);
    const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) this.#pinch(was, at, other);
    else this.#drag(was, at);
  }

  #drag(was, at) {
    if (this.#grip === "lens") this.#moveLens(at);
    else if (this.#grip === "pan") this.#pan(at[0] - was[0], at[1] - was[1]);
    else {
      this.#split.value = (100 * at[0]) / this.#box[0];
      this.#place();
    }
  }

  #pinch(was, at, other) {
    const apart = (a, b) => Math.max(1, Math.hypot(a[0] - b[0], a[1] - b[1]));
    const middle = [(at[0] + other[0]) / 2, (at[1] + other[1]) / 2];
    this.#zoomTo((this.#zoom * apart(at, other)) / apart(was, other), middle);
    this.#pan((at[0] - was[0]) / 2, (at[1] - was[1]) / 2);
  }
}
