// The page's own script: the chart, the stream of changes, the dialog, the theme. No build, no framework.
"use strict";

const page = document.getElementById("page");
const root = document.documentElement;
const token = (name) => getComputedStyle(root).getPropertyValue(name).trim();
const colour = (version) => token(`--c${((version - 1) % 8 + 8) % 8}`);
const day = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ");
const figure = (value) => value == null ? "–" : Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 10 ? value.toFixed(2) : value.toFixed(4);

// ------------------------------------------------------------------------------------------------ theme

function dark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = dark() ? "light" : "dark";
  localStorage.setItem("driftline-theme", root.dataset.theme);
  restyle();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);

function restyle() {
  paintSwatches();
  if (chart) draw(shown);
}
function paintSwatches(within = document) {
  within.querySelectorAll("[data-version].swatch").forEach((s) => { s.style.background = colour(Number(s.dataset.version)); });
}

// ------------------------------------------------------------------------------------------------ chart

let chart = null;
let shown = null;
const holder = document.getElementById("chart");

function chosen(id) { return document.getElementById(id)?.value ?? ""; }

async function load() {
  if (!page) return;
  const query = new URLSearchParams({ metric: chosen("metric"), window: chosen("window"), segment: chosen("segment") });
  const answer = await fetch(`/api/models/${encodeURIComponent(page.dataset.model)}/series?${query}`);
  if (answer.ok) draw(await answer.json());
}

// Lines have points of their own; uPlot wants one shared x. Gaps stay gaps.
function align(lines) {
  return lines.length ? uPlot.join(lines.map((line) => [line.t, line.y])) : [[]];
}

function draw(body) {
  shown = body;
  const lines = body.lines;
  document.getElementById("chart-empty").hidden = lines.length > 0;
  holder.hidden = lines.length === 0;
  legend(body);
  if (!lines.length) { chart?.destroy(); chart = null; return; }
  const data = align(lines);
  const signature = JSON.stringify([body.metric, body.window, body.segment, dark(), lines.map((l) => [l.version, l.estimated])]);
  if (chart && chart.signature === signature) {
    chart.setData(data, chart.zoomed !== true);
    return;
  }
  chart?.destroy();
  holder.replaceChildren();
  const axis = { stroke: token("--faint"), font: "12px system-ui, sans-serif", grid: { stroke: token("--line"), width: 1 }, ticks: { stroke: token("--line"), width: 1 } };
  const single = data[0].length < 40;
  chart = new uPlot({
    width: holder.clientWidth, height: height(),
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    cursor: { focus: { prox: 24 }, points: { size: 7 }, drag: { x: true, y: false } },
    legend: { show: false },
    scales: { x: { range: (u, low, high) => low === high ? [low - 86400, low + 86400] : [low, high] }, y: { range: (u, low, high) => padded(low, high) } },
    axes: [{ ...axis, space: 70 }, { ...axis, size: 58, values: (u, ticks) => ticks.map((v) => Number(v.toFixed(6)).toString()) }],
    series: [{}, ...lines.map((line) => ({
      label: `version ${line.version}`, stroke: colour(line.version), width: line.estimated ? 1.4 : 2,
      dash: line.estimated ? [4, 4] : undefined, spanGaps: true, points: { show: single, size: 5 },
    }))],
    hooks: { drawClear: [bands], draw: [marks], setCursor: [tip], setSelect: [(u) => { u.zoomed = u.select.width > 0; }] },
  }, data, holder);
  chart.signature = signature;
  chart.over.addEventListener("dblclick", () => { chart.zoomed = false; });
  const bubble = document.createElement("div");
  bubble.className = "tip"; bubble.hidden = true;
  chart.over.append(bubble);
  chart.bubble = bubble;
  chart.over.addEventListener("mouseleave", () => { bubble.hidden = true; });
}

function height() { return innerWidth < 620 ? 240 : 345; }
function padded(low, high) {
  if (low == null) return [0, 1];
  const room = Math.max((high - low) * 0.12, Math.abs(high) * 0.005, 1e-6);
  return [low - room, high + room];
}

// Incidents as bands behind the lines; a dashed vertical where a version's first window ends, in event time.
function bands(u) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.fillStyle = token("--band");
  for (const band of shown.incidents) {
    const from = Math.max(u.valToPos(band.from, "x", true), bbox.left);
    const to = band.to == null ? bbox.left + bbox.width : Math.min(u.valToPos(band.to, "x", true), bbox.left + bbox.width);
    if (to > from) ctx.fillRect(from, bbox.top, to - from, bbox.height);
  }
  ctx.restore();
}
function marks(u) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.setLineDash([3 * devicePixelRatio, 4 * devicePixelRatio]);
  ctx.lineWidth = devicePixelRatio;
  ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  ctx.textAlign = "left"; ctx.textBaseline = "alphabetic";
  let right = -Infinity;
  const begun = new Map();
  for (const line of shown.lines) if (!line.estimated) begun.set(line.version, line.t[0]);
  const first = Math.min(...begun.values());
  for (const [version, at] of begun) {
    if (at === first) continue;
    const mark = { at, version };
    const x = u.valToPos(mark.at, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.strokeStyle = ctx.fillStyle = colour(mark.version);
    ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
    const text = `v${mark.version}`;
    if (x > right) { ctx.fillText(text, x + 3 * devicePixelRatio, bbox.top + 11 * devicePixelRatio); right = x + ctx.measureText(text).width + 8; }
  }
  ctx.restore();
}

