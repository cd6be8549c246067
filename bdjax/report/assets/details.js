// The long tables, audits and training curves.
const methodColumns = [
  ...(several
    ? [
        words("study", "Study", (row) => given.studies[row.study].label),
        words("dataset", "Data set", (row) => given.studies[row.study].dataset),
        words("model", "Model", (row) => given.studies[row.study].model),
        words("recipe", "Recipe", (row) => given.studies[row.study].recipe),
      ]
    : []),
  words(
    "attack",
    "Attack",
    (row) => given.attacks[row.attack].text,
    (row) => h("code", {}, linked(given.attacks[row.attack], attackName(row.attack))),
  ),
  number("ratio", "Ratio", (row) => given.ratios[row.ratio], ratioText, "share of training images poisoned"),
];
const defenseColumn = words(
  "defense",
  "Defense",
  (row) => given.defenses[row.defense].text,
  (row) => [h("code", {}, linked(given.defenses[row.defense], defenseName(row.defense))), oracle(row.defense)],
);
const flagColumn = words(
  "flags",
  "Flag",
  (row) => row.verdicts.map((k) => verdicts[k]).join(", "),
  (row) => row.verdicts.map((k) => [badge(k), " "]),
);
const countColumn = {
  ...number("n", "n", (row) => row.n, String, "seeds that count"),
  show: (row) => [
    String(row.n),
    row.diverged ? [" ", h("span", { class: "badge bad" }, `${row.diverged} diverged`)] : null,
  ],
};

// What others published of the same cell: [source, ACC, ASR, RA or null] each.
const reportedColumn = {
  ...words("reported", "Reported ACC / ASR", (row) =>
    row.reported.map(([source, acc, asr]) => `${acc} / ${asr} (${source})`).join("; "),
  ),
  about: "published, one run each, on the same data set, network and ratio; percent",
  show: (row) =>
    row.reported.map(([source, acc, asr]) =>
      h("span", { class: "reported", title: source }, `${fixed(acc)} / ${fixed(asr)} `),
    ),
};

const resultColumns = [
  ...methodColumns,
  defenseColumn,
  flagColumn,
  countColumn,
  ...["acc", "asr", "ra", "der"].map((key) =>
    estimated(key, measures[key].title + ", %", (row) => row[key], fixed, measures[key].about),
  ),
  estimated(
    "lost",
    "ACC lost, points",
    (row) => (row.defense === given.undefended ? [] : row.lost),
    signed,
    "of the undefended victims, paired by seed",
  ),
  estimated(
    "harm",
    "lost at ratio 0",
    (row) => (row.defense === given.undefended ? [] : row.harm),
    signed,
    "points of ACC that the defense costs a clean model",
  ),
  ...(cells.some((row) => row.reported.length) ? [reportedColumn] : []),
  number("seconds", "Cost, s", (row) => row.seconds, fixed, "seconds to train or purify one model"),
  words("stage", "Stage", (row) => given.defenses[row.defense].stage),
  words("needs", "Needs", (row) => given.defenses[row.defense].needs),
  number("year", "Year", (row) => given.defenses[row.defense].year),
];

// A word that is a whole part of some name stands for that name alone; else for all names that begin with it. Numbers are ratios.
const nameParts = (row) =>
  [given.attacks[row.attack], given.defenses[row.defense]]
    .flatMap((one) => [one.text, ...one.text.split(/[:,=]/), ...one.title.split(/[\s-]+/)])
    .map((part) => part.toLowerCase());
const matching = (rows, text) => {
  const asked = text.toLowerCase().split(/\s+/).filter(Boolean);
  const parts = new Map(rows.map((row) => [row, [...nameParts(row), ...row.verdicts.map((k) => verdicts[k])]]));
  const isPart = new Set([...parts.values()].flat());
  return rows.filter((row) =>
    asked.every((word) =>
      isFinite(word)
        ? given.ratios[row.ratio] === Number(word)
        : parts.get(row).some((part) => (isPart.has(word) ? part === word : part.startsWith(word))),
    ),
  );
};
const drawResults = () => {
  const rows = matching(cells.filter(shows), state.words);
  into(
    "result-table",
    ...sortable({
      id: "table",
      name: "All results",
      columns: resultColumns,
      rows,
      sort: state.sort,
      row: (row) => ({ class: wrecked(row) && "wrecked" }),
      sorted: (sort) => {
        state.sort = sort;
        writeAddress();
      },
    }),
  );
};

