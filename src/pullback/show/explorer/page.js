const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const operations = new Map(data.operations.map((each) => [each.number, each]));
const boxes = new Map(data.boxes.map((each) => [each.number, each]));
const values = data.values;
const cards = {}, sizes = {};
for (const [kind, number, width, height, first, second] of data.cards) {
  cards[kind + number] = {first, second};
  sizes[kind + number] = [width, height];
}
const order = data.operations.map((each) => each.number);
const steps = order.length + data.backward.length;
const doneAt = new Map(), backAt = new Map(); // the step after which an operation has run, has been walked back
order.forEach((number, k) => doneAt.set(number, k + 1));
data.backward.forEach((number, k) => backAt.set(number, order.length + k + 1));

const state = {opened: new Set(data.opened), step: steps, chosen: null, zoom: 1, playing: 0};
let drawn = null; // the elements of the picture, by what they stand for

// -- when things are there ------------------------------------------------------------------------------------------
const valueAt = (number) => (values[number].maker === null ? 0 : doneAt.get(values[number].maker));
function adjointAt(number) {
  if (!values[number].adjoint) return Infinity;
  if (data.outputs.includes(Number(number))) return order.length;
  const users = values[number].users.map((user) => backAt.get(user)).filter((step) => step !== undefined);
  return users.length ? Math.max(...users) : order.length;
}
const adjointSteps = Object.fromEntries(Object.keys(values).map((number) => [number, adjointAt(number)]));

