// The scene of a drawing: which boxes and folds are to be seen, where, and how edges run between them.
// Every open fold is laid out by itself, and its size is that of a box in the fold around it; dagre does the work.
"use strict";
var graphsplit = globalThis.graphsplit || {};
globalThis.graphsplit = graphsplit;

(function (graphsplit) {
  const SIZE = { layer: 48, node: 28, terminal: 28, fold: 54, header: 30, pad: 18 };
  const BUDGET = 42;  // so many boxes are to be seen at first

  // The drawing with what is looked up often: folds by number, the fold around each box, edges by fold.
  function index(drawing) {
    const folds = [], home = new Array(drawing.boxes.length).fill(0);
    (function walk(found, parent) {
      const fold = { id: folds.length, label: found.label, kind: found.kind, parent, items: [], boxes: 0 };
      folds.push(fold);
      for (const child of found.children) {
        if (typeof child === "number") { fold.items.push("b" + child); home[child] = fold.id; fold.boxes += 1; }
        else { const inner = walk(child, fold.id); fold.items.push("f" + inner.id); fold.boxes += inner.boxes; }
      }
      return fold;
    })(drawing.fold, -1);
    for (const fold of folds) fold.edges = new Map();
    const found = { drawing, folds, home, cache: new Map() };
    for (const edge of drawing.edges) addEdge(found, edge);
    weigh(found);
    return found;
  }

  // The folds around a box, from its own to the root.
  function around(index, box) {
    const found = [];
    for (let fold = index.home[box]; fold >= 0; fold = index.folds[fold].parent) found.push(fold);
    return found;
  }

  // An edge in every fold that it runs through: from one child to another where both ends are, else from or to the border.
  function addEdge(index, edge) {
    const one = around(index, edge.source), other = around(index, edge.target);
    const common = one.find((fold) => other.includes(fold));
    const inner = (chain, box) => {
      const found = [];
      let item = "b" + box;
      for (const fold of chain) {
        found.push([fold, item]);
        if (fold === common) break;
        item = "f" + fold;
      }
      return found;
    };
    const from = inner(one, edge.source), to = inner(other, edge.target);
    note(index.folds[common], from[from.length - 1][1], to[to.length - 1][1], edge);
    for (const [fold, item] of from.slice(0, -1)) note(index.folds[fold], item, "out", edge);
    for (const [fold, item] of to.slice(0, -1)) note(index.folds[fold], "in", item, edge);
  }

  function note(fold, from, to, edge) {
    const key = from + ">" + to, known = fold.edges.get(key);
    const found = known || { from, to, kind: edge.kind, cut: false, values: [], ends: [] };
    if (edge.kind === "divided" || (edge.kind === "private" && found.kind !== "divided")) found.kind = edge.kind;
    found.cut = found.cut || edge.cut;
    if (found.values.length < 4 && !found.values.includes(edge.value)) found.values.push(edge.value);
    if (found.ends.length < 64) found.ends.push([edge.source, edge.target]);
    if (!known) fold.edges.set(key, found);
  }

  // Parameters of each fold, in all and of each part, and what its boxes are; a parameter that two nodes use counts once.
  function weigh(index) {
    const { drawing, folds } = index, facts = drawing.facts;
    const sizes = new Map();
    const product = (shape) => shape.reduce((a, b) => a * b, 1);
    for (const p of facts.parameters) {
      sizes.set(p.name, { full: product(p.shape), parts: (p.shapes_of_parts || []).map(product) });
    }
    const parts = facts.parts || 0;
    for (const fold of folds) Object.assign(fold, { parameters: 0, parts: new Array(parts).fill(0), names: new Set(), kinds: new Set() });
    drawing.boxes.forEach((box, number) => {
      const names = box.layer === null ? [] : facts.layers[box.layer].parameters;
      for (const id of around(index, number)) {
        const fold = folds[id];
        fold.kinds.add(box.kind);
        for (const name of names) {
          if (fold.names.has(name) || !sizes.has(name)) continue;
          fold.names.add(name);
          const size = sizes.get(name);
          fold.parameters += size.full;
          size.parts.forEach((n, part) => { fold.parts[part] += n; });
        }
      }
    });
  }

  // The folds that are open at first: level by level, as long as all of one find room; alike blocks stay folded.
  function opened(index, budget) {
    const open = new Set([0]);
    let seen = index.folds[0].items.length, level = inner(index, index.folds[0]);
    while (level.length) {
      const wanted = level.filter((fold) => fold.kind !== "alike");
      const more = wanted.reduce((sum, fold) => sum + fold.items.length - 1, 0);
      if (!wanted.length || seen + more > (budget || BUDGET)) break;
      seen += more;
      for (const fold of wanted) open.add(fold.id);
      level = wanted.flatMap((fold) => inner(index, fold));
    }
    const first = level.find((fold) => seen + fold.items.length <= (budget || BUDGET));
    if (first && seen < 14) open.add(first.id);
    return open;
  }

  function inner(index, fold) {
    return fold.items.filter((item) => item[0] === "f").map((item) => index.folds[Number(item.slice(1))]);
  }

  function toggle(index, open, id) {
    if (open.has(id)) open.delete(id); else open.add(id);
    for (let fold = id; fold >= 0; fold = index.folds[fold].parent) index.cache.delete(fold);
  }

  function isLayer(box) { return box.layer !== null && box.op !== "input" && box.op !== "output"; }

  function shorten(text, most) {
    if (text.length <= most) return text;
    const head = Math.ceil((most - 1) * 0.45), tail = most - 1 - head;
    return text.slice(0, head) + "…" + text.slice(text.length - tail);
  }

  function sizeOf(index, item) {
    const number = Number(item.slice(1));
    if (item[0] === "f") {
      const label = shorten(index.folds[number].label, 34);
      return { width: Math.max(150, label.length * 7.2 + 50, content(index.folds[number]).length * 6.2 + 44), height: SIZE.fold };
    }
    const box = index.drawing.boxes[number], terminal = box.op === "input" || box.op === "output";
    const name = shorten(box.label, isLayer(box) ? 30 : 24), below = shorten(opName(box), 18);
    const badge = box.repeated ? 26 : 0;  // ×2 stands behind the name
    const long = isLayer(box) ? Math.max(name.length * 7.1 + badge, (below + described(box)).length * 6.3) : (name + below).length * 6.9 + 8 + badge;
    return {
      width: Math.max(isLayer(box) ? 150 : 96, long + 20),
      height: terminal ? SIZE.terminal : isLayer(box) ? SIZE.layer : SIZE.node,
    };
  }

  const total = (list) => list.reduce((a, b) => a + b, 0);

  function count(number) {
    if (number < 10000) return String(number);
    for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (number >= size) return String(Number((number / size).toPrecision(3))) + " " + unit;
    }
    return String(number);
  }

  // What stands under a fold's name.
  function content(fold) {
    const times = fold.kind === "alike" ? `×${fold.items.length} alike, ` : "";
    return `${times}${count(fold.boxes)} nodes` + (fold.parameters ? ` · ${count(fold.parameters)} parameters` : "");
  }

  // What stands under a layer's name, behind its op.
  function described(box) {
    const dot = opName(box) ? " · " : "";
    if (box.refused) return dot + "refused";
    const all = total(box.bands);
    if (all) return dot + count(all) + (box.bands.length <= 4 ? ` = ${box.bands.map(count).join(" + ")}` : "");
    return { output: dot + "output, averaged", private: dot + "each part its own", whole: "", divided: "" }[box.kind];
  }

  function opName(box) {
    const name = box.op === "input" || box.op === "output" ? box.op : box.op.replace(/^.*::/, "").replace(/\.\w+$/, "");
    return name === box.label ? "" : name;
  }

  // Where the children of an open fold stand, relative to its corner.
  function layout(index, open, id) {
    const known = index.cache.get(id);
    if (known) return known;
    const fold = index.folds[id], graph = new dagre.graphlib.Graph({ multigraph: false });
    graph.setGraph({ rankdir: "TB", nodesep: 26, edgesep: 14, ranksep: 42, marginx: SIZE.pad, marginy: id ? 8 : SIZE.pad });
    graph.setDefaultEdgeLabel(() => ({}));
    const inner = new Map();
    for (const item of fold.items) {
      let size = sizeOf(index, item);
      const number = Number(item.slice(1));
      if (item[0] === "f" && open.has(number)) {
        const found = layout(index, open, number);
        inner.set(item, found);
        size = { width: found.width, height: found.height };
      }
      graph.setNode(item, { ...size });
    }
    for (const edge of fold.edges.values()) {
      for (const end of [edge.from, edge.to]) {
        if ((end === "in" || end === "out") && !graph.hasNode(end)) graph.setNode(end, { width: 30, height: 1 });
      }
      graph.setEdge(edge.from, edge.to, { weight: edge.values.length > 1 ? 2 : 1 });
    }
    dagre.layout(graph);
    const header = id ? SIZE.header : 0, bounds = graph.graph();
    const title = id ? shorten(fold.label, 60).length * 7.2 + 70 : 0;
    const bends = [...fold.edges.values()].flatMap((edge) => graph.edge(edge.from, edge.to).points.map((p) => p.x));
    const beyond = Math.max(0, SIZE.pad - Math.min(...bends), Math.max(...bends) + SIZE.pad - bounds.width);  // edges bend outside
    const spare = Math.max(beyond, (title - bounds.width) / 2, 0);
    const place = (item) => {
      const at = graph.node(item);
      return { x: at.x - at.width / 2 + spare, y: at.y - at.height / 2 + header, width: at.width, height: at.height };
    };
    const found = {
      width: bounds.width + 2 * spare,
      height: bounds.height + header + (id ? 6 : 0),
      items: fold.items.map((item) => ({ item, inner: inner.get(item) || null, ...place(item) })),
      edges: [...fold.edges.values()].map((edge) => ({
        edge,
        points: graph.edge(edge.from, edge.to).points.map((p) => ({ x: p.x + spare, y: p.y + header })),
      })),
      ports: {},
    };
    for (const end of ["in", "out"]) if (graph.hasNode(end)) found.ports[end] = graph.node(end).x + spare;
    index.cache.set(id, found);
    return found;
  }

  // Everything that is to be seen, in absolute coordinates: containers around boxes, boxes, edges.
  function scene(index, open) {
    const root = layout(index, open, 0);
    const found = { width: root.width, height: root.height, containers: [], boxes: [], edges: [], at: new Map() };
    (function walk(place, id, left, top, depth) {
      const here = new Map();
      for (const one of place.items) {
        const rect = { ...one, x: one.x + left, y: one.y + top };
        here.set(one.item, rect);
        found.at.set(one.item, rect);
        if (one.inner) {
          found.containers.push({ id: Number(one.item.slice(1)), depth, ...rect });
          walk(one.inner, Number(one.item.slice(1)), rect.x, rect.y, depth + 1);
        } else found.boxes.push(rect);
      }
      const border = {
        in: { item: "in", x: left + (place.ports.in || 0) - 15, y: top, width: 30, height: 0, port: true },
        out: { item: "out", x: left + (place.ports.out || 0) - 15, y: top + place.height, width: 30, height: 0, port: true },
      };
      for (const { edge, points } of place.edges) {
        found.edges.push({
          edge,
          from: here.get(edge.from) || border[edge.from],
          to: here.get(edge.to) || border[edge.to],
          points: points.map((p) => ({ x: p.x + left, y: p.y + top })),
        });
      }
    })(root, 0, 0, 0, 0);
    return found;
  }

  // The item that shows a box: itself, or the outermost closed fold around it.
  function shownAs(index, open, box) {
    let item = "b" + box;
    for (const fold of around(index, box)) {
      if (!open.has(fold)) item = "f" + fold;
    }
    return item;
  }

  Object.assign(graphsplit, { index, around, opened, toggle, scene, shownAs, shorten, isLayer, opName, count, total, described, content, SIZE });
})(graphsplit);
