// The matrix of attacks and defenses, and accuracy against attack success.
const tipOf = (row) => {
  const lines = [`${defenseName(row.defense)} under ${placeName(row)}, n = ${row.n}`];
  for (const [key, one] of Object.entries(measures)) lines.push(`${one.title} ${whole(row[key])} %`);
  if (row.lost.length && row.defense !== given.undefended)
    lines.push(`ACC lost, paired: ${whole(row.lost, signed)} points`);
  for (const k of row.verdicts) lines.push(`${verdicts[k]}: ${given.rules[verdicts[k]]}`);
  return lines.join("\n");
};
const badge = (k) => h("span", { class: "badge bad", title: given.rules[verdicts[k]] }, verdicts[k]);
const oracle = (k) =>
  given.defenses[k].oracle && [
    " ",
    h("span", { class: "badge", title: "uses what a defender would not have" }, "oracle"),
  ];
// A name with its whole text behind it, and its paper where that is known.
const linked = (method, name) =>
  method.link
    ? h(
        "a",
        {
          class: "paper",
          href: method.link,
          rel: "noreferrer noopener",
          title: `${method.text}: ${method.title}, the paper`,
        },
        name,
      )
    : h("span", { class: "plain", title: method.text }, name);

const placeHead = (place, bare) =>
  h(
    "th",
    { scope: "col" },
    h(
      "div",
      {},
      h("code", {}, linked(given.attacks[place.attack], attackName(place.attack))),
      !bare && isFinite(given.ratios[place.ratio]) && h("span", {}, `ratio ${ratioName(place.ratio)}`),
      several && h("span", {}, given.studies[place.study].label),
    ),
  );

const drawMatrix = () => {
  const columns = places(),
    key = state.measure,
    compact = columns.length > 6;
  const shown = picked("defense").filter((k) => columns.some((place) => cellAt.has(where({ ...place, defense: k }))));
  const beside = key === "acc" ? "asr" : "acc";
  const oneRatio = new Set(columns.map((place) => place.ratio)).size === 1;
  const cell = (place, k) => {
    const row = cellAt.get(where({ ...place, defense: k }));
    if (!row || !row.n)
      return h(
        "td",
        { class: "missing" },
        row ? "diverged" : awaited.has(where({ ...place, defense: k })) ? "not run yet" : "–",
      );
    const value = mean(row[key]);
    const share = key === "der" ? Math.abs(value - 50) * 2 : value;
    const colour = key === "der" && value < 50 ? "--red" : measures[key].colour;
    const told = wrecked(row)
      ? `ACC ${signed(-mean(row.lost))}`
      : compact
        ? ""
        : `${measures[beside].title} ${fixed(mean(row[beside]))}`;
    return h(
      "td",
      {
        class: wrecked(row) && "hatched",
        style: `--share: ${share.toFixed(1)}%; --tint: var(${colour})`,
        "data-tip": tipOf(row),
        tabindex: 0,
      },
      h("b", {}, isNaN(value) ? "–" : fixed(value)),
      told && h("span", {}, told),
      !compact && row.verdicts.map((v) => h("span", { class: "flag" }, verdicts[v])),
    );
  };
  const table = h(
    "table",
    { class: compact ? "matrix compact" : "matrix" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("td"),
        columns.map((place) => placeHead(place, compact && oneRatio)),
      ),
    ),
    h(
      "tbody",
      {},
      shown.map((k) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, h("code", {}, linked(given.defenses[k], defenseName(k))), oracle(k)),
          columns.map((place) => cell(place, k)),
        ),
      ),
    ),
  );
  const one = measures[key];
  const gradient = key === "der" ? ["50%: nothing gained", "100%: undone at no cost"] : ["0%", "100%"];
  const at = compact && oneRatio ? ` at ratio ${ratioName(columns[0].ratio)}` : "";
  const legend = h(
    "p",
    { class: "key" },
    `${one.title}, ${one.about}${at}: `,
    gradient[0],
    h("span", { class: "ramp", style: `--tint: var(${one.colour})` }),
    gradient[1],
    h("span", { class: "swatch hatched" }),
    `lost more than ${given.bound} points of accuracy: no merit in a low ASR`,
  );
  into(
    "matrix",
    legend,
    h(
      "div",
      { class: shown.length > 24 ? "scroll tall" : "scroll", tabindex: 0, role: "region", "aria-label": "Overview" },
      table,
    ),
  );
};

