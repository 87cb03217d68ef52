// view.js: draws run.html (view.py). All texts of a run are written as text, never as HTML.
"use strict";

// blue, vermilion, green, orange, purple, sky blue, grey (Okabe and Ito, 2008)
const COLORS = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#888888"];
const DASHES = ["", "7 3", "2 2", "9 3 2 3", "5 2", "1 3", "12 4"];
const TIERS = { h: ["hard", "#D55E00"], m: ["medium", "#E69F00"], e: ["easy", "#0072B2"] };
const PER_PAGE = 25;
const SCALE = 100; // numbers of tokens are whole hundredths
const STD_EPS = 1e-4; // of tas.py

// ------------------------------------------------------------------------------ elements
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function svg(tag, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text) element.textContent = text;
  return element;
}

function short(value) {
  if (value === null || value === undefined) return "-";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size !== 0 && (size < 0.001 || size >= 1e5) ? value.toExponential(2) : String(+value.toPrecision(4));
}

function section(id, title, ...children) {
  return make("section", { id }, make("h2", {}, title), ...children);
}

// ------------------------------------------------------------------------------ charts
// series: [{name, x, y, low, high}]; null breaks a line
function chart(title, xLabel, series) {
  const [W, H, left, right, top, bottom] = [380, 220, 46, 10, 8, 32];
  const points = series.map((s) => s.x.map((x, i) => [x, s.y[i]]).filter(([x, y]) => x !== null && y !== null));
  const all = points.flat();
  if (!all.length) return null;
  const [x0, x1] = range(all.map(([x]) => x));
  const lows = series.flatMap((s) => [...s.y, ...(s.low || []), ...(s.high || [])]).filter((y) => y !== null && y !== undefined);
  const [y0, y1] = padded(range(lows));
  const X = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (W - left - right);
  const Y = (y) => H - bottom - ((y - y0) / (y1 - y0 || 1)) * (H - top - bottom);

  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img" });
  picture.append(svg("title", {}, title));
  for (const tick of ticks(y0, y1)) {
    picture.append(svg("line", { class: "axis", x1: left, x2: W - right, y1: Y(tick), y2: Y(tick) }));
    picture.append(svg("text", { x: left - 5, y: Y(tick) + 4, "text-anchor": "end" }, short(tick)));
  }
  for (const tick of ticks(x0, x1)) {
    picture.append(svg("text", { x: X(tick), y: H - bottom + 14, "text-anchor": "middle" }, short(tick)));
  }
  picture.append(svg("text", { x: (left + W - right) / 2, y: H - 4, "text-anchor": "middle" }, xLabel));
  series.forEach((s, i) => {
    const color = COLORS[i % COLORS.length];
    if (s.low) {
      const up = s.x.map((x, j) => `${X(x)},${Y(s.high[j])}`);
      const down = s.x.map((x, j) => `${X(x)},${Y(s.low[j])}`).reverse();
      picture.append(svg("polygon", { points: [...up, ...down].join(" "), fill: color, opacity: 0.18 }));
    }
    const line = points[i].map(([x, y]) => `${X(x)},${Y(y)}`).join(" ");
    picture.append(svg("polyline", { points: line, fill: "none", stroke: color, "stroke-width": 2, "stroke-dasharray": DASHES[i % DASHES.length] }));
    if (points[i].length === 1) picture.append(svg("circle", { cx: X(points[i][0][0]), cy: Y(points[i][0][1]), r: 3, fill: color }));
  });

  const names = make("div", { class: "names" });
  series.forEach((s, i) => {
    const key = make("span", { class: "key" });
    key.style.borderColor = COLORS[i % COLORS.length];
    if (DASHES[i % DASHES.length]) key.style.borderTopStyle = "dashed";
    names.append(make("span", {}, key, s.name));
  });
  const figure = make("figure", { class: "chart" }, make("figcaption", {}, title), picture, series.length > 1 ? names : null);
  hover(figure, picture, W, X, xLabel, series);
  return figure;
}

