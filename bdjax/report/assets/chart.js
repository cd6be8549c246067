// One kind of figure: lines with bands, points with bars, steps, over two axes.
const WIDTH = 350,
  HEIGHT = 250,
  LEFT = 42,
  RIGHT = 10,
  TOP = 8,
  BOTTOM = 36;
const DASHES = ["", "5 2", "1.5 1.5", "5 1.5 1.5 1.5", "8 3"];
const MARKS = [
  "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",
  "M-2.7-2.7h5.4v5.4h-5.4z",
  "M0-3.4L3.2 2.4h-6.4z",
  "M0-3.8L3.8 0L0 3.8L-3.8 0z",
  "M0 3.4L3.2-2.4h-6.4z",
  "M-1-3.4h2v2.4h2.4v2h-2.4v2.4h-2v-2.4h-2.4v-2h2.4z",
];
// Line k of a set: colours repeat after six, with another mark and dash.
const lineStyle = (k) => ({
  colour: `var(--series-${k % 6})`,
  dash: DASHES[Math.floor(k / 6) % 5],
  mark: MARKS[(k + Math.floor(k / 6)) % 6],
});
const defenseStyle = (k) => {
  if (k === given.undefended) return { colour: "currentColor", dash: "", mark: MARKS[0] };
  return lineStyle(given.undefended === null ? k : k - (k > given.undefended ? 1 : 0));
};

const nice = (low, high) => {
  const rough = (high - low) / 4 || 1;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * unit).find((one) => one >= rough);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(k * step);
  return found;
};
const label = (value) => String(Number(value.toPrecision(6))).replace("-", "−");
const linear = (title, low, high, ticks = nice(low, high)) => ({
  title,
  ticks: ticks.map((value) => [value, label(value)]),
  at: (value) => (value - low) / (high - low || 1),
});
const shares = (title) => linear(title, -3, 103, [0, 25, 50, 75, 100]);
const fitted = (title, values, margin = 0.06) => {
  const finite = values.filter(isFinite);
  const low = Math.min(...finite),
    high = Math.max(...finite),
    room = margin * (high - low || Math.abs(high) || 1);
  return linear(title, low - room, high + room, nice(low, high));
};
const logarithmic = (title, values) => {
  const logs = values.filter((value) => value > 0).map(Math.log10);
  const low = Math.min(...logs) - 0.1,
    high = Math.max(...logs) + 0.1;
  const step = Math.ceil((high - low) / 6);
  const ticks = [];
  for (let k = Math.ceil(low); k <= high; k++)
    if (k % step === 0) ticks.push([10 ** k, Math.abs(k) > 3 ? `1e${k}` : label(10 ** k)]);
  return { title, ticks, at: (value) => (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low) };
};
// Poison ratios: 0 beside the smallest one where they span decades.
const poisoned = (ratios) => {
  const above = ratios.filter((ratio) => ratio > 0);
  const wide = above.length > 1 && Math.max(...above) > 20 * Math.min(...above);
  const place = (ratio) => (wide ? (ratio > 0 ? Math.log10(ratio / Math.min(...above)) + 0.5 : 0) : ratio);
  const low = Math.min(...ratios.map(place)),
    high = Math.max(...ratios.map(place)),
    room = 0.06 * (high - low) || 0.5;
  const ticks = ratios.filter((one, k) => !k || (place(one) - place(ratios[k - 1])) / (high - low || 1) > 0.07);
  return {
    title: "poison ratio",
    ticks: ticks.map((one) => [one, String(one)]),
    at: (one) => (place(one) - low + room) / (high - low + 2 * room),
  };
};

