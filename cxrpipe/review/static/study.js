// The page of one study: its films, the chosen finding, and the verdicts of the reader.

import { send } from "/static/verdicts.js";

const study = document.getElementById("study");
const one = (selector) => document.querySelector(selector);
const all = (selector) => [...document.querySelectorAll(selector)];
const isTyping = (target) => target.closest("input:not([type=checkbox]):not([type=range]), textarea, select") !== null;

// ---- what the reader chose stays for the next study -------------------------------------------------------------

const KEPT = "cxrpipe-review-films";
const settings = { lungs: true, heat: false, structures: true, opacity: 55, ...kept() };

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}

function keep() {
  try {
    localStorage.setItem(KEPT, JSON.stringify(settings));
  } catch {
    // a browser without storage starts every study afresh
  }
}

// ---- the layers on the films ------------------------------------------------------------------------------------

let chosen = null; // the finding

function drawLayers() {
  for (const layer of all(".layer")) {
    const { kind, finding } = layer.dataset;
    const isShown = settings[kind] && (kind !== "heat" || finding === chosen);
    if (isShown && !layer.src) layer.src = layer.dataset.src;
    layer.hidden = !isShown;
    layer.style.opacity = kind === "heat" ? settings.opacity / 100 : Math.min(1, settings.opacity / 55);
  }
  for (const view of all(".view")) {
    const heats = [...view.querySelectorAll('[data-kind="heat"]')];
    const isMissing = settings.heat && chosen && !heats.some((layer) => layer.dataset.finding === chosen);
    view.querySelector(".heat-note").textContent = isMissing ? ` · no heat map of ${chosen.replaceAll("_", " ")}` : "";
  }
}

for (const name of ["lungs", "heat", "structures"]) {
  const box = document.getElementById(name);
  if (!box) continue;
  box.checked = settings[name];
  box.addEventListener("change", () => {
    settings[name] = box.checked;
    keep();
    drawLayers();
  });
}

const opacity = one("#opacity");
opacity.value = settings.opacity;
opacity.addEventListener("input", () => {
  settings.opacity = Number(opacity.value);
  keep();
  drawLayers();
});

// ---- brightness and contrast: a linear window on the grey values --------------------------------------------------

const brightness = one("#brightness");
const contrast = one("#contrast");
const invert = one("#invert");

function drawWindow() {
  const slope = 2 ** (contrast.value / 40);
  const centre = 0.5 - brightness.value / 200;
  let [gain, offset] = [slope, 0.5 - slope * centre];
  if (invert.checked) [gain, offset] = [-gain, 1 - offset];
  for (const channel of all("#window feFuncR, #window feFuncG, #window feFuncB")) {
    channel.setAttribute("slope", gain);
    channel.setAttribute("intercept", offset);
  }
  const isPlain = slope === 1 && centre === 0.5 && !invert.checked;
  for (const film of all(".grey")) film.style.filter = isPlain ? "" : "url(#window)";
}

for (const control of [brightness, contrast, invert]) control.addEventListener("input", drawWindow);

const intensity = one("#intensity");
intensity?.addEventListener("change", () => {
  for (const film of all(".grey")) film.src = `${film.dataset.film}?intensity=${encodeURIComponent(intensity.value)}`;
});

// ---- zoom and pan -------------------------------------------------------------------------------------------------

const MOST = 16;

