// The numbers of the page, by name, and how they are written.
const given = JSON.parse(document.getElementById("data").textContent);
given.ratios = given.ratios.map((ratio) => ratio ?? Infinity); // of victims that were given nobody knows it
const measures = {
  asr: { title: "ASR", about: "attack success rate", colour: "--red" },
  acc: { title: "ACC", about: "clean accuracy", colour: "--accent" },
  ra: { title: "RA", about: "robust accuracy", colour: "--accent" },
  der: { title: "DER", about: "defense effectiveness rating", colour: "--accent" },
};
const fields = [
  "study",
  "attack",
  "ratio",
  "defense",
  "n",
  "diverged",
  "acc",
  "asr",
  "ra",
  "der",
  "lost",
  "verdicts",
  "seconds",
  "harm",
  "reported",
];
const verdicts = Object.keys(given.rules);
const destroyed = verdicts.slice(0, 2); // and those that cost too much

const named = (keys) => (values) => Object.fromEntries(keys.map((key, k) => [key, values[k]]));
// Attack by attack, the largest ratio first, defenses as they rank.
const cells = given.rows
  .map(named(fields))
  .sort((a, b) => a.study - b.study || a.attack - b.attack || b.ratio - a.ratio || a.defense - b.defense);
const where = (one) => [one.study, one.attack, one.ratio, one.defense].join();
const cellAt = new Map(cells.map((one) => [where(one), one]));
const awaited = new Set(given.awaited.map(String));
const wrecked = (row) => row.verdicts.some((k) => destroyed.includes(verdicts[k]));
const several = given.studies.length > 1;

const settings = (text) => text.indexOf(":");
const texts = given.defenses.map((one) => one.text);
const short = (text) => {
  const name = settings(text) < 0 ? text : text.slice(0, settings(text)) + ":…";
  const alike = [...texts, ...given.attacks.map((one) => one.text)].filter((other) =>
    other.startsWith(name.replace("…", "")),
  );
  return text.length <= 24 || alike.length > 1 ? text : name;
};
const brief = new Map(
  [...given.attacks, ...given.defenses, ...given.detectors].map((one) => [one.text, short(one.text)]),
);
const attackName = (k) => brief.get(given.attacks[k].text);
const defenseName = (k) => brief.get(given.defenses[k].text);
const detectorName = (k) => brief.get(given.detectors[k].text);
const ratioText = (ratio) => (isFinite(ratio) ? String(ratio) : "unknown");
const ratioName = (k) => ratioText(given.ratios[k]);
const placeName = (place) =>
  `${attackName(place.attack)}${isFinite(given.ratios[place.ratio]) ? ` at ${ratioName(place.ratio)}` : ""}${several ? ` · ${given.studies[place.study].label}` : ""}`;

// An estimate is [], or up to two values, or [mean, low, high].
const mean = (one) => (one.length ? (one.length < 3 ? one.reduce((a, b) => a + b) / one.length : one[0]) : NaN);
const fixed = (value) =>
  value === undefined || !isFinite(value)
    ? "–"
    : value
        .toFixed(1)
        .replace(/^-(0\.0)$/, "$1")
        .replace("-", "−");
const signed = (value) => (value > 0.05 ? "+" : "") + fixed(value);
const digits = (value) => (isFinite(value) ? String(Number(value.toPrecision(3))).replace("-", "−") : "–");
const centre = (one, form = fixed) => (one.length === 3 ? form(one[0]) : one.map(form).join(", ") || "–");
const spread = (one, form = fixed) => (one.length === 3 ? `[${form(one[1])}, ${form(one[2])}]` : "");
const whole = (one, form = fixed) => `${centre(one, form)} ${spread(one, form)}`.trim();

// Elements: text goes in as text, never as markup.
const fill = (element, attributes, children) => {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") element.style.cssText = value;
    else if (value !== false && value !== undefined && value !== null)
      element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  return element;
};
const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
// Puts what is drawn into its place; a page has no place for what its studies lack.
const into = (id, ...children) =>
  document.getElementById(id)?.replaceChildren(...children.flat(Infinity).filter(Boolean));
const onPhone = () => matchMedia("(max-width: 44rem)").matches;
// A part that a phone shows on demand, and goes on to show.
const opened = new Map();
const folded = (title, ...children) => {
  const ontoggle = (event) => opened.set(title, event.currentTarget.open);
  return h(
    "details",
    { class: "part", open: opened.get(title) ?? !onPhone(), ontoggle },
    h("summary", {}, title),
    children,
  );
};