// a line under the pointer, and the numbers of all series there
function hover(figure, picture, W, X, xLabel, series) {
  const cross = svg("line", { class: "cross", y1: 8, y2: 188, visibility: "hidden" });
  const tip = make("div", { class: "tip", hidden: "" });
  picture.append(cross);
  figure.append(tip);
  const xs = [...new Set(series.flatMap((s) => s.x))].filter((x) => x !== null);
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * W;
    const x = xs.reduce((best, other) => (Math.abs(X(other) - at) < Math.abs(X(best) - at) ? other : best), xs[0]);
    cross.setAttribute("x1", X(x));
    cross.setAttribute("x2", X(x));
    cross.setAttribute("visibility", "visible");
    const lines = [`${xLabel} ${short(x)}`];
    for (const s of series) {
      const i = s.x.indexOf(x);
      if (i >= 0 && s.y[i] !== null) lines.push(`${s.name}: ${short(s.y[i])}`);
    }
    tip.textContent = lines.join("\n");
    tip.hidden = false;
    const onLeft = at > W / 2;
    tip.style.left = onLeft ? "8px" : "auto";
    tip.style.right = onLeft ? "auto" : "8px";
    tip.style.top = "30px";
  });
  picture.addEventListener("pointerleave", () => {
    tip.hidden = true;
    cross.setAttribute("visibility", "hidden");
  });
}

function range(values) {
  return values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
}

function padded([low, high]) {
  const space = (high - low || Math.abs(high) || 1) * 0.05;
  return [low >= 0 && low - space < 0 ? 0 : low - space, high + space];
}

function ticks(low, high) {
  const step = 10 ** Math.floor(Math.log10((high - low || 1) / 3));
  const width = [1, 2, 5, 10].map((m) => m * step).find((w) => (high - low) / w <= 5) || step * 10;
  const found = [];
  for (let tick = Math.ceil(low / width) * width; tick <= high + 1e-12; tick += width) found.push(+tick.toPrecision(10));
  return found;
}

// [title, [columns]]; a name that ends in "_" stands for all columns that begin with it
const CURVES = [
  ["reward of fresh completions", ["reward", "reward_"]],
  ["share of groups without an advantage", ["zero_share"]],
  ["completions in the buffer, by tier", ["tier_hard", "tier_medium", "tier_easy"]],
  ["importance ratio, mean over tokens", ["ratio_mean", "ratio_mean_replayed"]],
  ["largest importance ratio", ["ratio_max"]],
  ["share of clipped tokens", ["clip_fraction"]],
  ["share of clipped tokens, by age (steps)", ["clip_fraction_age_"]],
  ["KL per token (nats)", ["kl", "kl_behaviour"]],
  ["entropy per token (nats)", ["entropy"]],
  ["loss", ["loss"]],
  ["norm of the gradient", ["grad_norm"]],
  ["learning rate", ["lr"]],
  ["prompts whose hint is on", ["hints"]],
  ["age of replayed completions (steps)", ["replay_age"]],
  ["replayed completions, by age (steps)", ["replayed_age_"]],
  ["tokens per second", ["speed_generated", "speed_trained"]],
  ["share of the GPUs' bf16 peak (MFU)", ["speed_mfu"]],
  ["seconds per step", ["time_rollout", "time_update", "time_tail_max"]],
  ["largest memory so far (GB)", ["memory_gb"]],
  ["largest |sampler - trainer| log-prob", ["sampler_difference_max"]],
  ["records left out, updates skipped, verdicts missing", ["bad_media", "too_long", "skipped", "judge_missing"]],
];

// Every other column of a step has a chart of its own under "other columns", but for these:
// counters, and what a chart of CURVES is computed from.
const NO_CHART = ["step", "stage", "generated", "groups", "zero_advantage_groups", "replayed", "buffer_size", "trained_tokens", "update_flops", "time_cpu"];

// those of `names` that the columns of a chart stand for
function membersOf(columns, names) {
  return columns.flatMap((column) => names.filter((name) => name === column || (column.endsWith("_") && name.startsWith(column))));
}

function curves(runs) {
  const figures = [];
  const several = runs.length > 1;
  for (const [column, label] of [["generated", "completions generated"], ["cpu_seconds", "CPU-seconds of training"]]) {
    const series = runs.filter((run) => run.evaluations[column]).map((run) => accuracy(run, column, several ? run.name : "accuracy"));
    if (series.length) figures.push(chart("held-out accuracy, 95 % interval", label, series));
  }
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.steps)))];
  const drawn = new Set([...NO_CHART, ...CURVES.flatMap(([, columns]) => membersOf(columns, names))]);
  const others = names.filter((name) => !drawn.has(name));
  for (const [title, columns] of CURVES) figures.push(curve(runs, title, membersOf(columns, names)));
  const otherFigures = others.map((name) => curve(runs, name, [name])).filter(Boolean);
  const parts = [make("div", { class: "charts" }, ...figures.filter(Boolean))];
  if (otherFigures.length) parts.push(make("h3", {}, "other columns"), make("div", { class: "charts" }, ...otherFigures));
  return section("curves", "Curves", ...parts);
}