// Points that no other point beats in both: the most accurate at each attack success.
const front = (rows) => {
  const order = [...rows].sort((a, b) => mean(a.asr) - mean(b.asr) || mean(b.acc) - mean(a.acc));
  let best = -Infinity;
  return order.filter((row) => mean(row.acc) > best && (best = mean(row.acc)) !== null);
};
const scatter = (place) => {
  const rows = picked("defense")
    .map((k) => cellAt.get(where({ ...place, defense: k })))
    .filter((row) => row && row.n);
  const able = rows.filter((row) => !given.defenses[row.defense].oracle);
  const edge = front(able);
  const accuracies = rows.flatMap((row) => row.acc);
  const plain = cellAt.get(where({ ...place, defense: given.undefended }));
  const series = rows.map((row) => ({
    style: defenseStyle(row.defense),
    index: row.defense,
    line: false,
    hollow: given.defenses[row.defense].oracle,
    points: [{ x: mean(row.asr), x2: row.asr, y: row.acc, tip: tipOf(row) }],
  }));
  const steps = edge.flatMap((row, k) =>
    k
      ? [
          { x: mean(row.asr), y: [mean(edge[k - 1].acc)] },
          { x: mean(row.asr), y: [mean(row.acc)] },
        ]
      : [{ x: mean(row.asr), y: [mean(row.acc)] }],
  );
  series.unshift({
    style: { colour: "var(--quiet)", dash: "3 2", mark: MARKS[0] },
    index: "front",
    line: true,
    marks: false,
    points: steps.map((one) => ({ ...one, tip: "Pareto front" })),
  });
  const labels = edge
    .filter((row) => !wrecked(row))
    .map((row) => ({ x: mean(row.asr), y: mean(row.acc), text: defenseName(row.defense), left: mean(row.asr) > 60 }));
  return figure(
    placeName(place),
    "",
    chart({
      title: `ACC against ASR under ${placeName(place)}`,
      x: shares("ASR, %"),
      y: fitted("ACC, %", [...accuracies, mean(plain?.acc ?? []) - given.bound]),
      series,
      labels,
      level: plain ? mean(plain.acc) - given.bound : undefined,
    }),
  );
};
const drawScatter = () => {
  const shown = places().filter((place) =>
    picked("defense").some((k) => cellAt.get(where({ ...place, defense: k }))?.n),
  );
  into(
    "scatter",
    folded("Which mark is which", legend(picked("defense").filter((k) => cells.some((row) => row.defense === k)))),
    ...panels(
      "scatter",
      shown.map((place) => () => scatter(place)),
    ),
  );
};

// A measure against the poison ratio, a panel an attack.
const drawRatios = () => {
  const key = state.measure,
    title = `${measures[key].title}, %`;
  const one = (study, attack) => () => {
    const own = cells.filter(
      (row) => row.study === study && row.attack === attack && row.n && isFinite(given.ratios[row.ratio]),
    );
    const ratios = [...new Set(own.map((row) => row.ratio))].sort((a, b) => a - b).map((k) => given.ratios[k]);
    const aside = (place) => (ratios.length > 1 ? 0 : 0.02 * (place - lines().length / 2)); // lone points stand beside each other
    const series = lines().map((k, place) => ({
      style: defenseStyle(k),
      index: k,
      line: true,
      points: own
        .filter((row) => row.defense === k)
        .sort((a, b) => a.ratio - b.ratio)
        .map((row) => ({ x: given.ratios[row.ratio] + aside(place), y: row[key], tip: tipOf(row) })),
    }));
    const y =
      key === "acc"
        ? fitted(
            title,
            series.flatMap((line) => line.points.flatMap((point) => point.y)),
          )
        : shares(title);
    return figure(
      attackName(attack),
      several ? given.studies[study].label : "",
      chart({ title: `${title} under ${attackName(attack)}`, x: poisoned(ratios), y, series }),
    );
  };
  const swept = cells.filter((row) => row.n && isFinite(given.ratios[row.ratio]));
  const known = new Set(swept.map((row) => `${row.study},${row.attack}`));
  const makers = picked("study").flatMap((study) =>
    picked("attack")
      .filter((attack) => known.has(`${study},${attack}`))
      .map((attack) => one(study, attack)),
  );
  into("ratio-figures", note(), legend(lines()), ...panels("ratios", makers));
};
const note = () => {
  const left = picked("defense").length - lines().length;
  return left
    ? h(
        "p",
        { class: "note" },
        `The best ${given.best.length} of ${picked("defense").length} defenses by DER; choose others in the box Defense above.`,
      )
    : "";
};