function tip(u) {
  const at = u.cursor.idx;
  if (at == null || !u.bubble || u.cursor.left < 0) { if (u.bubble) u.bubble.hidden = true; return; }
  const seconds = u.data[0][at];
  const rows = [];
  shown.lines.forEach((line, i) => {
    const value = u.data[i + 1][at];
    if (value == null) return;
    const k = line.t.indexOf(seconds);
    rows.push([line, value, k]);
  });
  u.bubble.hidden = rows.length === 0;
  u.bubble.replaceChildren();
  const head = document.createElement("div");
  head.className = "muted"; head.textContent = `${shown.window} to ${day(seconds)}`;
  u.bubble.append(head);
  for (const [line, value, k] of rows) {
    const row = document.createElement("div");
    const swatch = document.createElement("span");
    swatch.className = "swatch"; swatch.style.background = colour(line.version);
    const strong = document.createElement("b");
    strong.textContent = figure(value);
    const note = line.n[k] == null ? "" : `  n ${line.n[k].toLocaleString("en")}, ${(line.coverage[k] * 100).toFixed(0)} % labelled${line.state[k] === "provisional" ? ", still open" : ""}`;
    const interval = line.low?.[k] == null ? "" : ` (${figure(line.low[k])} to ${figure(line.high[k])})`;
    row.append(swatch, `version ${line.version}${line.estimated ? " estimated" : ""}  `, strong, interval, note);
    u.bubble.append(row);
  }
  const width = u.bubble.offsetWidth;
  const left = u.cursor.left + 14 + width > u.over.clientWidth ? u.cursor.left - width - 14 : u.cursor.left + 14;
  u.bubble.style.left = `${Math.max(0, left)}px`;
  u.bubble.style.top = "8px";
}

function legend(body) {
  const list = document.getElementById("legend");
  list.replaceChildren(...body.lines.map((line) => {
    const item = document.createElement("li");
    const swatch = document.createElement("span");
    swatch.className = "swatch"; swatch.style.background = colour(line.version);
    const value = document.createElement("b");
    value.textContent = figure(line.y.at(-1));
    const trust = line.trust == null ? "" : `, trust ${line.trust.toFixed(2)}`;
    item.append(swatch, `version ${line.version}${line.estimated ? ` (estimated${trust})` : ""}`, value);
    return item;
  }));
}

// ------------------------------------------------------------------------------------- stream of changes

const live = document.getElementById("live");
function state(name, text) { live.dataset.state = name; live.lastElementChild.textContent = text; }

let due = new Set();
let timer = 0;
let loaded = 0;
// Many changes a second become one look a second and a half.
function changed(names) {
  names.forEach((name) => due.add(name));
  if (timer) return;
  timer = setTimeout(async () => {
    const now = due; due = new Set(); timer = 0; loaded = Date.now();
    for (const name of now) document.body.dispatchEvent(new CustomEvent(`changed-${name}`));
    if (page && (now.has("quality") || now.has("incidents") || now.has("activity"))) {
      await options();
      await load();
    }
  }, Math.max(0, 1500 - (Date.now() - loaded)));
}

// New windows, segments and metrics appear in the selectors as they are first seen.
async function options() {
  const answer = await fetch(`/api/models/${encodeURIComponent(page.dataset.model)}/options`);
  if (!answer.ok) return;
  const body = await answer.json();
  for (const [id, values] of [["metric", body.metrics], ["window", body.windows], ["segment", body.segments]]) {
    const select = document.getElementById(id);
    const known = new Set([...select.options].map((option) => option.value));
    for (const value of values) if (!known.has(value.value)) select.add(new Option(value.text, value.value));
  }
}

function listen() {
  const path = page ? `/api/models/${encodeURIComponent(page.dataset.model)}/changes` : "/api/changes";
  const source = new EventSource(path);
  source.addEventListener("changes", (event) => {
    const body = JSON.parse(event.data);
    state("live", body.clock_ms ? `event time ${day(body.clock_ms / 1000)}` : "live");
    if (body.changed.length) changed(body.changed);
  });
  source.addEventListener("error", () => state("lost", "connection lost, trying again"));
  addEventListener("beforeunload", () => source.close());
}

// ------------------------------------------------------------------------------------------------ dialog

const dialog = document.getElementById("dialog");
document.body.addEventListener("htmx:afterSwap", (event) => {
  if (event.target === dialog) {
    if (!dialog.innerHTML.trim()) { dialog.close(); return; }
    const name = dialog.querySelector("[data-remember]");
    if (name && !name.value) name.value = localStorage.getItem(`driftline-${name.dataset.remember}`) ?? "";
    if (!dialog.open) dialog.showModal();
  }
  paintSwatches(event.target);
});
dialog.addEventListener("click", (event) => { if (event.target === dialog || event.target.closest("[data-close]")) dialog.close(); });
dialog.addEventListener("submit", (event) => {
  const name = event.target.querySelector("[data-remember]");
  if (name) localStorage.setItem(`driftline-${name.dataset.remember}`, name.value);
});
document.body.addEventListener("decided", () => { dialog.close(); changed(["versions", "activity"]); });

// An opened incident stays open when the list is drawn again.
const opened = new Map();
document.body.addEventListener("toggle", (event) => { if (event.target.dataset?.id) opened.set(event.target.dataset.id, event.target.open); }, true);
document.body.addEventListener("htmx:afterSettle", (event) => {
  event.target.querySelectorAll?.("details[data-id]").forEach((item) => { if (opened.has(item.dataset.id)) item.open = opened.get(item.dataset.id); });
});

// ------------------------------------------------------------------------------------------------- start

document.getElementById("model")?.addEventListener("change", (event) => { location.href = event.target.value; });
["metric", "window", "segment"].forEach((id) => document.getElementById(id)?.addEventListener("change", load));
addEventListener("resize", () => { if (chart) chart.setSize({ width: holder.clientWidth, height: height() }); });
paintSwatches();
load();
if (live) listen();