const pairs = given.pairs.map(named(["study", "attack", "ratio", "first", "second", "n", "asr", "acc"]));
const forest = (one, reach) =>
  h("span", {
    class: "forest",
    "aria-hidden": "true",
    style:
      one.length === 3 &&
      ["mean", "low", "high"].map((part, k) => `--${part}: ${(50 + (50 * one[k]) / reach).toFixed(1)}%`).join("; "),
  });
const drawDifferences = () => {
  const rows = pairs.filter(
    (row) =>
      allows("study", row.study) &&
      allows("attack", row.attack) &&
      (allows("defense", row.first) || allows("defense", row.second)) &&
      (state.chosen.ratio.size ? allows("ratio", row.ratio) : given.ratios[row.ratio] > 0),
  );
  const reach = (key) => Math.max(1, ...rows.flatMap((row) => row[key].slice(1).map(Math.abs)));
  const column = (key, farthest) => {
    const one = estimated(key, `${measures[key].title}, points`, (row) => row[key], signed);
    return { ...one, show: (row) => [one.show(row), forest(row[key], farthest)] };
  };
  into(
    "difference-table",
    ...sortable({
      id: "differences-table",
      name: "Differences between defenses",
      rows,
      columns: [
        ...methodColumns,
        words(
          "pair",
          "Defenses",
          (row) => `${given.defenses[row.first].text} − ${given.defenses[row.second].text}`,
          (row) => h("code", {}, `${defenseName(row.first)} − ${defenseName(row.second)}`),
        ),
        number("n", "n", (row) => row.n),
        column("asr", reach("asr")),
        column("acc", reach("acc")),
      ],
    }),
  );
};

// Lines of any variable along its own axis, a panel an attack.
const lineFigures = (id, variable, onPhone) => {
  const all = variable.lines.map(named(["study", "attack", "ratio", "defense", "points"]));
  const title = variable.unit ? `${variable.title}, ${variable.unit}` : variable.title;
  const numeric = variable.x.every((value) => typeof value === "number");
  const xs = numeric ? variable.x : variable.x.map((_, k) => k);
  const one = (study, attack) => () => {
    const own = all.filter((line) => line.study === study && line.attack === attack && lines().includes(line.defense));
    const series = own.map((line) => ({
      style: defenseStyle(line.defense),
      index: line.defense,
      line: true,
      marks: xs.length <= 12,
      points: line.points.map((y, k) => ({
        x: xs[k],
        y,
        tip: `${defenseName(line.defense)}, ${variable.along} ${variable.x[k]}\n${variable.title} ${whole(y, variable.unit ? fixed : digits)} ${variable.unit}`,
      })),
    }));
    const means = series.flatMap((line) => line.points.map((point) => mean(point.y))).filter(isFinite);
    const wide = Math.min(...means) > 0 && Math.max(...means) > 100 * Math.min(...means);
    const y = variable.unit ? shares(title) : wide ? logarithmic(title, means) : fitted(title, means);
    const x = numeric
      ? fitted(variable.along, xs, 0.03)
      : { ...fitted(variable.along, xs), ticks: variable.x.map((name, k) => [k, String(name)]) };
    const ratio = own.length && isFinite(given.ratios[own[0].ratio]) ? `ratio ${ratioName(own[0].ratio)}` : "";
    return figure(
      attackName(attack),
      ratio + (several ? ` · ${given.studies[study].label}` : ""),
      chart({ title: `${title} under ${attackName(attack)}`, x, y, series }),
    );
  };
  const known = [...new Set(all.map((line) => `${line.study},${line.attack}`))].map((text) =>
    text.split(",").map(Number),
  );
  const makers = known
    .filter(([study, attack]) => allows("study", study) && allows("attack", attack))
    .map(([study, attack]) => one(study, attack));
  return [h("h4", {}, title), panels(id, makers, onPhone)];
};
// One variable at a time: each defense records its own.
const drawTraining = () => {
  const all = merged(given.curves);
  const names = [...new Map(all.map((one) => [one.name, one.title]))];
  const chosen = names.some(([name]) => name === state.curve) ? state.curve : names[0]?.[0];
  const onchange = (event) => {
    state.curve = event.currentTarget.value;
    writeAddress();
    drawTraining();
  };
  const options = names.map(([name, title]) => h("option", { value: name, selected: name === chosen }, title));
  const drawn = all.filter((one) => one.name === chosen).map((one) => lineFigures(`curve-${one.name}`, one));
  const choice = h("label", { class: "filter" }, "What is drawn ", h("select", { onchange }, options));
  into("training-figures", names.length > 1 && choice, note(), legend(lines()), drawn);
};
// The same variable of several studies is one.
const merged = (variables) => {
  const found = new Map();
  for (const one of variables) {
    const key = JSON.stringify([one.name, one.x]);
    if (!found.has(key)) found.set(key, { ...one, lines: [], rows: [] });
    for (const part of ["lines", "rows"]) found.get(key)[part].push(...(one[part] ?? []));
  }
  return [...found.values()];
};

