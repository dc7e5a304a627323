// Draws a plan: steps in columns by how much has to be done before them, in the colours of their stages.

const NS = "http://www.w3.org/2000/svg";
const WIDTH = 150, HEIGHT = 52, GAP_X = 56, GAP_Y = 20, EDGE = 24;

function shape(name, attributes, ...children) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const needs = (step) => [...new Set([...step.reads, ...step.after])];

// Edges that say nothing new are left out: a pivot waits for every earlier step, but only for the last of
// each branch is a line drawn.
function direct(steps) {
  const before = steps.map(() => new Set());
  return steps.map((step, index) => {
    const all = needs(step);
    for (const need of all) {
      before[index].add(need);
      for (const earlier of before[need]) before[index].add(earlier);
    }
    return all.filter((need) => !all.some((other) => other !== need && before[other].has(need)));
  });
}

// Columns by depth; in a column, steps stand near the middle of what they need.
function layout(steps, edges) {
  const column = steps.map(() => 0);
  steps.forEach((_, index) => {
    for (const need of edges[index]) column[index] = Math.max(column[index], column[need] + 1);
  });
  const columns = [];
  column.forEach((c, index) => (columns[c] ??= []).push(index));
  const row = steps.map(() => 0);
  for (const members of columns) {
    const wish = new Map(members.map((index) => {
      const sources = edges[index].map((need) => row[need]);
      return [index, sources.length ? sources.reduce((a, b) => a + b, 0) / sources.length : 0];
    }));
    members.sort((a, b) => wish.get(a) - wish.get(b) || a - b);
    const middle = members.reduce((sum, index) => sum + wish.get(index), 0) / members.length;
    members.forEach((index, place) => { row[index] = middle + place - (members.length - 1) / 2; });
  }
  const top = Math.min(...row);
  const place = steps.map((_, index) => ({
    x: EDGE + column[index] * (WIDTH + GAP_X),
    y: EDGE + (row[index] - top) * (HEIGHT + GAP_Y),
  }));
  const width = EDGE * 2 + columns.length * WIDTH + (columns.length - 1) * GAP_X;
  const height = EDGE * 2 + (Math.max(...row) - top) * (HEIGHT + GAP_Y) + HEIGHT;
  return { place, width, height };
}

function short(text, most) {
  return text.length > most ? text.slice(0, most - 1) + "…" : text;
}

function note(step) {
  if (step.kind === "input") return "of this saga";
  if (step.kind === "derive") return "computed";
  const items = step.items.length;
  const kind = step.kind === "pivot" ? "pivot, " : step.kind === "each" ? `each of ${items}, ` : "";
  return kind + step.look.replace("_", " ");
}

function drawStep(step, { x, y }, chosen, choose) {
  const classes = ["node", `is-${step.look}`, step.kind, chosen ? "chosen" : ""].join(" ").trim();
  const label = `${step.name}: ${note(step)}`;
  const node = shape("g", { class: classes, transform: `translate(${x} ${y})`, tabindex: 0, role: "button", "aria-label": label });
  const title = shape("title", {});
  title.textContent = label;
  const name = shape("text", { x: 12, y: 22 });
  name.textContent = short(step.name, 19);
  const below = shape("text", { x: 12, y: 39, class: "note" });
  below.textContent = short(note(step), 26);
  const radius = step.kind === "pivot" ? 2 : 9;
  node.append(title, shape("rect", { width: WIDTH, height: HEIGHT, rx: radius }), name, below);
  if (step.kind === "each") {
    const pips = step.items.slice(0, 16);
    pips.forEach((item, index) => {
      node.append(shape("circle", { class: `pip is-${item.look}`, cx: 12 + index * 8.4, cy: HEIGHT - 5, r: 2.8 }));
    });
  }
  node.addEventListener("click", choose);
  node.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); }
  });
  return node;
}

// The picture of a run. `choose(index)` is called when a step is clicked.
export function graph(steps, chosen, choose) {
  const edges = direct(steps);
  const { place, width, height } = layout(steps, edges);
  const picture = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "the plan and where it stands" });
  const pivot = steps.findIndex((step) => step.kind === "pivot");
  if (pivot >= 0) {
    const x = place[pivot].x - GAP_X / 2;
    picture.append(shape("line", { class: "gate", x1: x, y1: 6, x2: x, y2: height - 6 }));
  }
  steps.forEach((step, index) => {
    for (const need of edges[index]) {
      const from = { x: place[need].x + WIDTH, y: place[need].y + HEIGHT / 2 };
      const to = { x: place[index].x, y: place[index].y + HEIGHT / 2 };
      const bend = GAP_X / 2;
      const path = `M${from.x} ${from.y} C${from.x + bend} ${from.y} ${to.x - bend} ${to.y} ${to.x} ${to.y}`;
      const passed = steps[need].look === "done" && step.look !== "idle";
      const kind = step.reads.includes(need) ? "" : " order";
      picture.append(shape("path", { class: `edge${kind}${passed ? " passed" : ""}`, d: path }));
    }
  });
  steps.forEach((step, index) => {
    picture.append(drawStep(step, place[index], index === chosen, () => choose(index)));
  });
  return picture;
}
