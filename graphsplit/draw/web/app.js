// The page: zoom and pan, folds, selection, search, chains, keys. Everything that is drawn comes from draw.js.
"use strict";

(function (graphsplit) {
  const drawing = JSON.parse(document.getElementById("facts").textContent);
  const index = graphsplit.index(drawing), open = graphsplit.opened(index);
  const svg = d3.select("#graph"), ground = document.querySelector("#graph .scene"), panel = document.getElementById("panel");
  const app = { index, open, scene: null, selected: null, chain: null };
  const READABLE = 0.72;
  const MOST = 1500;  // more boxes than these aren't opened all at once

  // -- what is seen -----------------------------------------------------------------------------------------------

  const zoom = d3.zoom().scaleExtent([0.04, 4]).on("zoom", (event) => ground.setAttribute("transform", event.transform));
  svg.call(zoom).on("dblclick.zoom", null);

  function render(anchor) {
    const before = anchor && app.scene ? app.scene.at.get(anchor) : null;
    app.scene = graphsplit.scene(index, open);
    ground.innerHTML = graphsplit.draw(index, app.scene);
    const after = anchor ? app.scene.at.get(anchor) : null;
    if (before && after) {  // what was opened or folded stays where it was
      const now = d3.zoomTransform(svg.node());
      const shift = (x) => x.x + x.width / 2;
      svg.call(zoom.transform, now.translate(shift(before) - shift(after), before.y - after.y));
    }
    mark();
  }

  // The whole scene in the window; at first no smaller than can be read, and then from the top.
  function fit(least) {
    const view = svg.node().getBoundingClientRect(), { width, height } = app.scene;
    const scale = Math.min(1, Math.max(least, Math.min(view.width / width, view.height / height)));
    const top = Math.max(0, (view.height - height * scale) / 2);
    svg.call(zoom.transform, d3.zoomIdentity.translate((view.width - width * scale) / 2, top).scale(scale));
  }

  function centre(item) {
    const rect = app.scene.at.get(item);
    if (!rect) return;
    const view = svg.node().getBoundingClientRect(), scale = Math.max(0.6, d3.zoomTransform(svg.node()).k);
    svg.call(zoom.transform, d3.zoomIdentity.translate(view.width / 2 - (rect.x + rect.width / 2) * scale, view.height / 2 - (rect.y + Math.min(rect.height, 60) / 2) * scale).scale(scale));
  }

  function visible(item) {
    const view = svg.node().getBoundingClientRect(), now = d3.zoomTransform(svg.node()), rect = app.scene.at.get(item);
    if (!rect) return false;
    const x = now.applyX(rect.x), y = now.applyY(rect.y);
    return x > 0 && y > 0 && now.applyX(rect.x + rect.width) < view.width && now.applyY(rect.y + Math.min(rect.height, 60)) < view.height;
  }

  function element(item) { return ground.querySelector(`[data-item="${item}"]`); }

  function mark() {
    const lit = app.chain ? new Set(app.chain.map((box) => graphsplit.shownAs(index, open, box))) : null;
    ground.classList.toggle("dimmed", Boolean(lit));
    for (const found of ground.querySelectorAll(".item")) {
      found.classList.toggle("selected", found.dataset.item === app.selected);
      found.classList.toggle("lit", Boolean(lit && (lit.has(found.dataset.item) || found.classList.contains("container"))));
    }
    for (const found of ground.querySelectorAll(".edge")) {
      found.classList.toggle("near", found.dataset.from === app.selected || found.dataset.to === app.selected);
    }
    const first = element(app.selected || "") || ground.querySelector(".item");
    if (first) first.setAttribute("tabindex", "0");
  }

  // -- what is asked ----------------------------------------------------------------------------------------------

  function toggle(id) {
    if (!id) return;
    graphsplit.toggle(index, open, id);
    render("f" + id);
    select("f" + id, false);
    const found = element("f" + id);
    if (found) found.focus({ preventScroll: true });
  }

  function select(item, follow) {
    app.selected = item;
    app.chain = null;
    mark();
    show(item === null ? graphsplit.panels.summary(app) : item[0] === "f" ? graphsplit.panels.fold(app, Number(item.slice(1))) : graphsplit.panels.box(app, Number(item.slice(1))));
    if (follow && !visible(item)) centre(item);
  }

  function show(children) {
    panel.replaceChildren(...children.filter(Boolean));
    panel.scrollTop = 0;
  }

  // Open every fold around a box and bring it into sight; select it, unless a chain is being looked at.
  function reveal(box) {
    let changed = false;
    for (const fold of graphsplit.around(index, box)) {
      if (!open.has(fold)) { graphsplit.toggle(index, open, fold); changed = true; }
    }
    if (changed) render("b" + box);
    if (app.chain && app.chain.includes(box)) centre("b" + box); else select("b" + box, true);
  }

  function follow(from, to, steps) {
    app.selected = "b" + from;
    app.chain = [from, to, ...steps.flatMap((step) => [step.left.box, step.via, step.right.box])].filter((box) => box >= 0);
    mark();
    show(graphsplit.chain(app, from, to, steps));
  }

  const names = new Map(drawing.boxes.map((box, number) => [box.name, number]));

  function linkBox(number) {
    if (number < 0) return "?";
    return graphsplit.make("button", { class: "link", type: "button", title: drawing.boxes[number].name, onclick: () => reveal(number) }, graphsplit.shorten(drawing.boxes[number].name, 60));
  }

  function link(name, text) {
    return names.has(name) ? graphsplit.make("button", { class: "link", type: "button", title: name, onclick: () => reveal(names.get(name)) }, graphsplit.shorten(text, 72)) : graphsplit.shorten(text, 72);
  }

  const users = new Map();
  drawing.facts.layers.forEach((layer) => layer.parameters.forEach((name) => { if (!users.has(name)) users.set(name, layer.node); }));
  const linkParameter = (name) => link(users.get(name) || name, name);

  Object.assign(app, { toggle, select, reveal, follow, linkBox, link, linkParameter });

  // -- events -----------------------------------------------------------------------------------------------------

  ground.addEventListener("click", (event) => {
    const found = event.target.closest(".item");
    if (!found) return;
    const item = found.dataset.item;
    if (found.classList.contains("fold") || found.classList.contains("title")) toggle(Number(item.slice(1)));
    else select(item, false);
  });
  svg.on("click", (event) => { if (!event.target.closest(".item")) select(null); });

  // The next item from here towards an arrow's direction: the nearest whose middle lies there.
  function towards(item, dx, dy) {
    const here = app.scene.at.get(item);
    let best = null, least = Infinity;
    for (const rect of app.scene.boxes) {
      const x = rect.x + rect.width / 2 - (here.x + here.width / 2), y = rect.y - here.y;
      const ahead = x * dx + y * dy, aside = Math.abs(x * dy) + Math.abs(y * dx);
      if (ahead > 4 && ahead + 2 * aside < least && rect.item !== item) { least = ahead + 2 * aside; best = rect.item; }
    }
    return best;
  }

  const ARROWS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input") && event.key !== "Escape") return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const focused = document.activeElement && document.activeElement.closest("#graph .item");
    if (ARROWS[event.key] && (focused || event.target === document.body)) {
      const from = focused ? focused.dataset.item : app.selected || app.scene.boxes[0].item;
      const next = focused || app.selected ? towards(from, ...ARROWS[event.key]) : from;
      if (next) { select(next, true); element(next).focus({ preventScroll: true }); }
    } else if ((event.key === "Enter" || event.key === " ") && focused) {
      if (focused.dataset.item[0] === "f") toggle(Number(focused.dataset.item.slice(1))); else select(focused.dataset.item, true);
    } else if (event.key === "/") search.focus();
    else if (event.key === "Escape") { search.value = ""; results.replaceChildren(); search.blur(); select(null); }
    else if (event.key === "f") fit(0);
    else if (event.key === "d") theme();
    else if (event.key === "+" || event.key === "=") svg.call(zoom.scaleBy, 1.3);
    else if (event.key === "-") svg.call(zoom.scaleBy, 1 / 1.3);
    else return;
    event.preventDefault();
  });

  const search = document.getElementById("search"), results = document.getElementById("results");

  search.addEventListener("input", () => {
    const text = search.value.trim().toLowerCase(), found = [];
    for (let number = 0; text && number < drawing.boxes.length && found.length < 20; number += 1) {
      const box = drawing.boxes[number], names = box.layer === null ? [] : drawing.facts.layers[box.layer].parameters;
      if ([box.name, box.op, ...names].some((name) => name.toLowerCase().includes(text))) found.push(number);
    }
    results.replaceChildren(...found.map((number) => graphsplit.make("li", {}, graphsplit.make("button", { type: "button", onclick: () => { reveal(number); results.replaceChildren(); } },
      drawing.boxes[number].name, graphsplit.make("span", { class: "quiet" }, " " + drawing.boxes[number].op)))));
    if (text && !found.length) results.replaceChildren(graphsplit.make("li", { class: "quiet" }, "nothing has this name"));
  });
  search.addEventListener("keydown", (event) => {
    const first = results.querySelector("button");
    if (event.key === "Enter" && first) first.click();
    if (event.key === "ArrowDown" && first) first.focus();
  });

  function theme() {
    const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  }

  function all(unfold) {
    for (const fold of index.folds) {
      if (fold.id && open.has(fold.id) !== unfold) graphsplit.toggle(index, open, fold.id);
    }
    render();
    fit(READABLE);
  }

  document.getElementById("theme").addEventListener("click", theme);
  document.getElementById("fit").addEventListener("click", () => fit(0));
  document.getElementById("fold").addEventListener("click", () => all(false));
  const unfold = document.getElementById("unfold");
  unfold.addEventListener("click", () => all(true));
  unfold.disabled = drawing.boxes.length > MOST || index.folds.length === 1;
  document.getElementById("fold").disabled = index.folds.length === 1;
  if (drawing.boxes.length > MOST) unfold.title = `${drawing.boxes.length} nodes: unfold what you look for`;

  const keys = document.getElementById("legend");
  for (const entry of graphsplit.legend(drawing)) keys.append(graphsplit.make("li", {}, graphsplit.make("span", { class: "chip " + entry.class }), entry.text));
  // On paper the whole scene fits its frame by itself, on white.
  let before = null;
  globalThis.addEventListener("beforeprint", () => {
    if (before) return;
    before = { transform: ground.getAttribute("transform"), theme: document.documentElement.dataset.theme };
    ground.removeAttribute("transform");
    svg.attr("viewBox", `0 0 ${app.scene.width} ${app.scene.height}`);
    document.documentElement.dataset.theme = "light";
  });
  globalThis.addEventListener("afterprint", () => {
    if (!before) return;
    ground.setAttribute("transform", before.transform);
    svg.attr("viewBox", null);
    if (before.theme) document.documentElement.dataset.theme = before.theme; else delete document.documentElement.dataset.theme;
    before = null;
  });

  render();
  fit(READABLE);
  select(null);
  graphsplit.app = app;
})(graphsplit);