// a chart of some columns of one run, or of the first of them in several runs
function curve(runs, title, columns) {
  const isKnown = (run, name) => (run.steps[name] || []).some((v) => v !== null);
  if (runs.length === 1) {
    const { steps } = runs[0];
    const known = columns.filter((name) => isKnown(runs[0], name));
    const isOneOfMany = known.length === 1 && columns.length > 1; // its name is not below the chart
    return chart(isOneOfMany ? `${title}: ${known[0]}` : title, "step", known.map((name) => ({ name, x: steps.step, y: steps[name] })));
  }
  const name = columns[0];
  const known = runs.filter((run) => isKnown(run, name));
  return chart(columns.length > 1 ? `${title}: ${name}` : title, "completions generated", known.map((run) => ({ name: run.name, x: run.steps.generated, y: run.steps[name] })));
}

function accuracy(run, column, name) {
  const { eval_accuracy: y, eval_questions: n } = run.evaluations;
  const wing = y.map((p, i) => 1.96 * Math.sqrt((p * (1 - p)) / n[i]));
  return { name, x: run.evaluations[column], y, low: y.map((p, i) => p - wing[i]), high: y.map((p, i) => p + wing[i]) };
}

function addShares(run) {
  const { zero_advantage_groups: zero, groups } = run.steps;
  if (zero && groups) run.steps.zero_share = zero.map((z, i) => (groups[i] ? z / groups[i] : null));
}

// ------------------------------------------------------------------------------ completions
const isRight = (c, i) => (c.scores[i].accuracy ?? 0) > 1 - 1e-6;

// [heading, key, number?]
const COLUMNS = [
  ["step", (c, i) => c.step[i], true],
  ["kind", (c, i) => (c.replayed[i] ? "replayed" : "fresh"), false],
  ["tier", (c, i) => c.tier[i], false],
  ["age", (c, i) => c.step[i] - c.written[i], true],
  ["hint", (c, i) => (c.hinted[i] ? "shown" : ""), false],
  ["right", (c, i) => (isRight(c, i) ? "right" : "wrong"), false],
  ["reward", (c, i) => c.reward[i], true],
  ["advantage", (c, i) => c.advantage[i], true],
  ["largest ratio", (c, i) => c.ratio_max[i], true],
  ["loss", (c, i) => c.loss[i], true],
];

function textOf(rollouts, i) {
  return rollouts.completions.tokens[i].map((token) => rollouts.vocabulary[token]).join("");
}

