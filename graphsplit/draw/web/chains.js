// Why layers move together: ways along the coupling trees, from one layer to another.
"use strict";

(function (graphsplit) {
  // The knots of a box, by family.
  function knotsOf(index, box) {
    if (!index.knots) {
      index.knots = new Map();
      index.why = new Map(index.drawing.whys.map((why) => [why.box, why.text]));
      index.drawing.trees.forEach((tree, t) => tree.knots.forEach((knot, k) => {
        if (!index.knots.has(knot.box)) index.knots.set(knot.box, []);
        index.knots.get(knot.box).push([t, k]);
      }));
    }
    return index.knots.get(box) || [];
  }

  // The layers that share atoms with a box: each with the first tree that has both.
  function partners(index, box) {
    const found = new Map(), seen = new Set();
    for (const [t, k] of knotsOf(index, box)) {
      if (seen.has(t)) continue;
      seen.add(t);
      index.drawing.trees[t].knots.forEach((knot, other) => {
        if (knot.box >= 0 && knot.box !== box && !found.has(knot.box)) found.set(knot.box, { tree: t, from: k, to: other });
      });
    }
    return found;
  }

  // The steps between two knots of a tree: up to where their ways to the root meet, and down again.
  function way(index, { tree, from, to }) {
    const knots = index.drawing.trees[tree].knots;
    const up = (k) => { const found = [k]; while (knots[found[found.length - 1]].before >= 0) found.push(knots[found[found.length - 1]].before); return found; };
    const one = up(from), other = up(to), meet = one.find((k) => other.includes(k));
    const steps = [];
    for (const k of one.slice(0, one.indexOf(meet))) steps.push({ left: knots[k], via: knots[k].via, right: knots[knots[k].before] });
    for (const k of other.slice(0, other.indexOf(meet)).reverse()) steps.push({ left: knots[knots[k].before], via: knots[k].via, right: knots[k] });
    return steps;
  }

  function coupled(app, box, make, section, list) {
    const found = partners(app.index, box);
    if (!found.size) return [];
    const items = [...found].map(([other, ends]) => make("li", {}, app.linkBox(other), " ",
      make("button", { class: "link why", type: "button", "data-other": String(other), onclick: () => app.follow(box, other, way(app.index, ends)) }, "why")));
    return [section(`Moves together with ${found.size} ${found.size === 1 ? "layer" : "layers"}`, list(items, 12))];
  }

  // A chain that is followed: its steps in words, each with the vertices that meet there.
  function chain(app, from, to, steps) {
    const { make } = graphsplit, boxes = app.index.drawing.boxes;
    const vertex = (knot) => (knot.box < 0 ? "a vertex" : make("span", {}, app.linkBox(knot.box), ` ${knot.index}`));
    const items = steps.map((step) => make("li", {}, vertex(step.left), " meets ", vertex(step.right), " at ", step.via < 0 ? "a node that isn't drawn" : app.linkBox(step.via),
      make("p", { class: "quiet" }, step.via < 0 ? "" : app.index.why.get(step.via) || "")));
    return [make("h2", {}, "Why they move together"), make("p", {}, app.linkBox(from), " and ", app.linkBox(to)),
      make("ol", { class: "chain" }, items), make("button", { type: "button", onclick: () => app.select("b" + from) }, `Back to ${boxes[from].label}`)];
  }

  Object.assign(graphsplit, { coupled, chain, way });
})(graphsplit);