const afterAgainstBefore = (variable) => {
  const rows = variable.rows
    .map(named(["study", "attack", "ratio", "defense", "n", "after"]))
    .filter((row) => lines().includes(row.defense));
  const one = (place) => () => {
    const clean = rows.filter(
      (row) => row.study === place.study && row.attack === place.attack && given.ratios[row.ratio] === 0,
    );
    const top = rows.filter(
      (row) =>
        row.study === place.study &&
        row.attack === place.attack &&
        row.ratio === place.ratio &&
        given.ratios[row.ratio] > 0,
    );
    const series = [...clean, ...top]
      .filter((row) => cellAt.has(where(row)))
      .map((row) => {
        const before = cellAt.get(where(row)).asr;
        const tip = `${defenseName(row.defense)}, ratio ${ratioName(row.ratio)}\nASR before ${whole(before)} %\n${variable.title} after ${whole(row.after)} %`;
        return {
          style: defenseStyle(row.defense),
          index: row.defense,
          line: false,
          hollow: given.ratios[row.ratio] === 0,
          points: [{ x: mean(before), x2: before, y: row.after, tip }],
        };
      });
    return figure(
      placeName(place),
      "",
      chart({
        title: `${variable.heading}: ASR after and before under ${placeName(place)}`,
        x: shares("ASR before, %"),
        y: shares("ASR after, %"),
        series,
        diagonal: true,
      }),
    );
  };
  const shown = places().filter((place) =>
    rows.some((row) => row.study === place.study && row.attack === place.attack && row.ratio === place.ratio),
  );
  return [h("h4", {}, `${variable.title} after against ASR before`), panels(`after-${variable.name}`, shown.map(one))];
};
const auditTable = (audit, variables) => {
  const found = new Map();
  variables.forEach((variable, k) => {
    for (const row of variable.rows.map(named(["study", "attack", "ratio", "defense", "n", "figure"])).filter(shows)) {
      if (!found.has(where(row))) found.set(where(row), { ...row, figures: [] });
      found.get(where(row)).figures[k] = row.figure;
    }
  });
  const columns = variables.map((one, k) =>
    estimated(
      one.name,
      one.unit ? `${one.title}, ${one.unit}` : one.title,
      (row) => row.figures[k] ?? [],
      one.unit ? fixed : digits,
    ),
  );
  return sortable({
    id: `audit-${audit}`,
    name: audit,
    rows: [...found.values()],
    columns: [...methodColumns, defenseColumn, number("n", "n", (row) => row.n), ...columns],
  });
};
const drawAudits = () => {
  const all = merged(given.audits);
  into(
    "audit-figures",
    note(),
    legend(lines()),
    ...[...new Set(all.map((one) => one.audit))]
      .flatMap((audit) => {
        const own = all.filter((one) => one.audit === audit);
        const plain = own.filter((one) => one.rows.length);
        return [
          h("h3", {}, own[0].heading, " ", h("code", {}, audit)),
          ...plain.filter((one) => one.name.endsWith("_asr")).flatMap(afterAgainstBefore),
          ...own.filter((one) => one.lines.length).flatMap((one) => lineFigures(`audit-${one.name}`, one, 1)),
          ...(plain.length ? auditTable(audit, plain) : []),
        ].flat();
      })
      .flat(),
  );
};