class Stage {
  constructor(element) {
    this.element = element;
    this.sheet = element.querySelector(".sheet");
    this.pointers = new Map();
    this.reset();
    element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    element.addEventListener("pointerdown", (event) => this.down(event));
    element.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, (event) => this.up(event));
    element.addEventListener("dblclick", () => resetFilms());
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    element.addEventListener("keydown", (event) => this.key(event));
  }

  reset() {
    [this.scale, this.x, this.y] = [1, 0, 0];
    this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.element;
    this.x = Math.min(0, Math.max(width * (1 - this.scale), this.x)); // a film never leaves its stage
    this.y = Math.min(0, Math.max(height * (1 - this.scale), this.y));
    this.sheet.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.element.classList.toggle("zoomed", this.scale > 1);
  }

  zoom(factor, x = this.element.clientWidth / 2, y = this.element.clientHeight / 2) {
    const scale = Math.min(MOST, Math.max(1, this.scale * factor));
    this.x = x - ((x - this.x) * scale) / this.scale; // the point below the pointer stays
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.draw();
  }

  place(event) {
    const box = this.element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  wheel(event) {
    event.preventDefault();
    this.zoom(2 ** (-event.deltaY / 400), ...this.place(event));
  }

  down(event) {
    this.pointers.set(event.pointerId, this.place(event));
    this.element.setPointerCapture(event.pointerId);
    this.element.classList.add("moving");
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const [x, y] = this.place(event);
    const [dx, dy] = [x - before[0], y - before[1]];
    if (this.pointers.size === 2) this.pinch(event.pointerId, [x, y]);
    else if (event.buttons & 2) shiftWindow(dx, dy);
    else {
      this.x += dx;
      this.y += dy;
      this.draw();
    }
    this.pointers.set(event.pointerId, [x, y]);
  }

  pinch(moved, [x, y]) {
    const [, still] = [...this.pointers].find(([id]) => id !== moved);
    const [before, now] = [this.pointers.get(moved), [x, y]].map(([a, b]) => Math.hypot(a - still[0], b - still[1]));
    if (before > 0) this.zoom(now / before, (x + still[0]) / 2, (y + still[1]) / 2);
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    if (!this.pointers.size) this.element.classList.remove("moving");
  }

  key(event) {
    const step = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
    if (!step || this.scale === 1) return;
    event.preventDefault();
    this.x += step[0];
    this.y += step[1];
    this.draw();
  }
}

function shiftWindow(dx, dy) {
  contrast.value = Number(contrast.value) + dx / 3;
  brightness.value = Number(brightness.value) - dy / 3;
  drawWindow();
}

const stages = all(".stage").map((element) => new Stage(element));
const zoomed = () => stages.find((stage) => stage.element.contains(document.activeElement));

function zoomBy(factor) {
  const focused = zoomed();
  for (const stage of focused ? [focused] : stages) stage.zoom(factor);
}

function resetFilms() {
  for (const stage of stages) stage.reset();
  for (const control of [brightness, contrast]) control.value = 0;
  invert.checked = false;
  drawWindow();
}

one("#reset").addEventListener("click", resetFilms);

// ---- the chosen finding -------------------------------------------------------------------------------------------

const rows = all("tr.answer");

function choose(row) {
  chosen = row.dataset.finding;
  for (const each of rows) {
    each.classList.toggle("chosen", each === row);
    each.querySelector(".pick").setAttribute("aria-pressed", each === row);
  }
  for (const table of all("[data-members]")) table.hidden = table.dataset.members !== chosen;
  drawLayers();
}

function chooseBeside(step) {
  const place = rows.findIndex((row) => row.dataset.finding === chosen);
  const row = rows[Math.min(rows.length - 1, Math.max(0, place + step))];
  if (!row) return;
  choose(row);
  row.scrollIntoView({ block: "nearest" });
}

for (const row of rows) {
  row.addEventListener("click", () => choose(row));
  row.addEventListener("focusin", () => choose(row));
}

const asked = new URLSearchParams(location.search).get("finding");
const first = rows.find((row) => row.dataset.finding === asked) ?? rows[0];
if (first) choose(first);
else drawLayers();

// ---- verdicts -----------------------------------------------------------------------------------------------------

const reader = one("#reader");
const note = one("#note");
const saved = one("#saved");
const said = one("#verdicts tbody");
const LABELS = { true: "yes", false: "no" };
const readerName = () => reader?.value.trim().replace(/\s+/g, " ").normalize("NFC") ?? "";

function tell(words, isProblem = false) {
  saved.textContent = words;
  saved.classList.toggle("problem", isProblem);
}

function press() {
  for (const row of rows) {
    const mine = [...(said?.rows ?? [])].find(
      (line) => line.dataset.finding === row.dataset.finding && line.dataset.reader === readerName(),
    );
    for (const button of row.querySelectorAll("[data-verdict]")) {
      button.setAttribute("aria-pressed", button.dataset.verdict === mine?.dataset.verdict);
    }
  }
}