function completions(rollouts) {
  const c = rollouts.completions;
  const order = c.step.map((_, i) => i);
  const state = { sort: 0, down: true, page: 0, chosen: -1, color: "advantage" };
  const steps = [Math.min(...c.step), Math.max(...c.step)];
  const choice = (...options) => make("select", { onchange: refresh }, ...options.map((o) => make("option", {}, o)));
  const number = (value, step) => make("input", { type: "number", value, step, onchange: refresh });
  const inputs = {
    from: number(steps[0], 1), to: number(steps[1], 1),
    kind: choice("all", "fresh", "replayed"), right: choice("all", "right", "wrong"),
    tier: choice("all", "hard", "medium", "easy"), hint: choice("all", "shown", "not shown"),
    low: number("", "any"), high: number("", "any"), text: make("input", { type: "search", size: 14, oninput: refresh }),
  };
  const labels = { from: "steps", to: "to", kind: "sampled", right: "answer", tier: "tier", hint: "hint", low: "advantage from", high: "to", text: "text or prompt" };
  const filters = make("div", { class: "filters" }, ...Object.entries(inputs).map(([name, input]) => make("label", { "data-filter": name }, `${labels[name]} `, input)));
  const detail = make("div");
  const count = make("p", { class: "soft" });
  const head = make("tr");
  const body = make("tbody");
  const more = make("div", { class: "filters" });

  function wanted(i) {
    const text = inputs.text.value.toLowerCase();
    const hint = c.hinted[i] ? "shown" : "not shown";
    return c.step[i] >= +inputs.from.value && c.step[i] <= +inputs.to.value
      && ["all", c.replayed[i] ? "replayed" : "fresh"].includes(inputs.kind.value)
      && ["all", isRight(c, i) ? "right" : "wrong"].includes(inputs.right.value)
      && ["all", c.tier[i]].includes(inputs.tier.value)
      && ["all", hint].includes(inputs.hint.value)
      && (inputs.low.value === "" || c.advantage[i] >= +inputs.low.value)
      && (inputs.high.value === "" || c.advantage[i] <= +inputs.high.value)
      && (!text || textOf(rollouts, i).toLowerCase().includes(text) || rollouts.prompts[c.prompt[i]].id.toLowerCase().includes(text)
        || rollouts.prompts[c.prompt[i]].question.toLowerCase().includes(text));
  }

  function refresh() {
    state.page = 0;
    draw();
  }

  function draw() {
    const key = COLUMNS[state.sort][1];
    const shown = order.filter(wanted).sort((a, b) => {
      const [x, y] = [key(c, a) ?? -Infinity, key(c, b) ?? -Infinity];
      return (x < y ? -1 : x > y ? 1 : a - b) * (state.down ? -1 : 1);
    });
    count.textContent = `${shown.length.toLocaleString("en")} of ${order.length.toLocaleString("en")} completions`
      + (rollouts.every > 1 ? ` (of every ${rollouts.every}th logged step)` : "");
    head.replaceChildren(...COLUMNS.map(([name], i) => make("th", { "aria-sort": i === state.sort ? (state.down ? "descending" : "ascending") : "none" },
      make("button", { onclick: () => { state.down = state.sort === i ? !state.down : true; state.sort = i; refresh(); } }, name + (i === state.sort ? (state.down ? " ↓" : " ↑") : "")))),
      make("th", {}, "completion"));
    const pages = Math.max(1, Math.ceil(shown.length / PER_PAGE));
    body.replaceChildren(...shown.slice(state.page * PER_PAGE, (state.page + 1) * PER_PAGE).map(row));
    more.replaceChildren(
      make("button", { onclick: () => { state.page = Math.max(0, state.page - 1); draw(); } }, "before"),
      `page ${state.page + 1} of ${pages}`,
      make("button", { onclick: () => { state.page = Math.min(pages - 1, state.page + 1); draw(); } }, "next"));
  }

  function row(i) {
    const open = () => { state.chosen = i; draw(); show(); };
    const cells = COLUMNS.map(([, key, isNumber]) => make("td", { class: isNumber ? "number" : "" }, short(key(c, i))));
    const text = textOf(rollouts, i);
    return make("tr", { class: i === state.chosen ? "row chosen" : "row", tabindex: 0, onclick: open, onkeydown: (e) => { if (e.key === "Enter") open(); } },
      ...cells, make("td", { class: "text" }, text.slice(0, 300)));
  }

  // the clip, and all completions of its prompt in this step: right ones first
  function show() {
    const i = state.chosen;
    const prompt = rollouts.prompts[c.prompt[i]];
    const same = order.filter((j) => c.prompt[j] === c.prompt[i] && c.step[j] === c.step[i]);
    same.sort((a, b) => c.reward[b] - c.reward[a] || a - b);
    const color = make("select", { onchange: (e) => { state.color = e.target.value; show(); } },
      ...Object.entries(TOKEN_COLORS).map(([name, { label }]) => make("option", { value: name, ...(name === state.color ? { selected: "" } : {}) }, label)));
    detail.replaceChildren(make("div", { class: "detail" },
      make("p", {}, make("b", {}, prompt.question)),
      ...prompt.options.map((option) => make("p", {}, option)),
      make("p", { class: "soft" }, `gold answer: ${prompt.answer}${prompt.hint ? `; hint: ${prompt.hint}` : ""}; prompt ${prompt.id}, step ${c.step[i]}`),
      make("div", { class: "media" }, ...prompt.media.map(medium)),
      make("div", { class: "filters" }, make("label", { "data-filter": "color" }, "tokens coloured by ", color), legend(state.color)),
      make("div", { class: "cards" }, ...same.map(card))));
  }

  function card(i) {
    const parts = Object.entries(c.scores[i]).filter(([name, v]) => name !== "reward" && v !== null).map(([name, v]) => `${name} ${short(v)}`);
    const facts = `${c.replayed[i] ? `replayed, ${c.step[i] - c.written[i]} steps old, update ${c.update[i]}` : "fresh"}${c.hinted[i] ? ", hint shown" : ""}`;
    const tokens = make("div", { class: "tokens" }, ...c.tokens[i].map((token, t) => tokenSpan(rollouts, i, t, state.color)));
    return make("div", { class: `card ${isRight(c, i) ? "right" : "wrong"}${i === state.chosen ? " chosen" : ""}` },
      make("p", {}, make("b", {}, isRight(c, i) ? "right" : "wrong"), ` reward ${short(c.reward[i])} (${parts.join(", ")}), advantage ${short(c.advantage[i])}`),
      make("p", { class: "soft" }, `${facts}; ratio mean ${short(c.ratio_mean[i])}, largest ${short(c.ratio_max[i])}; loss ${short(c.loss[i])}`), tokens);
  }

  draw();
  if (order.length) {
    state.chosen = order.reduce((best, i) => (Math.abs(c.advantage[i]) > Math.abs(c.advantage[best]) ? i : best), 0);
    show();
  }
  const found = section("completions", "Completions", make("p", { class: "soft" },
    "Click a row to see the clip, and all completions of its prompt in that step."), detail, filters, count,
  make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), body)), more);
  found.choosePrompt = (id) => { inputs.text.value = id; refresh(); found.scrollIntoView(); };
  return found;
}