// series: {style, name, index, points: [{x, y: estimate, x2: estimate, tip}], line, marks, hollow}
const chart = ({ title, x, y, series, diagonal, level, upright, labels = [] }) => {
  const px = (value) => LEFT + x.at(value) * (WIDTH - LEFT - RIGHT);
  const py = (value) => HEIGHT - BOTTOM - y.at(value) * (HEIGHT - TOP - BOTTOM);
  const n = (value) => Number(value.toFixed(1));
  const path = (points) => points.map(([a, b], k) => `${k ? "L" : "M"}${n(px(a))} ${n(py(b))}`).join("");
  const root = s("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    role: "img",
    "aria-label": title,
    "font-size": 11,
    fill: "currentColor",
  });
  for (const [value, text] of y.ticks) {
    root.append(
      s("line", {
        x1: LEFT,
        x2: WIDTH - RIGHT,
        y1: n(py(value)),
        y2: n(py(value)),
        stroke: "currentColor",
        "stroke-opacity": 0.22,
        "stroke-width": 0.6,
      }),
      s("text", { x: LEFT - 6, y: n(py(value) + 3.5), "text-anchor": "end" }, text),
    );
  }
  for (const [value, text] of x.ticks) {
    root.append(
      s("line", {
        x1: n(px(value)),
        x2: n(px(value)),
        y1: HEIGHT - BOTTOM,
        y2: HEIGHT - BOTTOM + 3,
        stroke: "currentColor",
        "stroke-width": 0.7,
      }),
      s("text", { x: n(px(value)), y: HEIGHT - BOTTOM + 14, "text-anchor": "middle" }, text),
    );
  }
  root.append(
    s("line", {
      x1: LEFT,
      x2: WIDTH - RIGHT,
      y1: HEIGHT - BOTTOM,
      y2: HEIGHT - BOTTOM,
      stroke: "currentColor",
      "stroke-width": 0.7,
    }),
    s("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, x.title),
    s(
      "text",
      {
        x: 11,
        y: (TOP + HEIGHT - BOTTOM) / 2,
        "text-anchor": "middle",
        transform: `rotate(-90 11 ${(TOP + HEIGHT - BOTTOM) / 2})`,
      },
      y.title,
    ),
  );
  const clip = `clip-${(chart.count = (chart.count ?? 0) + 1)}`;
  root.append(
    s(
      "clipPath",
      { id: clip },
      s("rect", { x: LEFT, y: TOP - 4, width: WIDTH - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM + 8 }),
    ),
  );
  const dotted = (points) =>
    s("path", {
      d: path(points),
      fill: "none",
      stroke: "currentColor",
      "stroke-dasharray": "2 2",
      "stroke-width": 0.8,
    });
  if (diagonal)
    root.append(
      dotted([
        [0, 0],
        [100, 100],
      ]),
    );
  if (level !== undefined)
    root.append(
      s("line", {
        x1: LEFT,
        x2: WIDTH - RIGHT,
        y1: n(py(level)),
        y2: n(py(level)),
        stroke: "currentColor",
        "stroke-dasharray": "2 2",
        "stroke-width": 0.8,
      }),
    );
  if (typeof upright === "number")
    root.append(
      s("line", {
        x1: n(px(upright)),
        x2: n(px(upright)),
        y1: TOP,
        y2: HEIGHT - BOTTOM,
        stroke: "currentColor",
        "stroke-width": 1.2,
      }),
    );
  for (const one of series) {
    const { colour, dash, mark } = one.style;
    const group = s("g", { "data-series": one.index, "clip-path": `url(#${clip})` });
    const points = one.points.filter((point) => isFinite(mean(point.y)));
    const banded = points.filter((point) => point.y.length === 3);
    if (one.line && banded.length > 1) {
      const edge = [
        ...banded.map((point) => [point.x, point.y[2]]),
        ...banded.toReversed().map((point) => [point.x, point.y[1]]),
      ];
      group.append(s("path", { d: path(edge) + "z", fill: colour, "fill-opacity": 0.16 }));
    }
    if (one.line)
      group.append(
        s("path", {
          d: path(points.map((point) => [point.x, mean(point.y)])),
          fill: "none",
          stroke: colour,
          "stroke-width": 1.7,
          "stroke-dasharray": dash || null,
        }),
      );
    for (const point of points) {
      const bar = (d) => s("path", { d, stroke: colour, "stroke-opacity": 0.45, fill: "none" });
      if (!one.line || banded.length === 1)
        if (point.y.length === 3)
          group.append(
            bar(
              path([
                [point.x, point.y[1]],
                [point.x, point.y[2]],
              ]),
            ),
          );
      if (point.x2?.length === 3)
        group.append(
          bar(
            path([
              [point.x2[1], mean(point.y)],
              [point.x2[2], mean(point.y)],
            ]),
          ),
        );
      const spot = `translate(${n(px(point.x))} ${n(py(mean(point.y)))})`;
      if (one.marks !== false)
        group.append(
          s("path", {
            d: mark,
            transform: spot,
            fill: one.hollow ? "none" : colour,
            stroke: one.hollow ? colour : "none",
            "stroke-width": 1.2,
          }),
        );
      group.append(s("circle", { r: 8, transform: spot, fill: "transparent", "data-tip": point.tip }));
    }
    root.append(group);
  }
  const written = []; // a label that would lie over another one is left out: the points tell their names too
  for (const one of labels) {
    const spot = { x: px(one.x) + (one.left ? -6 : 6), y: py(one.y) - 6, width: 5.4 * one.text.length };
    if (one.left) spot.x -= spot.width;
    if (
      written.some(
        (other) => Math.abs(other.y - spot.y) < 10 && spot.x < other.x + other.width && other.x < spot.x + spot.width,
      )
    )
      continue;
    written.push(spot);
    root.append(s("text", { x: n(spot.x), y: n(spot.y), "font-size": 9.5 }, one.text));
  }
  return root;
};

// A figure with its caption and a button that saves it as a file of its own.
const figure = (caption, note, drawing) =>
  h(
    "figure",
    {},
    h(
      "figcaption",
      {},
      h("code", {}, caption),
      note && h("span", {}, " " + note),
      h(
        "button",
        { type: "button", class: "save", title: "Save this figure", onclick: () => saveFigure(caption, drawing) },
        "SVG",
      ),
    ),
    drawing,
  );

// Panels, the first few of them; the rest on demand.
const unfolded = new Set();
const panels = (id, makers, fewest = 2) => {
  const few = onPhone() ? fewest : 6;
  const box = h("div", { class: "panels" });
  const more = h(
    "button",
    {
      type: "button",
      class: "more",
      onclick: () => {
        unfolded.add(id);
        draw();
      },
    },
    `Show all ${makers.length} figures`,
  );
  const draw = () => {
    const all = unfolded.has(id) || makers.length <= few;
    box.replaceChildren(...makers.slice(0, all ? makers.length : few).map((make) => make()));
    more.hidden = all;
  };
  draw();
  return [box, more];
};

const legend = (indices, name = defenseName, style = defenseStyle) =>
  h(
    "div",
    { class: "legend", role: "group", "aria-label": "Lines; choose one to bring it out" },
    indices.map((k) =>
      h(
        "button",
        { type: "button", "data-series": k, "aria-pressed": "false" },
        s(
          "svg",
          { viewBox: "0 0 34 10", "aria-hidden": "true" },
          s("path", {
            d: "M1 5h32",
            stroke: style(k).colour,
            "stroke-width": 1.7,
            "stroke-dasharray": style(k).dash || null,
          }),
          s("path", { d: style(k).mark, transform: "translate(17 5)", fill: style(k).colour }),
        ),
        h("code", {}, name(k)),
      ),
    ),
  );
