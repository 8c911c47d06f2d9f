/** The blind vote. Pairs come in an order of the browser's own, and so do the sides; both are kept with the votes. */

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const KEY = `upscalers-compared:${data.run}`;

/** Mulberry32: the same numbers for the same seed. */
function numbers(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Every two services with a result of the same picture: {key, picture, a, b}, shuffled. */
function pairsOf(seed) {
  const random = numbers(seed);
  const pairs = [];
  for (const [number, picture] of data.pictures.entries()) {
    const services = Object.keys(picture.images);
    for (const [place, one] of services.entries()) {
      for (const other of services.slice(place + 1)) {
        const [a, b] = random() < 0.5 ? [one, other] : [other, one];
        pairs.push({ key: `${number}/${one}/${other}`, picture, a, b });
      }
    }
  }
  for (let last = pairs.length - 1; last > 0; last--) {
    const place = Math.floor(random() * (last + 1));
    [pairs[last], pairs[place]] = [pairs[place], pairs[last]];
  }
  return pairs;
}

function begin() {
  return { seed: Math.floor(Math.random() * 2 ** 31), votes: {} };
}

function recall() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY));
    if (Number.isInteger(kept?.seed) && typeof kept.votes === "object") return kept;
  } catch {
    // a browser that keeps nothing for files: the vote lasts as long as the page
  }
  return begin();
}

function keep() {
  try {
    localStorage.setItem(KEY, JSON.stringify(state));
  } catch {
    // as above
  }
}

let state = recall();
let pairs = pairsOf(state.seed);
let view = "whole";
let revealed = false;

const open = () => pairs.find((pair) => !(pair.key in state.votes));

function show() {
  const done = Object.keys(state.votes).length;
  // With the names: the pair that was voted on last. One that is still open stays blind.
  const last = pairs.find((pair) => pair.key === Object.keys(state.votes).pop());
  const pair = (revealed ? last : open()) ?? last ?? pairs[0];
  for (const side of ["a", "b"]) {
    $(side).src = pair.picture.images[pair[side]][view];
    $(`name-${side}`).textContent = side.toUpperCase() + (revealed && last ? `: ${data.services[pair[side]]}` : "");
  }
  document.querySelector(".stage").style.setProperty("--aspect", view === "whole" ? pair.picture.aspect : 1);
  document.querySelector(".stage").classList.toggle("close", view === "detail");
  for (const button of document.querySelectorAll("[data-vote]")) button.disabled = revealed || !open();
  $("view").setAttribute("aria-pressed", String(view === "detail"));
  $("said").textContent = open()
    ? `Pair ${done + 1} of ${pairs.length}, picture ${pair.picture.name}`
    : `All ${pairs.length} pairs are done. Reveal the names to see what you found.`;
  $("reveal").textContent = revealed ? "Hide the names" : "Reveal the names";
  $("reveal").setAttribute("aria-expanded", String(revealed));
  $("tally").hidden = !revealed;
  if (revealed) tally();
}

function vote(choice) {
  const pair = open();
  if (!pair || revealed) return;
  state.votes[pair.key] = choice === "even" ? "even" : data.services[pair[choice]];
  keep();
  show();
}

/** [service, won, even, lost], the most liked first. */
function counted() {
  const rows = data.services.map((name) => [name, 0, 0, 0]);
  for (const [key, winner] of Object.entries(state.votes)) {
    for (const number of key.split("/").slice(1)) {
      rows[number][winner === "even" ? 2 : winner === data.services[number] ? 1 : 3] += 1;
    }
  }
  const liked = ([, won, even, lost]) => (won + even / 2) / Math.max(1, won + even + lost);
  return rows.sort((one, other) => liked(other) - liked(one)).map((row) => [...row, liked(row)]);
}

function tally() {
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const name of ["service", "won", "as good", "lost", "liked"]) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = name;
    head.append(cell);
  }
  const body = table.createTBody();
  for (const [name, won, even, lost, liked] of counted()) {
    const row = body.insertRow();
    const first = document.createElement("th");
    first.scope = "row";
    first.textContent = name;
    row.append(first);
    for (const text of [won, even, lost, won + even + lost ? `${Math.round(liked * 100)} %` : "–"]) {
      row.insertCell().textContent = text;
    }
  }
  $("tally").replaceChildren(table);
}

function place() {
  document.querySelector(".stage").style.setProperty("--border", `${$("border").value}%`);
}

function other() {
  view = view === "whole" ? "detail" : "whole";
  show();
}

function start() {
  $("border").addEventListener("input", place);
  $("view").addEventListener("click", other);
  $("reveal").addEventListener("click", () => {
    revealed = !revealed;
    show();
  });
  $("again").addEventListener("click", () => {
    state = begin();
    pairs = pairsOf(state.seed);
    revealed = false;
    keep();
    show();
  });
  $("save").addEventListener("click", () => {
    const link = document.createElement("a");
    const text = JSON.stringify({ run: data.run, services: counted(), votes: state.votes }, null, 1);
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = `votes-${data.run}.json`;
    link.click();
  });
  for (const button of document.querySelectorAll("[data-vote]")) {
    button.addEventListener("click", () => vote(button.dataset.vote));
  }
  $("ballot").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    const step = { arrowleft: -5, arrowright: 5 }[key];
    if (key === "a" || key === "b") vote(key);
    else if (key === "e") vote("even");
    else if (key === "v") other();
    else if (step && event.target !== $("border")) {
      $("border").value = Number($("border").value) + step;
      place();
    } else return;
    event.preventDefault();
    $("ballot").focus({ preventScroll: true }); // the button that had the focus may be disabled now
  });
  const stage = document.querySelector(".stage");
  const drag = (event) => {
    if (event.buttons !== 1) return;
    const box = stage.getBoundingClientRect();
    $("border").value = ((event.clientX - box.left) / box.width) * 100;
    place();
  };
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    drag(event);
  });
  stage.addEventListener("pointermove", drag);
  place();
  show();
}

if ($("ballot")) start();