function addLine(finding, verdict, label, words) {
  for (const line of [...said.rows]) {
    if (line.dataset.finding === finding && line.dataset.reader === readerName()) line.remove();
  }
  const line = said.insertRow(0);
  Object.assign(line.dataset, { finding, verdict, reader: readerName() });
  const when = `${new Date().toISOString().slice(0, 16).replace("T", " ")} UTC`;
  for (const text of [finding.replaceAll("_", " "), verdict, label, readerName(), when]) {
    line.insertCell().textContent = text;
  }
  if (words) line.cells[0].append(Object.assign(document.createElement("small"), { textContent: words }));
}

async function judge(row, verdict) {
  const { finding, prob, consensus } = row.dataset;
  const group = row.querySelector(".verdict");
  if (!group || group.getAttribute("aria-busy") === "true") return;
  const words = note?.value.trim() ?? "";
  group.setAttribute("aria-busy", "true");
  tell("Saving …");
  try {
    await send([
      {
        study_id: study.dataset.study,
        fingerprint: study.dataset.fingerprint,
        finding,
        verdict,
        prob: Number(prob),
        consensus: consensus === "true",
        ...(words && { note: words }),
      },
    ]);
    const label = verdict === "unsure" ? "unsure" : LABELS[(consensus === "true") === (verdict === "agree")];
    addLine(finding, verdict, label, words);
    if (note) note.value = "";
    tell(`Saved: ${verdict} on ${finding.replaceAll("_", " ")}, label ${label}`);
  } catch (error) {
    tell(error.message, true);
  } finally {
    group.removeAttribute("aria-busy");
    press();
  }
}

for (const row of rows) {
  for (const button of row.querySelectorAll("[data-verdict]")) {
    button.addEventListener("click", () => judge(row, button.dataset.verdict));
  }
}
if (said) {
  reader?.addEventListener("input", press);
  press();
}

// ---- the nearest studies ------------------------------------------------------------------------------------------

const find = one("#find-nearest");

async function findNearest() {
  const words = one("#nearest-words");
  find.disabled = true;
  words.textContent = "comparing with all studies …";
  try {
    const answer = await fetch(find.dataset.url);
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    words.textContent = `by the feature vectors of ${found.member}; distance: 1 − cosine`;
    one("#nearest-studies").replaceChildren(...found.studies.map(neighbour));
  } catch (error) {
    words.textContent = `no answer: ${error.message}`;
    find.disabled = false;
  }
}

function neighbour(found) {
  const item = document.createElement("li");
  const link = Object.assign(document.createElement("a"), { href: found.page });
  if (find.dataset.films === "true") {
    link.append(Object.assign(document.createElement("img"), { src: found.thumbnail, alt: "", loading: "lazy" }));
  }
  link.append(Object.assign(document.createElement("span"), { textContent: found.study_id }));
  const same = found.is_same_patient ? ", same patient" : "";
  const words = `${found.distance.toFixed(4)}${same} · ${found.findings}`;
  item.append(link, Object.assign(document.createElement("small"), { textContent: words }));
  return item;
}

find?.addEventListener("click", findNearest);

// ---- keys -----------------------------------------------------------------------------------------------------------

const toggle = (name) => one(`#${name}`)?.click();
const follow = (name) => one(`#${name}`)?.click();
const verdictOn = (word) => {
  const row = rows.find((each) => each.dataset.finding === chosen);
  if (row) judge(row, word);
};

const KEYS = {
  a: () => verdictOn("agree"),
  w: () => verdictOn("wrong"),
  u: () => verdictOn("unsure"),
  j: () => chooseBeside(1),
  k: () => chooseBeside(-1),
  n: () => follow("next"),
  p: () => follow("previous"),
  l: () => toggle("lungs"),
  h: () => toggle("heat"),
  i: () => toggle("invert"),
  "+": () => zoomBy(1.25),
  "=": () => zoomBy(1.25),
  "-": () => zoomBy(0.8),
  0: () => resetFilms(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || isTyping(event.target)) return;
  if (!KEYS[event.key]) return;
  event.preventDefault(); // the letter is not to land in a field that a key focuses
  KEYS[event.key]();
});

// A click before this line would be lost, so the page comes with these controls switched off.
for (const control of document.querySelectorAll("[data-scripted]")) control.disabled = false;
