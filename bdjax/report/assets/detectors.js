// Detectors: matrices, ROC curves, scores and suspect images.
const evidence = given.detection;
const ON = ["training rows", "test queries"];
const judged = evidence.rows
  .map(([study, attack, ratio, detector, on, n, weak, seconds, ...figures]) => ({
    study,
    attack,
    ratio,
    detector,
    on,
    n,
    weak,
    seconds,
    figures,
  }))
  .sort(
    (a, b) => a.study - b.study || a.attack - b.attack || b.ratio - a.ratio || a.on - b.on || a.detector - b.detector,
  );
const cleanAlarms = evidence.clean.map(named(["study", "detector", "on", "n", "alarms"]));
const detectorStyle = (k) => lineStyle(k);
const seen = (row) => allows("study", row.study) && allows("attack", row.attack) && allows("detector", row.detector);
const atPlaces = (row) => seen(row) && ratiosOf(row.study, row.attack).includes(row.ratio);
const nothingToFind = (row) => row.weak && `no backdoor to find in ${row.weak} of ${row.n + row.weak} seeds`;

const detectionTip = (row) =>
  [
    `${given.detectors[row.detector].text} on ${ON[row.on]} under ${placeName(row)}, n = ${row.n}`,
    nothingToFind(row),
    ...evidence.figures.map((one, k) => `${one.title} ${whole(row.figures[k])} %`),
  ]
    .filter(Boolean)
    .join("\n");
const detectionMatrix = (on, shown) => {
  const rows = judged.filter((row) => row.on === on && atPlaces(row) && given.ratios[row.ratio] > 0);
  if (!rows.length) return [];
  const columns = places().filter((place) =>
    rows.some((row) => row.study === place.study && row.attack === place.attack && row.ratio === place.ratio),
  );
  const detectors = [...new Set(rows.map((row) => row.detector))].sort((a, b) => a - b);
  const studies = [...new Set(columns.map((place) => place.study))];
  const compact = columns.length > 6;
  const cell = (place, detector) => {
    const row = rows.find(
      (one) =>
        one.detector === detector &&
        one.study === place.study &&
        one.attack === place.attack &&
        one.ratio === place.ratio,
    );
    if (!row) return h("td", { class: "missing" }, "–");
    const value = mean(row.figures[shown]);
    const ranks = evidence.figures[shown].name === "auroc";
    const share = isNaN(value) ? 0 : ranks ? Math.abs(value - 50) * 2 : value;
    const colour = ranks && value < 50 ? "--red" : "--accent";
    return h(
      "td",
      {
        class: isNaN(value) && "missing",
        style: `--share: ${share.toFixed(1)}%; --tint: var(${colour})`,
        "data-tip": detectionTip(row),
        tabindex: 0,
      },
      h("b", {}, row.n ? fixed(value) : "–"),
      !compact && spread(row.figures[shown]) && h("span", {}, spread(row.figures[shown])),
      row.weak > 0 && h("span", {}, compact ? `${row.weak} of ${row.n + row.weak} without` : nothingToFind(row)),
    );
  };
  const alarms = (study, detector) => {
    const one = cleanAlarms.find((row) => row.study === study && row.detector === detector && row.on === on);
    return h(
      "td",
      { class: "alarms" },
      one ? [h("b", {}, fixed(mean(one.alarms))), h("span", {}, spread(one.alarms))] : "–",
    );
  };
  return [
    h("h3", {}, `Among ${ON[on]}: ${evidence.figures[shown].title}, %`),
    h(
      "div",
      { class: "scroll tall", tabindex: 0, role: "region", "aria-label": ON[on] },
      h(
        "table",
        { class: compact ? "matrix compact" : "matrix", id: `detection-${on}` },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("td"),
            studies.map((study) =>
              h(
                "th",
                {
                  scope: "col",
                  class: "alarms-head",
                  title: "FPR at the method's own threshold on models that were never poisoned",
                },
                "false alarms",
                h("span", {}, "on clean models"),
                several && h("span", {}, given.studies[study].label),
              ),
            ),
            columns.map((place) => placeHead(place, false)),
          ),
        ),
        h(
          "tbody",
          {},
          detectors.map((detector) =>
            h(
              "tr",
              {},
              h("th", { scope: "row" }, h("code", {}, linked(given.detectors[detector], detectorName(detector)))),
              studies.map((study) => alarms(study, detector)),
              columns.map((place) => cell(place, detector)),
            ),
          ),
        ),
      ),
    ),
  ];
};

const detectionTable = () =>
  sortable({
    id: "detection-table",
    name: "All results of detectors",
    rows: judged.filter((row) => seen(row) && allows("ratio", row.ratio)),
    columns: [
      ...methodColumns,
      words(
        "detector",
        "Detector",
        (row) => given.detectors[row.detector].text,
        (row) => h("code", {}, linked(given.detectors[row.detector], detectorName(row.detector))),
      ),
      words("on", "Among", (row) => ON[row.on]),
      number("n", "n", (row) => row.n, String, "victims that count"),
      number("weak", "no backdoor", (row) => row.weak, String, "victims without a backdoor to find: part of no mean"),
      ...evidence.figures.map((one, k) =>
        estimated(one.name, `${one.title}, %`, (row) => row.figures[k], fixed, one.about),
      ),
      number("seconds", "Cost, s", (row) => row.seconds, fixed),
      words("needs", "Needs", (row) => given.detectors[row.detector].needs),
      number("year", "Year", (row) => given.detectors[row.detector].year),
    ],
  });

