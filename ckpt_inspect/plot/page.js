
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7F7F7F"];
const names = { step: "step", epoch: "epoch", tokens: "tokens seen", time: "time (s)" };
const number = (value) => (typeof value === "number" ? value : NaN);
const shown = (value) => (Number.isFinite(value) ? Number(value.toPrecision(5)).toString() : "NaN");
const plot = document.getElementById("plot"), controls = document.getElementById("controls");
const series = data.series.map((item, index) => ({
  ...item, on: true, colour: colours[index % colours.length], y: item.y.map(number),
  smooth: item.smooth && { ...item.smooth, y: item.smooth.y.map(number) },
}));
let logScale = data.log, cursor = null;

function toggle(text, checked, change, colour) {
  const label = document.createElement("label"), box = document.createElement("input"), words = document.createElement("span");
  box.type = "checkbox"; box.checked = checked;
  box.addEventListener("change", () => { change(box.checked); draw(); });
  if (colour) {
    const swatch = document.createElement("span");
    swatch.className = "swatch"; swatch.style.borderColor = colour; words.append(swatch);
  }
  words.append(text); label.append(box, words); controls.append(label);
}

function node(name, attributes, parent) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (parent) parent.append(made);
  return made;
}

function ticks(low, high, wanted) {
  const raw = (high - low) / wanted || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw), found = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-9; t += step) found.push(Number(t.toPrecision(12)));
  return found;
}

function limits(values) {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  if (!sorted.length) return null;
  let low = sorted[0], high = sorted[sorted.length - 1];
  if (sorted.length >= 20 && !logScale) {
    const cut = Math.floor(sorted.length / 50), p = sorted[cut], q = sorted[sorted.length - 1 - cut], spread = q - p;
    if (spread > 0 && (high > q + 1.5 * spread || low < p - 1.5 * spread)) {
      low = Math.max(low, p - 0.5 * spread); high = Math.min(high, q + 0.5 * spread);
    }
  }
  const margin = (high - low) * 0.05 || Math.abs(high) * 0.05 || 1;
  return logScale && low > 0 ? [low, high * 1.0001] : [low - margin, high + margin];
}

function path(xs, ys, fx, fy) {
  let text = "", pen = false;
  for (let i = 0; i < xs.length; i++) {
    if (!Number.isFinite(ys[i])) { pen = false; continue; }
    text += (pen ? "L" : "M") + fx(xs[i]).toFixed(1) + " " + fy(ys[i]).toFixed(1);
    pen = true;
  }
  return text;
}