function medium([kind, path, address]) {
  const name = make("p", { class: "soft" }, path);
  if (!address) return make("div", {}, make("p", { class: "soft" }, `${path} (not found when this page was written)`));
  if (kind === "image" && !path.includes("#t=")) return make("div", {}, make("img", { src: address, alt: path }), name);
  return make("div", {}, make(kind === "audio" ? "audio" : "video", { src: address, controls: "", preload: "metadata" }), name);
}

// how tokens are coloured: value(c, i, t) -> number or null; signed: blue above 0 and orange below
const TOKEN_COLORS = {
  advantage: { label: "advantage × TAS weight + hint", signed: true, top: 1.5, value: (c, i, t) => (c.weights[i] ? (c.advantage[i] * c.weights[i][t] + (c.hint_term[i]?.[t] || 0)) / SCALE : c.advantage[i]), ends: ["less (below 0)", "more (above 0)"] },
  logp: { label: "log-prob as recorded", top: 4, value: (c, i, t) => -c.logps[i][t] / SCALE, ends: ["sure (0)", "unlikely (-4 or less)"] },
  ratio: { label: "importance ratio", signed: true, top: 0.5, value: (c, i, t) => (c.logps_now[i] ? (c.logps_now[i][t] - c.logps[i][t]) / SCALE : null), ends: ["ratio below 1", "above 1"] },
  entropy: { label: "entropy", top: 1.5, value: (c, i, t) => (c.entropy[i] ? c.entropy[i][t] / SCALE : null), ends: ["0", "1.5 nats or more"] },
};

function tokenSpan(rollouts, i, t, color) {
  const c = rollouts.completions;
  const { value, signed, top } = TOKEN_COLORS[color];
  const v = value(c, i, t);
  const span = make("span", {}, rollouts.vocabulary[c.tokens[i][t]]);
  if (v !== null) {
    const strength = Math.min(1, Math.abs(v) / top) * 0.65;
    span.style.backgroundColor = `rgba(var(--${signed ? (v >= 0 ? "good" : "bad") : "amount"}), ${strength.toFixed(3)})`;
  }
  const facts = [`log-prob ${c.logps[i][t] / SCALE}`];
  if (c.logps_now[i]) facts.push(`now ${c.logps_now[i][t] / SCALE}, ratio ${Math.exp((c.logps_now[i][t] - c.logps[i][t]) / SCALE).toFixed(2)}`);
  if (c.entropy[i]) facts.push(`entropy ${c.entropy[i][t] / SCALE}`);
  if (c.weights[i]) facts.push(`weight ${c.weights[i][t] / SCALE}`);
  if (c.hint_term[i]?.[t]) facts.push(`hint as teacher ${c.hint_term[i][t] > 0 ? "+" : ""}${c.hint_term[i][t] / SCALE}`);
  span.title = facts.join("; ");
  return span;
}