// -- the picture ----------------------------------------------------------------------------------------------------
function make(kind, attributes, parent, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

function draw() {
  const placed = place(data, state.opened, sizes);
  const svg = make("svg", {width: placed.width * state.zoom, height: placed.height * state.zoom,
    viewBox: `0 0 ${placed.width} ${placed.height}`, role: "img"});
  drawn = {svg, placed, cards: new Map(), timed: []};
  for (const number of placed.open) {
    const spot = placed.shapes["box" + number];
    make("rect", {class: "frame", x: spot.x, y: spot.y, width: spot.width, height: spot.height, rx: 8}, svg);
  }
  drawWays(svg, placed);
  for (const number of placed.open) drawHeading(svg, number, placed.shapes["box" + number]);
  for (const spot of Object.values(placed.shapes)) {
    if (!(spot.key[0] === "box" && state.opened.has(spot.key[1]))) drawCard(svg, spot);
  }
  at("graph").replaceChildren(svg);
  for (const each of drawn.timed) each.shown = null;
  showStep();
}

function drawHeading(svg, number, spot) {
  const box = boxes.get(number);
  const name = box.kind === "function" ? `${box.name}()` : `${box.name} ${box.kind}`;
  const text = make("text", {class: "small head heading", x: spot.x + 8, y: spot.y + 15}, svg, `▾ ${name}`);
  text.addEventListener("click", () => toggle(number));
}

function drawCard(svg, spot) {
  const [kind, number] = spot.key, id = kind + number, card = cards[id];
  const group = make("g", {class: `card ${kind}`, "data-key": id, role: "button"}, svg);
  const round = kind === "value" || kind === "result" ? 13 : 5;
  make("rect", {x: spot.x, y: spot.y, width: spot.width, height: spot.height, rx: round}, group);
  const middle = {x: spot.x + spot.width / 2, "text-anchor": "middle"};
  make("text", {...middle, y: spot.y + 17}, group, card.first);
  const saves = card.second.startsWith("saves ") ? " saves" : "";
  if (card.second) make("text", {...middle, y: spot.y + 31, class: "small" + saves}, group, card.second);
  group.addEventListener("click", () => {
    choose(id);
    if (kind === "box") toggle(number);
  });
  drawn.cards.set(id, group);
  drawn.timed.push({element: group, from: cardAt(kind, number)});
}

function cardAt(kind, number) {
  if (kind === "op") return doneAt.get(number);
  if (kind === "box") return Math.min(...order.filter((each) => operations.get(each).scope.includes(number)).map((each) => doneAt.get(each)));
  return kind === "value" ? valueAt(number) : valueAt(data.outputs[number]);
}

function drawWays(svg, placed) {
  const labels = new Map();
  for (const piece of placed.pieces) {
    const value = values[piece.value], shift = value.adjoint ? 5 : 0;
    way(svg, piece.start, piece.end, -shift, value.tracked ? "" : "fixed", piece.arrives, valueAt(piece.value));
    if (value.adjoint) way(svg, piece.end, piece.start, shift, "adjoint", piece.leaves, adjointSteps[piece.value]);
    if (piece.leaves) {
      const key = `${piece.start.x} ${piece.start.y}`;
      if (!labels.has(key)) labels.set(key, {x: piece.start.x + shift + 6, y: piece.start.y + 13, texts: new Set()});
      labels.get(key).texts.add(shapeOf(value));
    }
  }
  for (const {x, y, texts} of labels.values()) make("text", {class: "small", x, y}, svg, [...texts].join(", "));
  for (const [source, target] of placed.beside) drawBeside(svg, placed, source, target);
}

function drawBeside(svg, placed, source, target) {
  const value = values[source[1]], spot = placed.shapes[source[0] + source[1]], taker = placed.shapes[target[0] + target[1]];
  if (!taker || !spot) return;
  const y = spot.y + spot.height / 2, shift = value.adjoint ? 3 : 0, end = taker.x + taker.width;
  const middle = Math.min(Math.max(y, taker.y + 6), taker.y + taker.height - 6);
  across(svg, {x: spot.x, y: y - shift}, {x: end, y: middle - shift}, value.tracked ? "" : "fixed", 0);
  if (value.adjoint) across(svg, {x: end, y: middle + shift}, {x: spot.x, y: y + shift}, "adjoint", adjointSteps[source[1]]);
}

const shapeOf = (value) => value.value.type.replace(/^[a-z0-9]+\[/, "").replace("]", "").replaceAll(", ", "×") || "scalar";

function way(svg, start, end, shift, kind, tip, from) {
  const x1 = start.x + shift, x2 = end.x + shift, down = end.y > start.y ? 1 : -1;
  const stop = tip ? end.y - 6 * down : end.y, bend = (stop - start.y) / 2;
  const curve = `M${x1} ${start.y}C${x1} ${start.y + bend} ${x2} ${stop - bend} ${x2} ${stop}`;
  timed(make("path", {class: `way ${kind}`, d: curve}, svg), from);
  if (tip) timed(make("path", {class: `tip ${kind}`, d: `M${x2 - 3.5} ${stop}h7L${x2} ${end.y}z`}, svg), from);
}

function across(svg, start, end, kind, from) {
  const stop = end.x - 6 * (end.x > start.x ? 1 : -1);
  timed(make("path", {class: `way ${kind}`, d: `M${start.x} ${start.y}L${stop} ${end.y}`}, svg), from);
  timed(make("path", {class: `tip ${kind}`, d: `M${stop} ${end.y - 3}v6L${end.x} ${end.y}z`}, svg), from);
}

const timed = (element, from) => drawn.timed.push({element, from});

// -- stepping -------------------------------------------------------------------------------------------------------
function current() {
  if (state.step === 0) return null;
  const back = state.step > order.length;
  return {number: back ? data.backward[state.step - order.length - 1] : order[state.step - 1], back};
}

function visible(number) { // the card that an operation is in: its own, or that of the folded box around it
  const folded = operations.get(number).scope.find((box) => !state.opened.has(box));
  return folded === undefined ? "op" + number : "box" + folded;
}

let marked = [];
function showStep() {
  for (const each of drawn.timed) {
    const shown = state.step >= each.from;
    if (shown !== each.shown) {
      each.shown = shown;
      each.element.classList.toggle("later", !shown);
    }
  }
  for (const element of marked) element.classList.remove("now", "backwards", "chosen");
  marked = [];
  const now = current();
  if (now && state.step < steps + 1) {
    const card = drawn.cards.get(visible(now.number));
    if (card) {
      card.classList.add("now");
      card.classList.toggle("backwards", now.back);
      marked.push(card);
    }
  }
  const chosen = state.chosen && drawn.cards.get(state.chosen);
  if (chosen) {
    chosen.classList.add("chosen");
    marked.push(chosen);
  }
  at("slider").value = state.step;
  const pass = state.step === 0 ? "before the run" : now.back ? "backward" : "forward";
  at("where").textContent = now ? `${pass} ${state.step}/${steps} ${operations.get(now.number).name}` : pass;
  detail();
}

function go(step, follow = true) {
  state.step = Math.max(0, Math.min(steps, step));
  const now = current();
  if (now && follow) {
    state.chosen = "op" + now.number;
    const folded = visible(now.number);
    if (folded !== state.chosen && drawn.cards.has(folded)) scrollTo(folded);
    else scrollTo(state.chosen);
  }
  showStep();
}

function scrollTo(id) {
  const spot = drawn.placed.shapes[id], graph = at("graph");
  if (!spot) return;
  const x = spot.x * state.zoom, y = spot.y * state.zoom;
  const width = spot.width * state.zoom, height = spot.height * state.zoom;
  if (y < graph.scrollTop + 30 || y + height > graph.scrollTop + graph.clientHeight - 30) {
    graph.scrollTop = y - graph.clientHeight / 2 + height / 2;
  }
  if (x < graph.scrollLeft || x + width > graph.scrollLeft + graph.clientWidth) {
    graph.scrollLeft = x - graph.clientWidth / 2 + width / 2;
  }
}

function play() {
  if (state.playing) {
    clearInterval(state.playing);
    state.playing = 0;
  } else {
    if (state.step === steps) go(0);
    state.playing = setInterval(() => (state.step === steps ? play() : go(state.step + 1)), 500);
  }
  at("play").textContent = state.playing ? "❚❚" : "▶▶";
}

// -- choosing and folding -------------------------------------------------------------------------------------------
function choose(id) {
  state.chosen = id;
  showStep();
}

function toggle(number) {
  const open = state.opened.has(number);
  if (open) state.opened.delete(number);
  else state.opened.add(number);
  if (open) state.chosen = "box" + number;
  draw();
  scrollTo(state.chosen || "");
}

function reveal(id) { // opens the boxes around something, and chooses it
  const kind = id.replace(/\d+$/, ""), number = Number(id.slice(kind.length));
  let scope = [];
  if (kind === "op") scope = operations.get(number).scope;
  if (kind === "box") for (let box = boxes.get(number).parent; box !== null; box = boxes.get(box).parent) scope.push(box);
  if (kind === "value" && values[number].users.length) scope = operations.get(values[number].users[0]).scope;
  const before = state.opened.size;
  for (const box of scope) state.opened.add(box);
  if (state.opened.size !== before) draw();
  choose(id);
  scrollTo(id);
}

const keyOf = (number) => (values[number].maker === null ? "value" + number : "op" + values[number].maker);
const resize = (factor) => { state.zoom = Math.max(0.2, Math.min(3, state.zoom * factor)); draw(); };
const openAll = () => { state.opened = new Set(boxes.keys()); draw(); };
const foldAll = () => { state.opened = new Set(); draw(); };

function neighbour(direction) { // the nearest card above or below
  const now = drawn.placed.shapes[state.chosen] || {x: 0, y: -1, width: 0, height: 0};
  let best = null, least = Infinity;
  for (const [id] of drawn.cards) {
    const spot = drawn.placed.shapes[id], far = (spot.y - now.y) * direction;
    const distance = far + Math.abs(spot.x + spot.width / 2 - now.x - now.width / 2) / 4;
    if (far > 4 && distance < least) [best, least] = [id, distance];
  }
  if (best) {
    choose(best);
    scrollTo(best);
  }
}

// -- what is known of the chosen ------------------------------------------------------------------------------------
function put(parent, kind, text, className) {
  const element = document.createElement(kind);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  parent.append(element);
  return element;
}

function detail() {
  const panel = at("detail");
  panel.replaceChildren();
  if (!state.chosen) {
    put(panel, "p", "Choose a card, or step through the run with the arrow keys.", "soft");
    return;
  }
  const kind = state.chosen.replace(/\d+$/, ""), number = Number(state.chosen.slice(kind.length));
  if (kind === "op") describeOperation(panel, operations.get(number));
  else if (kind === "box") describeBox(panel, boxes.get(number));
  else describeValue(panel, kind === "value" ? number : data.outputs[number]);
}

function describeOperation(panel, operation) {
  put(panel, "h2", operation.text);
  const place = operation.scope.length ? boxes.get(operation.scope[operation.scope.length - 1]).path : "";
  put(panel, "p", [operation.kind, place, `${operation.milliseconds} ms`].filter(Boolean).join(" · "), "soft");
  const {file, line, function: within, lines} = operation.source;
  put(panel, "h3", `${file}:${line} in ${within}`);
  const pre = put(panel, "pre");
  for (const [k, text] of lines) put(pre, k === line ? "mark" : "span", `${String(k).padStart(4)}  ${text}\n`);
  operation.outputs.forEach((each, k) => {
    put(panel, "h3", operation.outputs.length > 1 ? `Output ${k + 1}` : "Output y");
    pair(panel, each);
  });
  put(panel, "h3", "Rule");
  put(panel, "p", operation.structure, "soft");
  for (const [, text] of operation.rules) put(panel, text.includes("\n") || text.startsWith("lambda") ? "pre" : "p", text, "formula");
  if (!operation.reached) put(panel, "p", "No gradient comes through here.", "soft");
  for (const [i, block] of operation.jacobians) {
    put(panel, "h3", `Local Jacobian in ${operation.called[i]}`);
    picture(panel, block, "");
  }
  put(panel, "h3", "Saved for the backward pass");
  if (!operation.saved.length) put(panel, "p", "nothing", "soft");
  for (const [name, size, shape] of operation.saved) put(panel, "p", `${name}  ${shape.join("×") || "scalar"}  ${size}`);
  operation.inputs.forEach((each, i) => {
    if (each === null) return;
    link(put(panel, "h3", `Input ${operation.called[i]}: `), each);
    pair(panel, each);
  });
}

function describeBox(panel, box) {
  put(panel, "h2", box.kind === "function" ? `${box.name}()` : `${box.path}  ${box.kind}`);
  put(panel, "p", `${box.operations} operation${box.operations === 1 ? "" : "s"}, saves ${box.saved}`, "soft");
  const button = put(panel, "button", state.opened.has(box.number) ? "fold" : "open");
  button.addEventListener("click", () => toggle(box.number));
  put(panel, "h3", "Operations");
  const inside = data.operations.filter((each) => each.scope.includes(box.number));
  for (const each of inside.slice(0, 100)) link(put(panel, "p"), each.outputs[0], each.text);
  if (inside.length > 100) put(panel, "p", `and ${inside.length - 100} more`, "soft");
}

function describeValue(panel, number) {
  const value = values[number];
  put(panel, "h2", `${value.label}  ${value.value.type}`);
  put(panel, "p", value.maker !== null ? "a result" : value.constant ? "a constant" : value.tracked ? "an argument" : "an argument, held", "soft");
  pair(panel, number);
  if (value.users.length) put(panel, "h3", "Used by");
  for (const user of value.users.slice(0, 50)) link(put(panel, "p"), operations.get(user).outputs[0], operations.get(user).text);
}

function link(parent, number, text) {
  const button = put(parent, "button", text || values[number].label, "link");
  button.addEventListener("click", () => reveal(keyOf(number)));
}

function pair(panel, number) {
  const both = put(panel, "div", undefined, "pair"), value = values[number];
  if (state.step >= valueAt(number)) picture(both, value.value, "value");
  else put(both, "p", "not computed yet at this step", "soft");
  if (!value.adjoint) return;
  if (state.step >= adjointSteps[number]) picture(both, value.adjoint, "adjoint");
  else put(both, "p", "its adjoint is not there yet at this step", "soft");
}

function picture(parent, heat, title) {
  const figure = put(parent, "figure"), canvas = put(figure, "canvas");
  canvas.width = heat.width;
  canvas.height = heat.height;
  const scale = Math.max(2, Math.min(24, Math.floor(224 / Math.max(heat.width, heat.height))));
  canvas.style.width = `${heat.width * scale}px`;
  canvas.style.aspectRatio = `${heat.width} / ${heat.height}`;
  const bytes = Uint8Array.from(atob(heat.pixels), (c) => c.charCodeAt(0));
  const context = canvas.getContext("2d"), image = context.createImageData(heat.width, heat.height);
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  bytes.forEach((byte, k) => image.data.set(colour(byte, dark), 4 * k));
  context.putImageData(image, 0, 0);
  const caption = put(figure, "figcaption", undefined, title);
  if (title) put(caption, "b", `${title}  `);
  caption.append([heat.type, heat.stats, heat.note].filter(Boolean).join("\n"));
  const reading = put(caption, "div", " ");
  canvas.addEventListener("pointermove", (event) => {
    const x = Math.min(heat.width - 1, Math.floor((event.offsetX / canvas.clientWidth) * heat.width));
    const y = Math.min(heat.height - 1, Math.floor((event.offsetY / canvas.clientHeight) * heat.height));
    const k = y * heat.width + x, byte = bytes[k];
    if (k < 0 || byte === undefined) return;
    const about = byte === 255 ? "none" : `about ${(((byte - 127) / 127) * heat.largest).toPrecision(3)}`;
    reading.textContent = `row ${y}, column ${x}: ${heat.exact ? heat.exact[k] : about}`;
  });
}

function colour(byte, dark) { // blue below zero, red above, paper at zero; nothing where there is no number
  if (byte === 255) return [128, 128, 128, 60];
  const part = (byte - 127) / 127, size = Math.sqrt(Math.abs(part));
  const paper = dark ? [22, 27, 34] : [255, 255, 255], ink = part < 0 ? [59, 130, 246] : [234, 88, 12];
  return [...paper.map((p, k) => Math.round(p + (ink[k] - p) * size)), 255];
}

// -- search ---------------------------------------------------------------------------------------------------------
const index = [
  ...data.boxes.map((box) => ["box" + box.number, box.path || box.name, box.kind]),
  ...Object.entries(values).filter(([, value]) => value.name && value.maker === null)
    .map(([number, value]) => ["value" + number, value.name, "argument"]),
  ...data.operations.map((each) => ["op" + each.number, each.text, `${values[each.outputs[0]].name} ${each.source.lines.filter(([k]) => k === each.source.line).map(([, text]) => text.trim()).join("")}`]),
].map((entry) => [...entry, `${entry[1]} ${entry[2]}`.toLowerCase()]);
let found = [];

function search() {
  const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean), list = at("matches");
  found = words.length ? index.filter((entry) => words.every((word) => entry[3].includes(word))).slice(0, 50) : [];
  list.replaceChildren();
  for (const [id, text, more] of found) {
    const item = put(list, "li", `${text}  `);
    put(item, "small", more);
    item.addEventListener("click", () => take(id));
  }
  if (words.length && !found.length) put(list, "li", "nothing found");
  list.hidden = !words.length;
}

function take(id) {
  at("matches").hidden = true;
  at("search").blur();
  reveal(id);
}

// -- keys and buttons -----------------------------------------------------------------------------------------------
function theme() {
  const root = document.documentElement, dark = getComputedStyle(root).colorScheme === "dark";
  root.dataset.theme = dark ? "light" : "dark";
  detail();
}

function onEnter() {
  if (!state.chosen) return;
  const kind = state.chosen.replace(/\d+$/, ""), number = Number(state.chosen.slice(kind.length));
  if (kind === "box") toggle(number);
  else if (kind === "op" && operations.get(number).scope.length) toggle(operations.get(number).scope.at(-1));
}

const KEYS = {
  ArrowRight: () => go(state.step + 1), ArrowLeft: () => go(state.step - 1), Home: () => go(0), End: () => go(steps),
  ArrowUp: () => neighbour(-1), ArrowDown: () => neighbour(1), Enter: onEnter, " ": play, e: openAll, f: foldAll,
  "+": () => resize(1.2), "-": () => resize(1 / 1.2), t: theme, "?": () => at("keys").showModal(),
  "/": () => at("search").focus(), Escape: () => { at("matches").hidden = true; },
};

document.addEventListener("keydown", (event) => {
  if (event.target === at("search")) {
    if (event.key === "Enter" && found.length) take(found[0][0]);
    if (event.key === "Escape") { at("search").value = ""; search(); at("search").blur(); }
    return;
  }
  const action = KEYS[event.key];
  const pressed = event.target.closest("button") && (event.key === " " || event.key === "Enter");
  if (!action || event.ctrlKey || event.metaKey || event.altKey || at("keys").open || pressed) return;
  event.preventDefault();
  action();
});
at("search").addEventListener("input", search);
at("slider").max = steps;
at("slider").addEventListener("input", () => go(Number(at("slider").value)));
const BUTTONS = {
  back: () => go(state.step - 1), next: () => go(state.step + 1), play, expand: openAll, fold: foldAll, theme,
  smaller: () => resize(1 / 1.2), larger: () => resize(1.2), help: () => at("keys").showModal(),
};
for (const [id, action] of Object.entries(BUTTONS)) at(id).addEventListener("click", action);
draw();
