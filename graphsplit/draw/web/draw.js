// A scene as SVG: the one function behind the page and the figure. Text comes from models, so all of it is escaped.
"use strict";

(function (graphsplit) {
  const { content, count, described, isLayer, opName, shorten, total } = graphsplit;
  const COLOURS = 8, STRANDS = 12;

  function escape(text) {
    return String(text).replace(/[&<>"']/g, (c) => "&#" + c.charCodeAt(0) + ";").replace(/[\u0000-\u0008\u000b-\u001f\u007f\ufffe\uffff]/g, "\ufffd");
  }

  const round = (x) => Math.round(x * 10) / 10;
  const part = (number) => "p" + (number % COLOURS) + (number >= COLOURS ? " again" : "");
  // The widths of a box's bands: shares of the parts, or null where it is the same for all.
  function bandsOf(index, item) {
    const number = Number(item.slice(1)), parts = index.drawing.facts.parts || 0;
    const even = () => new Array(parts).fill(1);
    if (!parts) return null;
    if (item[0] === "b") {
      const box = index.drawing.boxes[number];
      if (total(box.bands)) return box.bands;
      return box.kind === "private" ? even() : null;
    }
    const fold = index.folds[number];
    if (!fold.kinds.has("divided") && !fold.kinds.has("private")) return null;
    return total(fold.parts) ? fold.parts : even();
  }

  // The middle of each part's band on a box's upper or lower side; of a port, a narrow bundle.
  function anchors(index, rect, y) {
    const parts = index.drawing.facts.parts || 0;
    if (rect.port) {
      const middle = rect.x + rect.width / 2;
      return Array.from({ length: parts }, (_, p) => ({ x: middle + (p - (parts - 1) / 2) * 2.6, y }));
    }
    const bands = bandsOf(index, rect.item) || new Array(parts).fill(1), all = total(bands);
    let left = rect.x + 7;
    return bands.map((share) => {
      const width = ((rect.width - 14) * share) / all, x = left + width / 2;
      left += width;
      return { x, y };
    });
  }

  function curve(points) {
    let path = `M${round(points[0].x)} ${round(points[0].y)}`;
    for (let i = 1; i < points.length; i += 1) {
      const a = points[i - 1], b = points[i], middle = (a.y + b.y) / 2;
      path += `C${round(a.x)} ${round(middle)} ${round(b.x)} ${round(middle)} ${round(b.x)} ${round(b.y)}`;
    }
    return path;
  }

  function ends(rect, open, lower) {
    if (rect.port) return rect.y;
    return lower ? rect.y + rect.height : rect.y;
  }

  function edgeMarkup(index, open, one) {
    const { edge, from, to } = one, parts = index.drawing.facts.parts || 0;
    const start = inside(from, open, "out"), stop = inside(to, open, "in");
    const bends = one.points.length > 3 ? one.points.slice(1, -1) : [];
    const y0 = ends(from, open, true), y1 = ends(to, open, false);
    const title = `<title>${escape(edge.values.join(", "))}</title>`;
    const data = `data-from="${from.item}" data-to="${to.item}"`;
    const many = (edge.kind === "divided" || edge.kind === "private") && parts > 1 && parts <= STRANDS;
    if (!many) {
      const kind = parts && (edge.kind === "divided" || edge.kind === "private") ? "bundle" : "plain";
      const ends2 = [{ x: start, y: y0 }, ...bends, { x: stop, y: y1 }];
      return `<g class="edge ${kind}" ${data}>${title}<path d="${curve(ends2)}"/></g>`;
    }
    const above = open(from) ? bundle(start, y0, parts) : anchors(index, from, y0);
    const below = open(to) ? bundle(stop, y1, parts) : anchors(index, to, y1);
    let text = "";
    if (edge.cut && parts <= 4 && !to.port) {
      for (let p = 0; p < parts; p += 1) {
        const last = bends.length ? shifted(bends[bends.length - 1], p, parts) : above[p];
        for (let q = 0; q < parts; q += 1) if (q !== p) text += `<path class="cut" d="${curve([last, below[q]])}"/>`;
      }
    }
    for (let p = 0; p < parts; p += 1) {
      const points = [above[p], ...bends.map((bend) => shifted(bend, p, parts)), below[p]];
      text += `<path class="${part(p)}" d="${curve(points)}"/>`;
    }
    return `<g class="edge strands ${edge.kind}" ${data}>${title}${text}</g>`;
  }

  const shifted = (point, p, parts) => ({ x: point.x + (p - (parts - 1) / 2) * 2.6, y: point.y });
  const bundle = (x, y, parts) => Array.from({ length: parts }, (_, p) => shifted({ x, y }, p, parts));

  // Where an edge meets an item: at the port of an open fold, else in the middle.
  function inside(rect, open, port) {
    if (open(rect) && rect.inner.ports[port] !== undefined) return rect.x + rect.inner.ports[port];
    return rect.x + rect.width / 2;
  }

  function bandMarkup(index, item, x, y, width, height, kind) {
    const bands = bandsOf(index, item);
    if (!bands) return `<rect class="band ${kind}" x="${round(x)}" y="${y}" width="${round(width)}" height="${height}"/>`;
    const all = total(bands);
    let left = x, text = "";
    bands.forEach((share, p) => {
      const wide = (width * share) / all;
      if (wide > 0) text += `<rect class="band ${part(p)}${kind === "private" ? " private" : ""}" x="${round(left)}" y="${y}" width="${round(Math.max(wide - 1, 0.5))}" height="${height}"/>`;
      left += wide;
    });
    return text;
  }

  function boxMarkup(index, rect) {
    const number = Number(rect.item.slice(1)), box = index.drawing.boxes[number];
    const terminal = box.op === "input" || box.op === "output", layer = isLayer(box);
    const x = round(rect.x), y = round(rect.y), width = round(rect.width), height = rect.height;
    const kinds = [terminal ? "terminal" : layer ? "layer" : "node", box.kind, box.refused ? "refused" : ""].join(" ").trim();
    const parts = index.drawing.facts.parts || 0;
    let text = "";
    if (box.repeated && !terminal) text += `<rect class="shadow" x="${x + 4}" y="${y + 4}" width="${width}" height="${height}" rx="5"/>`;
    text += `<rect class="body" x="${x}" y="${y}" width="${width}" height="${height}" rx="${terminal ? 14 : 5}"/>`;
    const badge = box.repeated && parts > 1 ? `<text class="badge" x="${round(x + width - 8)}" y="${y + 13}">×${parts}</text>` : "";
    if (terminal) {
      text += `<text class="name" x="${round(x + width / 2)}" y="${y + 18}" text-anchor="middle">${escape(shorten(box.label, 24))}<tspan class="op" dx="6">${box.op}</tspan></text>`;
    } else if (layer) {
      text += `<text class="name" x="${x + 9}" y="${y + 16}">${escape(shorten(box.label, 30))}</text>`;
      text += `<text class="op" x="${x + 9}" y="${y + 30}">${escape(shorten(opName(box), 20))}${described(box)}</text>`;
      text += bandMarkup(index, rect.item, rect.x + 7, y + 36, rect.width - 14, 7, box.kind);
    } else {
      text += `<text class="name" x="${x + 9}" y="${y + 15}">${escape(shorten(box.label, 24))}<tspan class="op" dx="6">${escape(shorten(opName(box), 18))}</tspan></text>`;
      text += bandMarkup(index, rect.item, rect.x + 7, y + 20, rect.width - 14, 4, box.kind);
    }
    const label = `${box.label}, ${box.op}, ${box.kind}${box.bands.length ? ", " + box.bands.join(" and ") : ""}`;
    return `<g class="item box ${kinds}" data-item="${rect.item}" tabindex="-1" role="button" aria-label="${escape(label)}"><title>${escape(box.name)}</title>${text}${badge}</g>`;
  }

  function foldMarkup(index, rect) {
    const fold = index.folds[Number(rect.item.slice(1))];
    const x = round(rect.x), y = round(rect.y), width = round(rect.width);
    const stack = fold.kind === "alike" ? 2 : 0;
    let text = "";
    for (let i = stack; i > 0; i -= 1) text += `<rect class="shadow" x="${x + 4 * i}" y="${y + 4 * i}" width="${width}" height="${rect.height}" rx="7"/>`;
    text += `<rect class="body" x="${x}" y="${y}" width="${width}" height="${rect.height}" rx="7"/>`;
    text += `<text class="name" x="${x + 30}" y="${y + 19}">${escape(shorten(fold.label, 34))}</text>`;
    text += `<text class="op" x="${x + 30}" y="${y + 34}">${content(fold)}</text>`;
    text += `<path class="sign" d="M${x + 10} ${y + 18}h10M${x + 15} ${y + 13}v10"/>`;
    text += bandMarkup(index, rect.item, rect.x + 9, y + 41, rect.width - 18, 7, "whole");
    return `<g class="item fold ${fold.kind}" data-item="${rect.item}" tabindex="-1" role="button" aria-expanded="false" aria-label="${escape(fold.label)}, ${fold.boxes} nodes, folded"><title>${escape(fold.label)}</title>${text}</g>`;
  }

  function containerMarkup(index, rect) {
    const fold = index.folds[rect.id], x = round(rect.x), y = round(rect.y);
    return `<g class="item container depth${Math.min(rect.depth, 3)}" data-item="f${rect.id}" tabindex="-1" role="button" aria-expanded="true" aria-label="${escape(fold.label)}, opened">` +
      `<rect class="body" x="${x}" y="${y}" width="${round(rect.width)}" height="${round(rect.height)}" rx="9"/></g>`;
  }

  // A container's title stands before the edges that come in through its border.
  function titleMarkup(index, rect) {
    const x = round(rect.x), y = round(rect.y);
    return `<g class="item title" data-item="f${rect.id}"><path class="sign" d="M${x + 10} ${y + 14}h10"/>` +
      `<text class="name" x="${x + 28}" y="${y + 18}">${escape(shorten(index.folds[rect.id].label, 60))}</text></g>`;
  }

  // The markup of all that is to be seen, without the <svg> around it.
  function draw(index, scene) {
    const open = (rect) => Boolean(rect.inner);
    return [
      ...scene.containers.map((rect) => containerMarkup(index, rect)),
      ...scene.edges.map((one) => edgeMarkup(index, open, one)),
      ...scene.containers.map((rect) => titleMarkup(index, rect)),
      ...scene.boxes.map((rect) => (rect.item[0] === "f" ? foldMarkup(index, rect) : boxMarkup(index, rect))),
    ].join("\n");
  }

  function legend(drawing) {
    const parts = drawing.facts.parts || 0, shares = drawing.facts.parameter_sizes;
    const found = [];
    for (let p = 0; p < Math.min(parts, STRANDS); p += 1) {
      found.push({ class: part(p), text: `part ${p}: ${(100 * shares.shares[p]).toFixed(1)} %` });
    }
    if (parts > STRANDS) found.push({ class: "whole", text: `… ${parts} parts` });
    if (parts) found.push({ class: "whole", text: "in all parts" }, { class: "output", text: "output, averaged" });
    return found;
  }

  // A figure by itself: title, legend and scene.
  function figure(drawing, style, budget) {
    const index = graphsplit.index(drawing), open = graphsplit.opened(index, budget);
    const scene = graphsplit.scene(index, open);
    const entries = legend(drawing), top = 64;
    let left = 18, keys = "";
    for (const entry of entries) {
      keys += `<rect class="band ${entry.class}" x="${left}" y="42" width="12" height="10"/><text class="op" x="${left + 17}" y="51">${escape(entry.text)}</text>`;
      left += 34 + entry.text.length * 6.3;
    }
    const width = Math.ceil(Math.max(scene.width, left, 320)), height = Math.ceil(scene.height + top);
    const facts = drawing.facts, more = `${count(facts.network.parameters)} parameters` + (facts.parts ? `, ${facts.parts} parts` : "");
    const shift = round((width - scene.width) / 2);
    return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" class="graphsplit" role="img">` +
      `<title>${escape(drawing.title)}</title><style>${style}</style>` +
      `<rect class="ground" width="${width}" height="${height}"/>` +
      `<text class="title" x="18" y="28">${escape(shorten(drawing.title, 60))}<tspan class="op" dx="10">${more}</tspan></text>${keys}` +
      `<g transform="translate(${shift} ${top})">${draw(index, scene)}</g></svg>\n`;
  }

  Object.assign(graphsplit, { escape, part, draw, legend, figure, bandsOf });
})(graphsplit);