function legend(color) {
  const { signed, ends } = TOKEN_COLORS[color];
  const bar = make("i");
  bar.style.background = signed
    ? "linear-gradient(90deg, rgba(var(--bad), 0.65), transparent, rgba(var(--good), 0.65))"
    : "linear-gradient(90deg, transparent, rgba(var(--amount), 0.65))";
  return make("span", { class: "legend" }, ends[0], bar, ends[1]);
}

// ------------------------------------------------------------------------------ buffer
function buffer(rollouts, choosePrompt) {
  const { ids, steps, tiers, hints } = rollouts.buffer;
  if (!ids.length || !steps.length) return null;
  const last = tiers[tiers.length - 1];
  const rank = (i) => "hme ".indexOf(last[i]) * ids.length + tiers.findIndex((letters) => letters[i] !== " ");
  const rows = ids.map((_, i) => i).sort((a, b) => rank(a) - rank(b));
  const cell = [Math.max(3, Math.min(16, Math.floor(1100 / steps.length))), Math.max(1, Math.min(8, Math.floor(420 / ids.length) || 1))];
  const canvas = make("canvas", { width: steps.length * cell[0], height: ids.length * cell[1], role: "img", "aria-label": "tier of each prompt after each step" });
  const pen = canvas.getContext("2d");
  steps.forEach((_, s) => {
    const hinted = new Set(hints[s]);
    rows.forEach((i, r) => {
      const tier = TIERS[tiers[s][i]];
      if (!tier) return;
      pen.fillStyle = tier[1];
      pen.fillRect(s * cell[0], r * cell[1], cell[0], cell[1]);
      if (hinted.has(i)) {
        pen.fillStyle = "#000000";
        pen.fillRect(s * cell[0] + cell[0] / 3, r * cell[1], cell[0] / 3, cell[1]);
      }
    });
  });
  const tip = make("div", { class: "tip", hidden: "" });
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [Math.floor((event.clientX - box.left) / cell[0]), rows[Math.floor((event.clientY - box.top) / cell[1])]];
  };
  canvas.addEventListener("pointermove", (event) => {
    const [s, i] = at(event);
    if (i === undefined || s < 0 || s >= steps.length) return;
    const tier = TIERS[tiers[s][i]];
    tip.textContent = `${ids[i]}\nstep ${steps[s]}: ${tier ? tier[0] : "not stored"}${hints[s].includes(i) ? ", hint on" : ""}`;
    tip.hidden = false;
    tip.style.left = `${Math.min(event.offsetX + 12, 900)}px`;
    tip.style.top = `${event.offsetY + 12}px`;
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("click", (event) => { const [, i] = at(event); if (i !== undefined) choosePrompt(ids[i]); });
  const names = make("div", { class: "names" }, ...Object.values(TIERS).map(([name, color]) => {
    const key = make("span", { class: "key" });
    key.style.borderColor = color;
    return make("span", {}, key, name);
  }), make("span", {}, "black bar: its hint is on"));
  return section("buffer", "Replay buffer", make("p", { class: "soft" },
    `${ids.length} prompts (rows, by the tier they end in), steps ${steps[0]} to ${steps[steps.length - 1]} (columns). Click a prompt to see its completions.`),
  names, make("div", { class: "heat" }, canvas, tip));
}

// ------------------------------------------------------------------------------ one step
function lens(rollouts, flags) {
  const c = rollouts.completions;
  const steps = [...new Set(c.step)];
  if (!steps.length) return null;
  const choice = make("input", { type: "range", min: 0, max: steps.length - 1, value: steps.length - 1, oninput: draw });
  const label = make("b");
  const body = make("tbody");

  function draw() {
    const step = steps[+choice.value];
    label.textContent = ` step ${step} `;
    const groups = new Map();
    c.step.forEach((s, i) => {
      if (s !== step) return;
      const key = `${c.prompt[i]} ${c.replayed[i]} ${c.update[i]}`;
      groups.set(key, [...(groups.get(key) || []), i]);
    });
    body.replaceChildren(...[...groups.values()].flatMap(rowsOf));
  }

  function rowsOf(members) {
    const first = members[0];
    const rewards = members.map((i) => c.reward[i]);
    const mean = rewards.reduce((a, b) => a + b) / rewards.length;
    const std = Math.sqrt(rewards.reduce((a, r) => a + (r - mean) ** 2, 0) / Math.max(1, rewards.length - 1));
    const isKnown = c.replayed[first] || flags.baseline === "group"; // is the baseline one of these numbers?
    const baseline = c.replayed[first] ? c.vcrs[first] : mean;
    const what = `${c.replayed[first] ? `replayed, update ${c.update[first]}` : "fresh"}: ${rollouts.prompts[c.prompt[first]].question}`;
    const facts = isKnown ? `${c.replayed[first] ? "Rbar(q)" : "mean"} ${short(baseline)}, std ${short(std)}` : `baseline ${flags.baseline} (docs/method.md)`;
    return [make("tr", { class: "group" }, make("td", { colspan: 5 }, `${what} — ${facts}`)), ...members.map((i) => make("tr", {},
      make("td", { class: "text" }, textOf(rollouts, i).slice(0, 300)), make("td", { class: "number" }, short(c.reward[i])),
      make("td", { class: "number" }, !isKnown || std < 1e-6 || baseline === null ? "-" : short((c.reward[i] - baseline) / (std + STD_EPS))),
      make("td", { class: "number" }, short(c.advantage[i])), make("td", { class: "number" }, short(c.loss[i]))))];
  }

  draw();
  const ofFresh = flags.baseline === "group"
    ? "that of fresh ones the mean of their group"
    : `the A of fresh ones (--baseline ${flags.baseline}) is not recomputed here`;
  return section("step", "One step as numbers", make("p", { class: "soft" },
    `A = (R - baseline) / (std + 1e-4). The baseline of replayed completions is Rbar(q); ${ofFresh}. A dash for A from these numbers: it was not recomputed, or the rewards of the group are equal. The loss is the mean over tokens of the clipped loss (${flags.clip}), without the KL term; a dash for it: the group had no gradient.`),
  make("div", { class: "filters" }, label, choice),
  make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...["completion", "reward R", "A from these numbers", "A of the run", "loss"].map((name) => make("th", {}, name)))), body)));
}