let view = null;
function draw() {
  const width = Math.max(plot.clientWidth, 320), left = 62, right = 14;
  const on = series.filter((s) => s.on), rate = on.filter((s) => s.panel === "rate"), main = on.filter((s) => s.panel !== "rate");
  const panels = [main.length || !rate.length ? [main, 360] : null, rate.length ? [rate, main.length ? 120 : 360] : null].filter(Boolean);
  const height = panels.reduce((sum, p) => sum + p[1] + 14, 10) + 34;
  const svg = node("svg", { viewBox: `0 0 ${width} ${height}` });
  const xs = on.flatMap((s) => s.x);
  const x0 = xs.reduce((a, b) => Math.min(a, b), Infinity), x1 = xs.reduce((a, b) => Math.max(a, b), -Infinity);
  const span = x1 > x0 ? x1 - x0 : 1, fx = (x) => left + ((x - (x1 > x0 ? x0 : x0 - 0.5)) / span) * (width - left - right);
  let top = 10;
  panels.forEach(([items, tall], index) => {
    const range = limits(items.flatMap((s) => s.y.concat(Number.isFinite(s.average) ? [s.average] : [])));
    const clip = node("clipPath", { id: "clip" + index }, svg);
    node("rect", { x: left, y: top, width: width - left - right, height: tall }, clip);
    node("rect", { x: left, y: top, width: width - left - right, height: tall, fill: "none", class: "grid" }, svg);
    if (range && Number.isFinite(x0)) {
      const usesLog = logScale && range[0] > 0, f = usesLog ? Math.log : (v) => v, low = f(range[0]), high = f(range[1]);
      const base = top + tall, fy = (v) => base - ((f(v) - low) / (high - low)) * tall;
      for (const t of ticks(range[0], range[1], tall / 60)) {
        node("line", { x1: left, x2: width - right, y1: fy(t), y2: fy(t), class: "grid" }, svg);
        node("text", { x: left - 6, y: fy(t) + 4, "text-anchor": "end" }, svg).textContent = shown(t);
      }
      const group = node("g", { "clip-path": `url(#clip${index})` }, svg);
      for (const s of items) {
        const stroke = { fill: "none", stroke: s.colour };
        node("path", { d: path(s.x, s.y, fx, fy), ...stroke, "stroke-width": 1.2, "stroke-opacity": s.smooth ? 0.35 : 1 }, group);
        if (s.smooth) node("path", { d: path(s.smooth.x, s.smooth.y, fx, fy), ...stroke, "stroke-width": 2 }, group);
        if (s.marks) s.x.forEach((x, i) => Number.isFinite(s.y[i]) && node("circle", { cx: fx(x), cy: fy(s.y[i]), r: 3, fill: s.colour }, group));
        s.x.forEach((x, i) => Number.isFinite(s.y[i]) || node("line", { x1: fx(x), x2: fx(x), y1: base - 8, y2: base, stroke: "#c00000" }, group));
        if (Number.isFinite(s.average)) {
          node("line", { x1: left, x2: width - right, y1: fy(s.average), y2: fy(s.average), stroke: s.colour, "stroke-dasharray": "6 4" }, group);
          node("text", { x: width - right - 6, y: fy(s.average) - 5, "text-anchor": "end" }, group).textContent = "train_loss " + shown(s.average) + " (average)";
        }
      }
      if (data.axis === "step") for (const run of data.runs) {
        for (const step of run.resumed) node("line", { x1: fx(step), x2: fx(step), y1: top, y2: base, class: "cursor" }, group);
        if (index === 0) for (const step of run.checkpoints)
          node("text", { x: fx(step), y: top + 10, "text-anchor": "middle" }, group).textContent = step === run.best ? "★" : "▾";
      }
    } else node("text", { x: width / 2, y: top + tall / 2, "text-anchor": "middle" }, svg).textContent = "nothing to draw";
    top += tall + 14;
  });
  if (Number.isFinite(x0)) for (const t of ticks(x0, x1, width / 110))
    node("text", { x: fx(t), y: top + 6, "text-anchor": "middle" }, svg).textContent = shown(t);
  node("text", { x: (left + width - right) / 2, y: top + 24, "text-anchor": "middle" }, svg).textContent = names[data.axis];
  plot.replaceChildren(svg);
  view = { svg, on, x0, span, left, wide: width - left - right, width, bottom: top - 14, fx };
}

function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  while (high - low > 1) { const middle = (low + high) >> 1; if (xs[middle] < x) low = middle; else high = middle; }
  return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
}

function read(x) {
  if (!view || !Number.isFinite(view.x0)) return;
  plot.querySelectorAll(".cursor.live, .reading").forEach((old) => old.remove());
  cursor = Math.min(Math.max(x, view.x0), view.x0 + view.span);
  node("line", { x1: view.fx(cursor), x2: view.fx(cursor), y1: 10, y2: view.bottom, class: "cursor live" }, view.svg);
  const box = document.createElement("div");
  box.className = "reading";
  for (const s of view.on) {
    if (!s.x.length) continue;
    const i = nearest(s.x, cursor), line = document.createElement("div");
    line.textContent = `${s.label} ${shown(s.y[i])} at ${names[data.axis]} ${shown(s.x[i])}`;
    box.append(line);
  }
  const share = view.fx(cursor) / view.width;
  box.style[share > 0.6 ? "right" : "left"] = `${(share > 0.6 ? 1 - share : share) * 100 + 1}%`;
  plot.append(box);
}

series.forEach((s) => toggle(s.smooth ? `${s.label} (${s.smooth.label})` : s.label, true, (on) => { s.on = on; }, s.colour));
toggle("log scale", logScale, (on) => { logScale = on; });
plot.addEventListener("mousemove", (event) => {
  if (!view) return;
  const box = view.svg.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * view.width;
  read(view.x0 + ((x - view.left) / view.wide) * view.span);
});
plot.addEventListener("mouseleave", () => plot.querySelectorAll(".cursor.live, .reading").forEach((old) => old.remove()));
plot.addEventListener("keydown", (event) => {
  const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (move && view) { event.preventDefault(); read((cursor ?? view.x0) + (move * view.span) / 100); }
});
addEventListener("resize", draw);
draw();
