"use strict";
// The page of `lwd explore`: draws what the server tells over a websocket, and tells it what hands do. No other script, no network.

const $ = (id) => document.getElementById(id);
const EVERY = [1, 2, 4, 8, 16, 32, 64, 128];
const IMAGINE = [0, 2, 4, 8, 16, 32];
const STEP = 0.04; // of the picture: what an arrow key moves the block by
const KEPT = 300; // steps in the chart
const METHODS = { lwd: "policies that react at every step", diffusion_policy: "chunks of actions", latent_dp: "chunks of actions", mlp: "one policy" };
const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f", "#a6761d", "#66a61e", "#e7298a", "#1b9e77"];

let socket, about, sides = [], running = false, map = null, trail = [], cross = [0, 0], held = null, ended = false;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function send(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/live`);
  socket.onmessage = (event) => receive(JSON.parse(event.data));
  socket.onclose = () => {
    ended = true;
    setRunning(false);
    say("The server has ended. Start lwd explore again, then reload this page.", true);
  };
}

function receive(told) {
  if (told.type === "hello") hello(told);
  else if (told.type === "step") step(told);
  else if (told.type === "scene") scene(told);
  else if (told.type === "error") say(told.error, true);
}

// ---- what there is

function hello(told) {
  about = told;
  sides = told.sides.map((own, i) => panel(own, i, told.scenes[i]));
  const both = sides.length > 1 ? "The same hand on both sides. " : "";
  $("lead").textContent = told.movable
    ? `${both}Drag the block with the mouse, or focus a picture and use the arrow keys. The policies see it in their next step.`
    : `${both}Nothing can be pushed by hand here: choose a disturbance.`;
  $("chart-title").textContent = `How it goes: ${told.score.replaceAll("_", " ").replace("max ", "")}, the last ${KEPT} steps`;
  for (const [name, unit] of Object.entries(told.disturbances)) {
    const option = new Option(name, name);
    option.dataset.unit = unit;
    $("disturb").add(option);
  }
  const world = told.sides.some((own) => own.world);
  for (const name of ["imagine", "monitor"]) $(name).disabled = !world;
  show(told.settings);
  if (told.map) latentMap(told.map);
  say("Ready.");
  setRunning(true);
  requestAnimationFrame(draw);
}

function panel(own, i, first) {
  const box = document.createElement("article");
  box.className = "side";
  box.innerHTML = `<h2></h2><p class="note"></p><canvas tabindex="0"></canvas><dl></dl>`;
  box.querySelector("h2").textContent = own.name;
  const size = own.policy ? `, ${own.policy.toLocaleString("en")} weights` : "";
  box.querySelector(".note").textContent = `${METHODS[own.method] || own.method}${size}${own.world ? "" : "; no world model"}`;
  const canvas = box.querySelector("canvas");
  const name = about.movable ? "Arrow keys push the block." : "";
  canvas.setAttribute("role", about.movable ? "application" : "img");
  canvas.setAttribute("aria-label", `${own.name} at work. ${name}`);
  const side = { own, i, box, canvas, list: box.querySelector("dl"), history: [], pushed: 0, futures: null };
  place(side, first, 0);
  $("sides").append(box);
  if (about.movable) hand(side);
  return side;
}

// ---- what happens

function place(side, told, duration) {
  if (told.picture) {
    side.picture = new Image();
    side.picture.src = `data:image/jpeg;base64,${told.picture}`;
  }
  if (told.scene) {
    side.from = side.to ? between(side.from, side.to, progress(side)) : told.scene;
    side.to = told.scene;
    side.begun = performance.now();
    side.duration = duration;
  }
}

function step(told) {
  told.sides.forEach((own, i) => {
    const side = sides[i];
    place(side, own, Math.min(1000 / (about.fps * Number($("speed").value)), 250));
    if (own.displaced) side.pushed = performance.now();
    if (own.cause) {
      side.query = own.query_ms;
      side.futures = own.futures ? { lines: own.futures, chosen: own.chosen } : null;
    }
    const value = own.now ?? own.score;
    side.history.push({ value, cause: own.cause, push: own.displaced || side.handled });
    side.handled = false;
    if (side.history.length > KEPT) side.history.shift();
    facts(side, own);
    if (own.latent) {
      trail.push(own.latent);
      if (trail.length > 30) trail.shift();
    }
  });
  $("chart-card").hidden = false;
  drawChart();
  if (map) drawMap();
}

function facts(side, own) {
  const rows = {
    "now": own.now === null ? "–" : own.now.toFixed(2),
    [about.score.replaceAll("_", " ")]: own.score === null ? "–" : own.score.toPrecision(3),
    "step": own.step,
    "queries": own.queries,
    "every": `${own.every}${own.delay ? `, ${own.delay} late` : ""}`,
    "age": own.age,
    "last query": side.query === undefined ? "–" : `${side.query.toFixed(1)} ms`,
    "a step": `${(1000 * own.act_ms).toFixed(0)} µs`,
    "FLOP a step": human(own.flops),
  };
  side.list.replaceChildren(
    ...Object.entries(rows).flatMap(([name, value]) => {
      const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
      dt.textContent = name;
      dd.textContent = value;
      dd.dataset.fact = name;
      return [dt, dd];
    }),
  );
}

function human(number) {
  for (const [size, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) if (number >= size) return `${(number / size).toPrecision(3)} ${name}`;
  return String(Math.round(number));
}

function scene(told) {
  told.scenes.forEach((own, i) => {
    place(sides[i], own, told.pushed ? 40 : 0);
    if (told.pushed) {
      sides[i].handled = true;
      sides[i].pushed = performance.now();
    }
    if (told.anew) Object.assign(sides[i], { history: [], futures: null, query: undefined });
  });
  if (told.anew) trail = [];
  if (told.latent) {
    held = told.latent;
    say(`${sides[0].own.name} keeps to the policy of this latent.`);
  }
  if (!told.held) held = null;
  $("release").disabled = !told.held;
  $("new").dataset.seed = told.seed;
  if (map) drawMap();
}

// ---- pictures

function fit(canvas) {
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(canvas.clientWidth * scale), Math.round(canvas.clientHeight * scale)];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  context.scale(scale, scale);
  return [context, canvas.clientWidth, canvas.clientHeight];
}

function progress(side) {
  return side.duration ? Math.min(1, (performance.now() - side.begun) / side.duration) : 1;
}

function between(a, b, t) {
  const mix = (x, y) => (Array.isArray(x) ? x.map((value, i) => mix(value, y[i])) : x + t * (y - x));
  const all = (x, y) => Object.fromEntries(Object.keys(y).map((name) => [name, mix(x[name] ?? y[name], y[name])]));
  return { polygons: all(a.polygons, b.polygons), discs: all(a.discs, b.discs) };
}

function path(context, points, size) {
  context.beginPath();
  points.forEach(([x, y], i) => context[i ? "lineTo" : "moveTo"](x * size, y * size));
}

function draw() {
  for (const side of sides) drawSide(side);
  if (!ended) requestAnimationFrame(draw);
}

function drawSide(side) {
  const [context, width, height] = fit(side.canvas);
  if (side.picture?.complete) {
    const scale = Math.min(width / side.picture.width, height / side.picture.height);
    const [w, h] = [side.picture.width * scale, side.picture.height * scale];
    context.drawImage(side.picture, (width - w) / 2, (height - h) / 2, w, h);
  }
  if (side.to) {
    const now = between(side.from, side.to, progress(side));
    for (const [name, points] of Object.entries(now.polygons)) {
      path(context, points, width);
      context.closePath();
      context.fillStyle = colour(name === "goal" ? "goal" : "block");
      context.fill();
      if (name !== "goal") {
        context.strokeStyle = colour("block-edge");
        context.lineWidth = 1.5;
        context.stroke();
      }
    }
    for (const [x, y, radius] of Object.values(now.discs)) {
      context.beginPath();
      context.arc(x * width, y * width, radius * width, 0, 2 * Math.PI);
      context.fillStyle = colour("agent");
      context.fill();
    }
    if (side.futures) {
      side.futures.lines.forEach((points, i) => {
        const chosen = i === side.futures.chosen;
        path(context, points, width);
        context.strokeStyle = colour(chosen ? "query" : "ghost");
        context.lineWidth = chosen ? 2.5 : 1;
        context.stroke();
      });
    }
  }
  if (performance.now() - side.pushed < 300 && side.pushed) {
    context.strokeStyle = colour("push");
    context.lineWidth = 4;
    context.strokeRect(2, 2, width - 4, height - 4);
  }
}

function drawChart() {
  const [context, width, height] = fit($("chart"));
  const values = sides.flatMap((side) => side.history.map((own) => own.value)).filter((value) => value !== null);
  const [low, high] = [Math.min(0, ...values), Math.max(values.some((v) => v > 1) ? 0 : 1, ...values)];
  const [top, bottom] = [6, height - 8 * sides.length - 4];
  const x = (i) => (i / KEPT) * (width - 4) + 2;
  const y = (value) => bottom - ((value - low) / (high - low || 1)) * (bottom - top);
  context.strokeStyle = colour("line");
  for (const value of [low, high]) {
    path(context, [[0, y(value)], [width, y(value)]], 1);
    context.stroke();
  }
  sides.forEach((side, s) => {
    const own = colour(s ? "two" : "one");
    context.fillStyle = context.strokeStyle = own;
    context.lineWidth = 2;
    path(context, side.history.map((entry, i) => [x(i), y(entry.value ?? low)]), 1);
    context.stroke();
    context.fillText(side.own.name, 6, top + 12 * (s + 1));
    side.history.forEach((entry, i) => {
      const line = bottom + 5 + 8 * s;
      for (const [shown, name] of [[entry.push, "push"], [entry.cause, entry.cause === "monitor" ? "alarm" : "query"]]) {
        if (!shown) continue;
        context.fillStyle = colour(name);
        context.fillRect(x(i), line, 1.5, 6);
      }
    });
  });
}

// ---- hands

function hand(side) {
  const canvas = side.canvas;
  let last = null, waiting = [0, 0], timer = 0;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  const tell = () => {
    timer = 0;
    if (waiting[0] || waiting[1]) send({ type: "push", by: waiting });
    waiting = [0, 0];
  };
  const move = (by) => {
    waiting = [waiting[0] + by[0], waiting[1] + by[1]].map((value) => Math.max(-1, Math.min(1, value)));
    if (!timer) timer = setTimeout(tell, 40);
  };
  canvas.classList.add("movable");
  canvas.addEventListener("pointerdown", (event) => {
    const point = at(event);
    if (!inside(point, side.to.polygons.block)) return;
    last = point;
    canvas.setPointerCapture(event.pointerId);
    canvas.classList.add("moving");
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const point = at(event);
    move([point[0] - last[0], point[1] - last[1]]);
    last = point;
  });
  for (const name of ["pointerup", "pointercancel"])
    canvas.addEventListener(name, () => {
      last = null;
      canvas.classList.remove("moving");
    });
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
    if (!by) return;
    event.preventDefault();
    move(by);
  });
}

function inside([x, y], points) {
  let found = false;
  points.forEach(([ax, ay], i) => {
    const [bx, by] = points[(i + 1) % points.length];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) found = !found;
  });
  return found;
}

// ---- controls

function setRunning(on) {
  running = on;
  $("run").textContent = on ? "Pause" : "Run";
  $("run").setAttribute("aria-pressed", String(on));
  send({ type: "run", on, speed: Number($("speed").value) });
}

function show(settings) {
  $("replan_every").value = EVERY.reduce((best, value, i) => (value <= settings.replan_every ? i : best), 0);
  $("delay").value = settings.delay;
  $("imagine").value = IMAGINE.reduce((best, value, i) => (value <= settings.imagine ? i : best), 0);
  $("monitor").value = settings.monitor;
  words();
}

function words() {
  const steps = (count) => `${count} step${count === 1 ? "" : "s"}`;
  $("speed-out").textContent = `${Number($("speed").value)} ×`;
  $("replan_every-out").textContent = steps(EVERY[$("replan_every").value]);
  $("delay-out").textContent = steps(Number($("delay").value));
  const count = IMAGINE[$("imagine").value];
  $("imagine-out").textContent = count ? `${count}` : "1 (off)";
  $("monitor-out").textContent = Number($("monitor").value) ? Number($("monitor").value).toFixed(2) : "never";
}

function settings() {
  words();
  send({
    type: "settings",
    replan_every: EVERY[$("replan_every").value],
    delay: Number($("delay").value),
    imagine: $("imagine").disabled ? 0 : IMAGINE[$("imagine").value],
    monitor: $("monitor").disabled ? 0 : Number($("monitor").value),
  });
}

function disturb() {
  const name = $("disturb").value;
  $("magnitude").disabled = name === "none";
  $("unit").textContent = name === "none" ? "" : `(${$("disturb").selectedOptions[0].dataset.unit})`;
  send({ type: "settings", disturb: name === "none" ? name : `${name}:${Math.max(0, Number($("magnitude").value) || 0)}` });
}

$("run").addEventListener("click", () => setRunning(!running));
$("one").addEventListener("click", () => {
  setRunning(false);
  send({ type: "step" });
});
$("new").addEventListener("click", () => send({ type: "reset", seed: Number($("new").dataset.seed ?? about.seed) + 1 }));
$("speed").addEventListener("input", () => {
  words();
  setRunning(running);
});
for (const name of ["replan_every", "delay", "imagine", "monitor"]) {
  $(name).addEventListener("input", words);
  $(name).addEventListener("change", settings);
}
$("disturb").addEventListener("change", () => {
  $("magnitude").value = about.usual[$("disturb").value] ?? 1;
  disturb();
});
$("magnitude").addEventListener("change", disturb);
$("controls").addEventListener("submit", (event) => event.preventDefault());

// ---- the map

function latentMap(told) {
  map = told;
  $("map-card").hidden = false;
  const share = told.share.map((value) => `${Math.round(100 * value)} %`).join(" and ");
  $("map-note").textContent = `${told.places.length} snippets of the demonstrations of ${sides[0].own.name}, in the two directions in which their latents differ most (${share} of the variance). Click one to play its policy; the line follows what is sampled.`;
  $("from-start-label").hidden = !told.starts;
  for (const name of Object.keys(told.colours)) $("colour").add(new Option(name.replaceAll("_", " "), name));
  $("colour").value = told.first;
  $("colour").addEventListener("change", drawMap);
  $("map").addEventListener("pointerdown", (event) => {
    const box = $("map").getBoundingClientRect();
    cross = unplot([event.clientX - box.left, event.clientY - box.top], box.width, box.height);
    play();
  });
  $("map").addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-0.05, 0], ArrowRight: [0.05, 0], ArrowUp: [0, 0.05], ArrowDown: [0, -0.05] }[event.key];
    if (by) cross = cross.map((value, i) => Math.max(-1, Math.min(1, value + by[i])));
    else if (event.key === "Enter") play();
    else return;
    event.preventDefault();
    drawMap();
  });
  $("release").addEventListener("click", () => send({ type: "release" }));
  drawMap();
}

const plot = ([x, y], width, height) => [(0.5 + 0.46 * x) * width, (0.5 - 0.46 * y) * height];
const unplot = ([x, y], width, height) => [(x / width - 0.5) / 0.46, (0.5 - y / height) / 0.46];

function play() {
  let best = 0, least = Infinity;
  map.places.forEach(([x, y], i) => {
    const distance = (x - cross[0]) ** 2 + (y - cross[1]) ** 2;
    if (distance < least) [best, least] = [i, distance];
  });
  const start = map.starts && $("from-start").checked;
  send(least < 0.05 ** 2 ? { type: "hold", point: best, from_start: start } : { type: "hold", place: cross });
  if (!running) setRunning(true);
}

function drawMap() {
  const [context, width, height] = fit($("map"));
  const chosen = map.colours[$("colour").value], values = chosen.values;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const shade = (value) => (chosen.kinds ? PALETTE[value % PALETTE.length] : `hsl(${250 - 210 * ((value - low) / (high - low || 1))} 70% 52%)`);
  map.places.forEach((point, i) => {
    const [x, y] = plot(point, width, height);
    context.fillStyle = shade(values[i]);
    context.fillRect(x - 1.5, y - 1.5, 3, 3);
  });
  if (trail.length > 1) {
    path(context, trail.map((point) => plot(point, width, height)), 1);
    context.strokeStyle = colour("ink");
    context.lineWidth = 1;
    context.stroke();
  }
  const mark = (point, name, radius) => {
    const [x, y] = plot(point, width, height);
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.strokeStyle = colour(name);
    context.lineWidth = 2.5;
    context.stroke();
  };
  if (trail.length) mark(trail[trail.length - 1], "ink", 6);
  if (held) mark(held, "push", 9);
  const [x, y] = plot(cross, width, height);
  context.strokeStyle = colour("faint");
  context.lineWidth = 1;
  for (const line of [[[x - 6, y], [x + 6, y]], [[x, y - 6], [x, y + 6]]]) {
    path(context, line, 1);
    context.stroke();
  }
  $("legend").replaceChildren(
    ...(chosen.kinds
      ? chosen.kinds.flatMap((name, i) => [key(PALETTE[i % PALETTE.length]), document.createTextNode(name)])
      : [key(shade(low)), document.createTextNode(low.toPrecision(3)), key(shade(high)), document.createTextNode(high.toPrecision(3))]),
  );
}

function key(shade) {
  const dot = document.createElement("span");
  dot.className = "key";
  dot.style.background = shade;
  return dot;
}

connect();
