"use strict";
// Rows come as columns; what clients chose is only ever put into text nodes and values.
(async () => {
  const TEXTS = ["cluster", "verb", "user", "kind", "namespace", "name", "detail"];
  const MARKS = ["session", "rbac", "secret", "delete", "degraded", "dry-run", "first", "refused"];
  const VERBS = ["create", "update", "patch", "delete", "deletecollection", "connect", "other"];
  const EXACT = ["cluster", "user", "kind", "namespace"];
  const ASKED = [...EXACT, "verb", "mark", "name", "text", "from", "to"];
  const PAGE_ROWS = 25, BARS = 120, WIDTH = 960, HEIGHT = 160, SHORTEST_MS = 1000;
  const SVG = "http://www.w3.org/2000/svg";
  const get = (id) => document.getElementById(id);
  const form = get("filters"), body = get("table").tBodies[0], chart = get("chart"), brush = get("brush");
  const drawing = chart.querySelector("svg");
  const source = get("data");
  const since = Number(source.dataset.since), until = Number(source.dataset.until);
  const several = source.dataset.several === "true";

  const bytes = Uint8Array.from(atob(source.textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const data = await new Response(stream).json();
  source.remove();
  const count = data.at.length;
  const times = new Float64Array(count);
  for (let row = 0, at = 0; row < count; row++) times[row] = at += data.at[row];

  let state = {}, found = [], first = 0;

  // -- what is asked for stands in the address: links, the back button and bookmarks work -----------------------

  function read() {
    const asked = new URLSearchParams(location.hash.slice(2));
    state = { from: since, to: until };
    for (const name of ASKED) {
      const value = asked.get(name);
      if (value) state[name] = name === "from" || name === "to" ? Number(value) || state[name] : value;
    }
    state.from = Math.min(Math.max(since, state.from), until - 1);
    state.to = Math.max(Math.min(until, state.to), state.from + 1);
    for (const field of form.elements) if (field.name) field.value = state[field.name] ?? "";
  }

  function go(changed, quietly) {
    const asked = new URLSearchParams();
    for (const [name, value] of Object.entries({ ...state, ...changed })) {
      if (value === "" || value === undefined) continue;
      if ((name === "from" && value <= since) || (name === "to" && value >= until)) continue;
      asked.set(name, name === "from" || name === "to" ? Math.round(value) : value);
    }
    const hash = "#?" + asked;
    if (hash === location.hash) return;
    if (quietly) location.replace(hash);
    else location.hash = hash;
  }

  // -- finding ------------------------------------------------------------------------------------------------------

  function wanted(name) {
    const value = state[name];
    if (!value) return null;
    const { texts } = data[name];
    const whole = texts.indexOf(value), part = value.toLowerCase();
    const is = (text, number) => (whole >= 0 || name === "name" ? number === whole : text.toLowerCase().includes(part));
    return texts.map(is);
  }

  function find() {
    const tests = [...EXACT, "verb", "name"].map((name) => [wanted(name), data[name].numbers]).filter(([ok]) => ok);
    const mark = state.mark ? 1 << MARKS.indexOf(state.mark) : 0;
    const part = (state.text || "").toLowerCase();
    const has = (name) => data[name].texts.map((text) => text.toLowerCase().includes(part));
    const inName = part && has("name"), inDetail = part && has("detail");
    found = [];
    for (let row = 0; row < count; row++) {
      if (times[row] < state.from || times[row] >= state.to) continue;
      if (mark && !(data.marks[row] & mark)) continue;
      if (part && !inName[data.name.numbers[row]] && !inDetail[data.detail.numbers[row]]) continue;
      if (tests.every(([ok, numbers]) => ok[numbers[row]])) found.push(row);
    }
  }

  // -- showing ------------------------------------------------------------------------------------------------------

  const text = (row, name) => data[name].texts[data[name].numbers[row]];
  const clock = (ms, length = 19) => new Date(ms).toISOString().replace("T", " ").slice(0, length);

  function cell(line, value, className) {
    const made = line.insertCell(), inner = document.createElement("bdi");
    inner.textContent = value;
    made.append(inner);
    if (className) made.className = className;
  }

  function list() {
    const some = [];
    for (let back = found.length - 1 - first; back >= 0 && some.length < PAGE_ROWS; back--) some.push(found[back]);
    body.replaceChildren();
    for (const row of some) {
      const line = body.insertRow();
      cell(line, clock(times[row], 23), "time");
      const marks = MARKS.filter((name, number) => data.marks[row] & (1 << number) && ["dry-run", "first", "refused"].includes(name));
      for (const name of [...(several ? ["cluster"] : []), "user", "verb", "kind", "namespace", "name"]) cell(line, text(row, name));
      cell(line, [text(row, "detail"), ...marks.map((name) => `[${name}]`)].filter(Boolean).join(" "));
    }
    const number = (value) => value.toLocaleString("en");
    const shown = some.length ? `${number(first + 1)} to ${number(first + some.length)} of ` : "";
    const range = state.from > since || state.to < until ? ` from ${clock(state.from)} to ${clock(state.to)}` : "";
    const named = state.name ? ` named ${state.name}` : "";
    get("status").textContent = `${shown}${number(found.length)} records${named}${range}, the newest first; ${number(count)} in this page.`;
    document.querySelector("[data-do=newer]").disabled = first === 0;
    document.querySelector("[data-do=older]").disabled = first + PAGE_ROWS >= found.length;
  }

  function draw() {
    const span = state.to - state.from, columns = Array.from({ length: BARS }, () => new Uint32Array(VERBS.length));
    const verbs = data.verb.texts.map((verb) => VERBS.indexOf(verb));
    for (const row of found) {
      const column = Math.min(BARS - 1, Math.floor(((times[row] - state.from) / span) * BARS));
      columns[column][verbs[data.verb.numbers[row]]]++;
    }
    const most = Math.max(1, ...columns.map((column) => column.reduce((sum, one) => sum + one, 0)));
    const bars = [];
    columns.forEach((column, number) => {
      let top = HEIGHT;
      column.forEach((value, verb) => {
        if (!value) return;
        const height = (HEIGHT * value) / most, bar = document.createElementNS(SVG, "rect");
        top -= height;
        const place = { x: (number * WIDTH) / BARS, y: top, width: WIDTH / BARS - 0.5, height, class: "v-" + VERBS[verb] };
        for (const [name, one] of Object.entries(place)) bar.setAttribute(name, one);
        bars.push(bar);
      });
    });
    get("bars").replaceChildren(...bars);
    get("scale").textContent = `The highest bar: ${(found.length ? most : 0).toLocaleString("en")}`;
    const ticks = get("ticks").children;
    for (let tick = 0; tick < ticks.length; tick++) ticks[tick].textContent = clock(state.from + (span * tick) / 4);
  }

  function show() {
    read();
    find();
    first = 0;
    // The whole is drawn by what was counted: some records may have no row.
    if (Object.keys(state).length > 2 || state.from > since || state.to < until || get("bars").dataset.own) {
      draw();
      get("bars").dataset.own = "yes";
    }
    list();
  }

  // -- doing --------------------------------------------------------------------------------------------------------

  function move(from, to) {
    const span = Math.min(Math.max(to - from, SHORTEST_MS), until - since);
    const start = Math.min(Math.max(from, since), until - span);
    go({ from: start, to: start + span }, true);
  }

  const half = () => (state.to - state.from) / 2;
  const actions = {
    in: () => move(state.from + half() / 2, state.to - half() / 2),
    out: () => move(state.from - half(), state.to + half()),
    left: () => move(state.from - half() / 2, state.to - half() / 2),
    right: () => move(state.from + half() / 2, state.to + half() / 2),
    all: () => move(since, until),
    newer: () => { first = Math.max(0, first - PAGE_ROWS); list(); },
    older: () => { first += PAGE_ROWS; list(); },
  };
  const KEYS = { "+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right", 0: "all", Escape: "all" };

  document.addEventListener("click", (event) => {
    const action = event.target.closest("[data-do]")?.dataset.do;
    if (action) actions[action]();
    const link = event.target.closest('a[href^="#?"]');
    if (!link) return;
    event.preventDefault();
    location.hash = link.getAttribute("href");
    get("h-rows").focus({ preventScroll: true });
    get("h-rows").scrollIntoView();
  });
  chart.addEventListener("keydown", (event) => {
    const action = event.ctrlKey || event.metaKey || event.altKey ? undefined : KEYS[event.key];
    if (!action) return;
    event.preventDefault();
    actions[action]();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => { event.preventDefault(); location.hash = "#?"; });
  let waiting = 0;
  form.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => go(Object.fromEntries(new FormData(form)), true), 150);
  });

  let began = null;
  const place = (event) => {
    const box = drawing.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  };
  drawing.addEventListener("pointerdown", (event) => { began = place(event); drawing.setPointerCapture(event.pointerId); });
  drawing.addEventListener("pointermove", (event) => {
    if (began === null) return;
    const now = place(event);
    brush.setAttribute("x", Math.min(began, now) * WIDTH);
    brush.setAttribute("width", Math.abs(now - began) * WIDTH);
  });
  const stop = (event) => {
    if (began === null) return;
    const now = place(event), span = state.to - state.from, low = Math.min(began, now), high = Math.max(began, now);
    began = null;
    brush.setAttribute("width", 0);
    if (event.type === "pointerup" && high - low > 0.01) move(state.from + low * span, state.from + high * span);
  };
  drawing.addEventListener("pointerup", stop);
  drawing.addEventListener("pointercancel", stop);

  for (const name of EXACT) {
    const options = data[name].texts.slice(0, 2000).map((value) => Object.assign(document.createElement("option"), { value }));
    get("l-" + name)?.replaceChildren(...options);
  }
  addEventListener("hashchange", () => { if (!location.hash || location.hash.startsWith("#?")) show(); });
  document.documentElement.classList.add("ready");
  show();
})();
