// The panel beside the graph: the summary, or what there is to say of one box or fold. Text goes in as text, never as markup.
"use strict";

(function (graphsplit) {
  const { comparison, correlation, count, curves, isLayer, matrix, part, percent, scatter, total } = graphsplit;
  const WIDTH = 356;

  function make(tag, attributes, ...children) {
    const found = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "onclick") found.addEventListener("click", value); else found.setAttribute(name, value);
    }
    for (const child of children.flat()) if (child !== null && child !== "") found.append(child);
    return found;
  }

  function chart(markup) {
    const found = document.createElement("div");
    found.innerHTML = markup;  // made by charts.js, which escapes
    return found;
  }

  const chip = (p) => make("span", { class: "chip " + part(p), title: "part " + p });
  const times = (shape) => (shape ? shape.join(" × ") || "scalar" : "?");
  const bytes = (n) => (n >= 2 ** 20 ? (n / 2 ** 20).toFixed(1) + " MiB" : n >= 1024 ? (n / 1024).toFixed(1) + " KiB" : n + " B");

  function table(headings, rows, kind) {
    return make("table", { class: kind || "" },
      make("thead", {}, make("tr", {}, headings.map((h) => make("th", {}, h)))),
      make("tbody", {}, rows.map((row) => make("tr", {}, row.map((cell) => make("td", {}, cell))))));
  }

  function section(title, ...children) {
    return make("section", {}, make("h3", {}, title), ...children);
  }

  // A list that shows its first lines, and the others when asked.
  function list(items, most) {
    const found = make("ul", {}, items.slice(0, most));
    if (items.length <= most) return found;
    const more = make("button", { class: "link", type: "button" }, `${items.length - most} more`);
    more.addEventListener("click", () => { found.append(...items.slice(most)); more.remove(); });
    return make("div", {}, found, more);
  }

  function summary(app) {
    const { drawing } = app.index, facts = drawing.facts, found = [];
    found.push(make("h2", {}, drawing.title));
    const inputs = facts.network.inputs.map((v) => `${v.name} ${times(v.probe)}`).join(", ");
    found.push(make("p", { class: "quiet" }, `${count(facts.network.nodes)} nodes` + (drawing.hidden ? `, ${drawing.hidden} of them only compute shapes or weights and aren't drawn` : "") + `. Sizes are for ${inputs}.`));
    if (facts.report === "graph") return [...found, ...unsplit(app)];
    found.push(section(`${facts.parts} parts`, sizes(facts)));
    if (drawing.comparison) {
      found.push(section("Other numbers of parts", chart(comparison(drawing.comparison, facts.parts, WIDTH)),
        make("p", { class: "quiet" }, "The largest part's share of ", make("b", { class: "a" }, "parameters"), " and ", make("b", { class: "b" }, "multiply-adds"), "; the line is 1/K².")));
    }
    if (drawing.training && drawing.training.curves.length) found.push(section("Training", chart(curves(drawing.training, WIDTH)), make("p", { class: "quiet" }, "Validation loss by epoch where there is one, else training loss. The dashed line is the merge.")));
    if (drawing.training && drawing.training.confidence.length > 1) found.push(section("How the parts differ", diversity(drawing.training.confidence)));
    const norms = cutNorms(app);
    if (norms) found.push(section("Cut weights", norms));
    found.push(...kept(app));
    const merges = facts.outputs.map((o) => make("li", {}, `${o.name}: ${{ mean: "the mean of the parts'", concat: "the parts' slices side by side", common: "the same in every part" }[o.merge]}`));
    found.push(section("Outputs of the merged network", list(merges, 8)));
    return found;
  }

  function sizes(facts) {
    const rows = [["parameters", facts.parameter_sizes, count], ["multiply-adds", facts.multiply_add_sizes, count], ["activations", facts.activation_bytes, bytes], ["file", facts.stored_bytes, bytes]];
    const same = rows.every(([, size]) => new Set(size.parts).size <= 1), largest = facts.parameter_sizes.parts.indexOf(Math.max(...facts.parameter_sizes.parts));
    const head = same ? "each part" : make("span", {}, "largest part ", chip(largest));
    const found = [table(["", "full", head], rows.map(([name, size, print]) => [name, print(size.full), `${print(size.parts[largest])}  (${(100 * size.shares[largest]).toFixed(1)} %)`]), "sizes")];
    if (!same) found.push(make("p", { class: "quiet" }, facts.parameter_sizes.parts.slice(0, 12).flatMap((n, p) => [p ? ", " : "Parameters of each part: ", chip(p), " " + count(n)]), facts.parts > 12 ? ", …" : ""));
    return make("div", {}, ...found);
  }

  // Two parts' confidence in what is right, before the merge; which two can be chosen.
  function diversity(confidence) {
    const place = make("div", {}), said = make("p", { class: "quiet" });
    const choose = (at) => make("select", { "aria-label": "a part" }, confidence.map((_, p) => make("option", p === at ? { selected: "" } : {}, "part " + p)));
    const one = choose(0), other = choose(1);
    const show = () => {
      const a = confidence[one.selectedIndex], b = confidence[other.selectedIndex];
      place.innerHTML = scatter(a, b, [one.value, other.value], 260);  // numbers alone
      said.textContent = `How sure each is of the right answer, for ${a.length} samples before the merge. Correlation ${correlation(a, b).toFixed(3)}.`;
    };
    for (const choice of [one, other]) choice.addEventListener("change", show);
    show();
    return make("div", {}, confidence.length > 2 ? make("p", {}, one, " and ", other) : "", place, said);
  }

  function unsplit(app) {
    const facts = app.index.drawing.facts;
    const found = [table([], [["parameters", count(facts.network.parameters)], ["multiply-adds", count(facts.network.multiply_adds)]], "sizes")];
    const items = facts.refused.map((r) => make("li", {}, app.link(r.node, r.title), make("p", {}, r.reason), r.hint ? make("p", { class: "quiet" }, r.hint) : ""));
    found.push(section("Refused", items.length ? list(items, 12) : make("p", {}, "No node is refused. Give -k to see a split.")));
    return found;
  }

  function kept(app) {
    const facts = app.index.drawing.facts, found = [];
    for (const [title, notes] of [["Not divided: each part has its own", facts.private], ["Repeated for each part by the merge", facts.repeated]]) {
      const reasons = new Map();
      for (const note of notes) reasons.set(note.reason, [...(reasons.get(note.reason) || []), note]);
      const items = [...reasons].map(([reason, all]) => make("li", {}, all.slice(0, 3).flatMap((n, i) => [i ? ", " : "", app.link(n.node, n.node)]), all.length > 3 ? ` and ${all.length - 3} more` : "", make("p", { class: "quiet" }, reason)));
      if (items.length) found.push(section(title, list(items, 6)));
    }
    return found;
  }

  // How much of the weights' squared norm is cut, the layers of the largest share first.
  function cutNorms(app) {
    const found = app.index.drawing.matrices.filter((m) => m.energy).map((m) => ({ name: m.parameter, cut: cutOf(m), kept: m.kept })).filter((m) => m.kept < 1);
    if (!found.length) return null;
    found.sort((a, b) => b.cut - b.kept - (a.cut - a.kept) || 0);
    const items = found.map((m) => make("li", { class: "meter" }, app.linkParameter(m.name), make("span", { class: "bar" }, make("span", { style: `width:${(100 * m.cut).toFixed(1)}%` })), percent(m.cut)));
    return make("div", {}, make("p", { class: "quiet" }, "The share of each weight's squared norm that lies between parts, and is cut."), list(items, 6));
  }

  function cutOf(m) {
    const parts = m.rows.length - 1;
    return total(m.energy.slice(0, parts).map((row, r) => total(row.slice(0, parts).filter((_, c) => c !== r))));
  }

  function fold(app, id) {
    const found = app.index.folds[id], facts = app.index.drawing.facts;
    const rows = facts.parts ? found.parts.map((n, p) => [make("span", {}, chip(p), " part " + p), count(n), found.parameters ? percent(n / found.parameters) : ""]) : [];
    return [make("h2", {}, found.label), make("p", { class: "quiet" }, { scope: "A module of", alike: `${found.items.length} alike blocks with`, stretch: "A stretch of" }[found.kind] + ` ${found.boxes} nodes and ${count(found.parameters)} parameters.`),
      rows.length && found.parameters ? table(["", "parameters", "share"], rows) : "",
      make("button", { type: "button", onclick: () => app.toggle(id) }, app.open.has(id) ? "Fold" : "Unfold")];
  }

  const ROLES = { owned: "each part owns its slice", output: "each part has its slice; the merge averages the parts", duplicated: "each part has its own copy", constant: "not trained", unused: "unused" };

  function box(app, number) {
    const { drawing } = app.index, one = drawing.boxes[number], facts = drawing.facts;
    const found = [make("h2", {}, one.label), make("p", { class: "quiet" }, one.name === one.label ? one.op : `${one.op}, ${one.name}`)];
    found.push(make("p", {}, { divided: "Its vertices belong to parts.", private: "Each part has its own, whole.", output: "Every part has all of it, and the merge averages them.", whole: facts.parts ? "The same in every part." : "" }[one.kind] + (one.repeated ? " The merged network runs it once for each part." : "")));
    if (one.reason) found.push(make("p", { class: "reason" }, one.reason));
    const rows = [["result", times(one.shape)]];
    const same = new Set(one.shapes_of_parts.map(times)).size <= 1;
    if (one.shapes_of_parts.length) (same ? [0] : one.shapes_of_parts.map((_, p) => p)).forEach((p) => rows.push([same ? "in each part" : make("span", {}, chip(p), " part " + p), times(one.shapes_of_parts[p])]));
    if (total(one.bands)) rows.push(["vertices", make("span", {}, one.bands.flatMap((n, p) => [p ? " " : "", chip(p), " " + n]))]);
    if (isLayer(one) && facts.parts && facts.layers[one.layer].families.length) {
      const layer = facts.layers[one.layer];
      rows.push(["atoms", `${layer.atoms}, of ${layer.families.length === 1 ? "family" : "families"} ${layer.families.slice(0, 6).join(", ")}${layer.families.length > 6 ? ", …" : ""}`]);
    }
    found.push(table([], rows, "facts"));
    if (isLayer(one)) found.push(...parameters(app, facts.layers[one.layer]));
    found.push(...graphsplit.coupled(app, number, make, section, list));
    return found;
  }

  function parameters(app, layer) {
    const { drawing } = app.index, facts = drawing.facts;
    return layer.parameters.map((name) => {
      const found = facts.parameters.find((p) => p.name === name), drawn = drawing.matrices.find((m) => m.parameter === name);
      if (!found) return null;
      const rows = [["shape", times(found.shape)]];
      const shapes = found.shapes_of_parts || [], same = new Set(shapes.map(times)).size <= 1;
      if (shapes.length) (same ? [0] : shapes.map((_, p) => p)).forEach((p) => rows.push([same ? "in each part" : make("span", {}, chip(p), " part " + p), times(shapes[p])]));
      const taken = drawing.slices.find((s) => s.parameter === name);
      if (taken) rows.push(["slices", make("span", { class: "slices" }, taken.parts.map((text, p) => make("span", {}, chip(p), " " + text)))]);
      if (found.role) rows.push(["merge", ROLES[found.role]]);
      if (found.elements && found.elements.cut) rows.push(["cut", `${count(found.elements.cut)} of ${count(total(Object.values(found.elements)))} elements`]);
      if (drawn && drawn.energy && drawn.kept < 1) rows.push(["norm cut", percent(cutOf(drawn)) + " of the squared norm"]);
      const axes = drawn ? `Rows are axis ${drawn.axes[0]}, columns axis ${drawn.axes[1]}` + (drawn.groups > 1 ? `, in ${drawn.groups} groups.` : ".") : "";
      return section(name, table([], rows, "facts"), drawn && drawn.kept < 1 ? chart(matrix(drawn, 240)) : "", drawn && drawn.kept < 1 ? make("p", { class: "quiet" }, axes + " White blocks are cut.") : "");
    }).filter(Boolean);
  }

  Object.assign(graphsplit, { make, panels: { summary, fold, box } });
})(graphsplit);