const rocFigures = () => {
  const curves = evidence.roc.map(named(["study", "attack", "ratio", "detector", "on", "points"])).filter(seen);
  const known = [...new Set(curves.map((one) => [one.study, one.attack, one.on].join()))].map((text) =>
    text.split(",").map(Number),
  );
  const one =
    ([study, attack, on]) =>
    () => {
      const own = curves.filter((curve) => curve.study === study && curve.attack === attack && curve.on === on);
      const series = own.map((curve) => ({
        style: detectorStyle(curve.detector),
        index: `d${curve.detector}`,
        line: true,
        marks: false,
        points: curve.points.map((y, k) => ({
          x: evidence.grid[k],
          y,
          tip: `${detectorName(curve.detector)}\nFPR ${fixed(evidence.grid[k])} %\nTPR ${whole(y)} %`,
        })),
      }));
      return figure(
        attackName(attack),
        `${ON[on]}, ratio ${ratioName(own[0].ratio)}${several ? ` · ${given.studies[study].label}` : ""}`,
        chart({
          title: `ROC curves under ${attackName(attack)} among ${ON[on]}`,
          x: shares("false positives, %"),
          y: shares("true positives, %"),
          series,
          diagonal: true,
        }),
      );
    };
  const detectors = [...new Set(curves.map((curve) => curve.detector))];
  return curves.length ? [h("h3", {}, "ROC curves"), legendOf(detectors), panels("roc", known.map(one), 1)] : [];
};
const legendOf = (detectors) => {
  const box = legend(detectors, detectorName, detectorStyle);
  for (const key of box.children) key.dataset.series = `d${key.dataset.series}`;
  return box;
};

const histogramFigures = () => {
  const all = evidence.histograms
    .map(named(["study", "attack", "ratio", "seed", "detector", "on", "scores"]))
    .filter(seen);
  const one = (own) => () => {
    const { edges, lowest } = own.scores;
    const kinds = [
      ["clean", "var(--series-0)"],
      ["poisoned", "var(--red)"],
    ];
    const series = kinds.map(([kind, colour], place) => ({
      style: { colour, dash: DASHES[place], mark: MARKS[place] },
      index: kind,
      line: true,
      marks: false,
      points: own.scores[kind].flatMap((share, k) =>
        [edges[k], edges[k + 1]].map((x) => ({
          x,
          y: [share],
          tip: `${kind}, scores ${digits(edges[k])} to ${digits(edges[k + 1])}\n${fixed(share)} % of them`,
        })),
      ),
    }));
    const highest = Math.max(...kinds.flatMap(([kind]) => own.scores[kind]));
    return figure(
      `${detectorName(own.detector)} · ${attackName(own.attack)}`,
      `${ON[own.on]}, ratio ${ratioName(own.ratio)}, seed ${own.seed}`,
      chart({
        title: `Scores of ${detectorName(own.detector)} under ${attackName(own.attack)}`,
        x: linear("score, larger is more suspect", edges[0], edges.at(-1)),
        y: linear("share of rows, %", 0, highest * 1.06 || 1),
        series,
        upright: lowest,
      }),
    );
  };
  return all.length
    ? [
        folded(
          "Scores of one victim",
          h(
            "p",
            { class: "note" },
            "Clean in blue, poisoned in red and dashed. The upright line is the lowest score that the method's own threshold flags. Scores beyond the outermost half percent of a side stand in the outermost bins.",
          ),
          panels("histograms", all.map(one), 1),
        ),
      ]
    : [];
};

const suspectFigures = () => {
  const all = evidence.suspects.map(named(["study", "attack", "detector", "on", "images"])).filter(seen);
  const one = (own) => () => {
    const right = own.images.filter(([, poisoned]) => poisoned).length;
    return h(
      "figure",
      { class: "suspects" },
      h(
        "figcaption",
        {},
        h("code", {}, `${detectorName(own.detector)} · ${attackName(own.attack)}`),
        h("span", {}, ` ${ON[own.on]}: ${right} of these ${own.images.length} are poisoned`),
      ),
      h(
        "div",
        { class: "suspect-images" },
        own.images.map(([picture, poisoned, score]) =>
          h(
            "div",
            { class: poisoned ? "poisoned" : "innocent" },
            h("img", { src: picture, alt: `${poisoned ? "poisoned" : "clean"}, score ${score}` }),
            h("span", {}, poisoned ? "✓ poisoned" : "✗ clean"),
          ),
        ),
      ),
    );
  };
  return all.length
    ? [
        folded(
          "The most suspect",
          evidence.left > 0 &&
            h("p", { class: "note" }, `${evidence.left} more are left out: the page would be too large.`),
          panels("suspects", all.map(one), 1),
        ),
      ]
    : [];
};

const drawDetection = () => {
  const shown = Math.max(
    0,
    evidence.figures.findIndex((one) => one.name === state.figure),
  );
  const choice = h(
    "div",
    { class: "switch", role: "group", "aria-label": "Figure of detectors" },
    evidence.figures.map((one, k) =>
      h(
        "button",
        {
          type: "button",
          title: one.about,
          "data-figure": one.name,
          "aria-pressed": String(k === shown),
          onclick: () => {
            state.figure = one.name;
            writeAddress();
            drawDetection();
          },
        },
        one.title,
      ),
    ),
  );
  into(
    "detection-figures",
    choice,
    ...[
      detectionMatrix(0, shown),
      detectionMatrix(1, shown),
      rocFigures(),
      histogramFigures(),
      suspectFigures(),
      h("h3", {}, "All figures of detectors"),
      detectionTable(),
    ]
      .flat(3)
      .filter(Boolean),
  );
};