// ------------------------------------------------------------------------------ flags
function flags(run) {
  const rows = run.flags.flatMap(({ heading, flags: list }) => [
    make("tr", { class: "group" }, make("td", { colspan: 4 }, heading)),
    ...list.map((flag) => make("tr", {}, make("td", {}, `--${flag.name}`), make("td", { class: flag.source === "given" ? "given" : "" }, flag.value), make("td", {}, flag.source), make("td", { class: "soft" }, flag.help)))]);
  return make("div", { class: "scroll" }, make("table", { class: "flags" }, make("thead", {}, make("tr", {}, ...["flag", "value", "from", "meaning"].map((name) => make("th", {}, name)))), make("tbody", {}, ...rows)));
}

// ------------------------------------------------------------------------------ the page
function header(run) {
  const { command, ...machine } = run.machine;
  return [make("h1", {}, run.name), make("p", {}, run.result), command ? make("pre", {}, command) : null,
    make("p", { class: "soft" }, Object.entries(machine).map(([name, value]) => `${name} ${value}`).join(", "))];
}

function themeButton() {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  return make("button", { id: "theme", onclick: () => { root.dataset.theme = dark() ? "light" : "dark"; } }, "light or dark");
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

async function main() {
  const { runs, rollouts } = await unpack(document.getElementById("data").textContent);
  runs.forEach(addShares);
  const parts = [curves(runs)];
  if (rollouts && rollouts.completions.step.length) {
    const table = completions(rollouts);
    const values = Object.fromEntries(runs[0].flags.flatMap((group) => group.flags).map((flag) => [flag.name, flag.value]));
    parts.push(table, buffer(rollouts, table.choosePrompt), lens(rollouts, values));
  }
  parts.push(section("flags", "Flags", ...runs.flatMap((run) => [runs.length > 1 ? make("h3", {}, run.name) : null, flags(run)])));
  const shown = parts.filter(Boolean);
  const links = shown.map((part) => make("a", { href: `#${part.id}` }, part.querySelector("h2").textContent));
  const page = document.getElementById("page");
  page.replaceChildren(...runs.flatMap(header).filter(Boolean), make("nav", {}, ...links, themeButton()), ...shown);
  page.dataset.ready = "yes";
}

main();
