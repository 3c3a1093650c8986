// Small charts of the panel, as SVG: weight matrices, parts for K = 1, 2, …, and loss curves.
"use strict";

(function (graphsplit) {
  const { escape, part, total } = graphsplit;
  const round = (x) => Math.round(x * 10) / 10;

  // A weight as a matrix: rows and columns ordered by part; blocks of one part are kept, others are cut.
  function matrix(found, width) {
    const rows = spans(found.rows), columns = spans(found.columns), parts = found.rows.length - 1;
    const height = Math.max(60, Math.min(width, (width * total(found.rows)) / Math.max(1, total(found.columns))));
    let text = "";
    rows.forEach((row) => columns.forEach((column) => {
      const own = row.part === parts ? column.part : row.part, cut = row.part !== parts && column.part !== parts && row.part !== column.part;
      const x = column.from * width, y = row.from * height, w = column.share * width, h = row.share * height;
      const share = found.energy ? found.energy[row.part][column.part] : null;
      const kind = cut ? "cut" : own === parts ? "whole" : part(own);
      const words = `${name(row.part, parts)} × ${name(column.part, parts)}: ${cut ? "cut" : "kept"}` + (share === null ? "" : `, ${percent(share)} of the squared norm`);
      text += `<g><title>${escape(words)}</title><rect class="block ${kind}" x="${round(x)}" y="${round(y)}" width="${round(Math.max(w - 1, 0.6))}" height="${round(Math.max(h - 1, 0.6))}"/>`;
      if (share !== null && w > 40 && h > 16) text += `<text class="share" x="${round(x + w / 2)}" y="${round(y + h / 2 + 4)}">${percent(share)}</text>`;
      text += "</g>";
    }));
    return `<svg class="matrix" viewBox="0 0 ${width} ${round(height)}" width="${width}" height="${round(height)}" role="img" aria-label="${escape(found.parameter)}: kept and cut blocks">${text}</svg>`;
  }

  const name = (at, parts) => (at === parts ? "all parts" : "part " + at);
  const percent = (share) => (100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0) + " %";

  function spans(counts) {
    const all = total(counts), found = [];
    let from = 0;
    counts.forEach((n, at) => {
      if (n) found.push({ part: at, from: from / all, share: n / all });
      from += n;
    });
    return found;
  }

  // The largest part's share of parameters and multiply-adds for each K, beside 1/K².
  function comparison(found, chosen, width) {
    const height = 128, left = 40, bottom = height - 20, step = (width - left - 6) / found.rows.length;
    let text = "";
    for (const share of [0, 0.5, 1]) {
      const y = bottom - share * (bottom - 8);
      text += `<path class="grid" d="M${left} ${round(y)}H${width}"/><text class="tick" x="${left - 5}" y="${round(y + 4)}" text-anchor="end">${100 * share} %</text>`;
    }
    found.rows.forEach((row, at) => {
      const x = left + at * step;
      text += `<text class="tick${row.parts === chosen ? " chosen" : ""}" x="${round(x + step / 2)}" y="${height - 5}" text-anchor="middle">${row.parts === chosen ? "K = " : ""}${row.parts}</text>`;
      if (!row.parameters || !row.multiply_adds) {
        text += `<g><title>${escape(row.refused)}</title><text class="tick" x="${round(x + step / 2)}" y="${bottom - 6}" text-anchor="middle">refused</text></g>`;
        return;
      }
      [[row.parameters, "bar a"], [row.multiply_adds, "bar b"]].forEach(([size, kind], i) => {
        const share = Math.max(...size.shares), tall = share * (bottom - 8);
        const words = `K = ${row.parts}: ${i ? "multiply-adds" : "parameters"} of the largest part ${(100 * share).toFixed(1)} %`;
        text += `<rect class="${kind}" x="${round(x + step * (0.14 + 0.36 * i))}" y="${round(bottom - tall)}" width="${round(step * 0.34)}" height="${round(tall)}"><title>${words}</title></rect>`;
      });
      const y = bottom - (bottom - 8) / row.parts ** 2;
      text += `<path class="bound" d="M${round(x + step * 0.08)} ${round(y)}H${round(x + step * 0.92)}"/>`;
    });
    return `<svg class="chart" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="shares of the largest part by K">${text}</svg>`;
  }

  // Losses by epoch: a line for each part, and the merged network behind them.
  function curves(found, width) {
    const height = 190, left = 40, bottom = height - 22, top = 8;
    const points = (curve) => (curve.validation.some((v) => v !== null) ? curve.validation : curve.training)
      .map((v, i) => [curve.epochs[i], v]).filter(([, v]) => v !== null);
    const all = found.curves.flatMap(points);
    if (!all.length) return "";
    const far = Math.max(...all.map(([e]) => e), 1), high = Math.max(...all.map(([, v]) => v)), low = Math.min(0, ...all.map(([, v]) => v));
    const x = (epoch) => left + ((width - left - 8) * epoch) / far, y = (loss) => bottom - ((bottom - top) * (loss - low)) / (high - low || 1);
    let text = "";
    for (let i = 0; i <= 4; i += 1) {
      const loss = low + ((high - low) * i) / 4;
      text += `<path class="grid" d="M${left} ${round(y(loss))}H${width}"/><text class="tick" x="${left - 5}" y="${round(y(loss) + 4)}" text-anchor="end">${Number(loss.toPrecision(2))}</text>`;
    }
    for (const epoch of new Set([1, Math.round(far / 2), far])) text += `<text class="tick" x="${round(x(epoch))}" y="${height - 5}" text-anchor="middle">${epoch}</text>`;
    const merged = found.curves.find((curve) => curve.name === "merged");
    if (merged) text += `<path class="merge" d="M${round(x(merged.epochs[0] - 0.5))} ${top}V${bottom}"><title>the merge</title></path>`;
    for (const curve of found.curves) {
      const line = points(curve), kind = curve.name === "merged" ? "merged" : part(Number(curve.name.replace(/\D+/, "")));
      text += `<path class="line ${kind}" d="M${line.map(([e, v]) => round(x(e)) + " " + round(y(v))).join("L")}"><title>${escape(curve.name)}</title></path>`;
    }
    return `<svg class="chart" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="loss by epoch">${text}</svg>`;
  }

  // How sure two parts are of the same samples, a dot for each: off the diagonal they differ.
  function scatter(one, other, names, width) {
    const left = 34, side = width - left - 8, low = Math.min(0, ...one, ...other), high = Math.max(1, ...one, ...other);
    const x = (v) => left + (side * (v - low)) / (high - low), y = (v) => 8 + side - (side * (v - low)) / (high - low);
    let text = `<path class="grid" d="M${round(x(low))} ${round(y(low))}L${round(x(high))} ${round(y(high))}"/><rect class="frame" x="${left}" y="8" width="${side}" height="${side}"/>`;
    one.forEach((v, i) => { text += `<circle class="dot" cx="${round(x(v))}" cy="${round(y(other[i]))}" r="1.8"/>`; });
    for (const v of [low, high]) text += `<text class="tick" x="${round(x(v))}" y="${side + 22}" text-anchor="middle">${Number(v.toPrecision(2))}</text><text class="tick" x="${left - 5}" y="${round(y(v) + 4)}" text-anchor="end">${Number(v.toPrecision(2))}</text>`;
    text += `<text class="tick" x="${left + side / 2}" y="${side + 22}" text-anchor="middle">${names[0]}</text><text class="tick" transform="translate(14 ${8 + side / 2}) rotate(-90)" text-anchor="middle">${names[1]}</text>`;
    return `<svg class="chart scatter" viewBox="0 0 ${width} ${side + 28}" width="${width}" height="${side + 28}" role="img" aria-label="${names[0]} against ${names[1]}">${text}</svg>`;
  }

  // Pearson's correlation of two lists.
  function correlation(one, other) {
    const mean = (list) => total(list) / list.length, a = mean(one), b = mean(other);
    const product = (f, g) => total(f.map((v, i) => v * g[i])), left = one.map((v) => v - a), right = other.map((v) => v - b);
    return product(left, right) / Math.sqrt(product(left, left) * product(right, right) || 1);
  }

  Object.assign(graphsplit, { scatter, correlation, matrix, comparison, curves, percent });
})(graphsplit);
