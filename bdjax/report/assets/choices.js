// What the reader has chosen. It is in the address after #, so that a link shows the same.
const boxes = {
  study: { title: "Study", names: given.studies.map((one) => one.label) },
  attack: { title: "Attack", names: given.attacks.map((one) => one.text) },
  ratio: { title: "Poison ratio", names: given.ratios.map(ratioText), rest: "largest of each attack" },
  defense: { title: "Defense", names: given.defenses.map((one) => one.text) },
  detector: { title: "Detector", names: given.detectors.map((one) => one.text) },
};
const usual = cells.length && !cells.some((row) => row.asr.length) ? "acc" : "asr"; // there may be no trigger to judge by
const state = { chosen: {}, measure: usual, figure: "", curve: "", sort: "", words: "", section: "" };
const KEPT = ["figure", "curve", "sort", "words", "section"];

const readAddress = () => {
  const text = location.hash.slice(1);
  const asked = new URLSearchParams(text.includes("=") ? text : { section: text });
  for (const [key, box] of Object.entries(boxes)) {
    state.chosen[key] = new Set(
      asked
        .getAll(key)
        .map((name) => box.names.indexOf(name))
        .filter((k) => k >= 0),
    );
  }
  state.measure = asked.get("measure") in measures ? asked.get("measure") : usual;
  for (const key of KEPT) state[key] = asked.get(key) ?? "";
};
const writeAddress = () => {
  const now = new URLSearchParams();
  for (const [key, box] of Object.entries(boxes)) for (const k of state.chosen[key]) now.append(key, box.names[k]);
  if (state.measure !== usual) now.set("measure", state.measure);
  for (const key of KEPT) if (state[key]) now.set(key, state[key]);
  history.replaceState(null, "", `#${now}`);
};

// Nothing chosen in a box stands for all.
const allows = (key, k) => !state.chosen[key].size || state.chosen[key].has(k);
const picked = (key) => boxes[key].names.map((_, k) => k).filter((k) => allows(key, k));
// Figures of many lines begin with the best.
const lines = () => {
  const few = picked("defense").length <= given.best.length + 1;
  return state.chosen.defense.size || few
    ? picked("defense")
    : picked("defense").filter((k) => k === given.undefended || given.best.includes(k));
};
const ratiosOf = (study, attack) => {
  const top = given.tops[study][attack];
  return state.chosen.ratio.size ? picked("ratio") : top === undefined ? [] : [top];
};
// The (study, attack, ratio) that overviews show: columns, panels.
const places = () => {
  const found = picked("study").flatMap((study) =>
    picked("attack").flatMap((attack) => ratiosOf(study, attack).map((ratio) => ({ study, attack, ratio }))),
  );
  return found.filter(
    (one) =>
      !state.chosen.ratio.size ||
      cells.some((row) => row.study === one.study && row.attack === one.attack && row.ratio === one.ratio),
  );
};
const shows = (row) =>
  allows("study", row.study) &&
  allows("attack", row.attack) &&
  allows("defense", row.defense) &&
  allows("ratio", row.ratio);

const drawBoxes = (redraw) => {
  if (!cells.length) return;
  const bar = document.getElementById("choices");
  const box = (key, { title, names, rest }) => {
    const said = h("b");
    const say = () => {
      const chosen = [...state.chosen[key]];
      said.textContent = chosen.length
        ? chosen.length === 1
          ? names[chosen[0]]
          : `${chosen.length} of ${names.length}`
        : (rest ?? `all ${names.length}`);
    };
    const changed = () => {
      say();
      redraw();
    };
    const options = names.map((name, k) => {
      const check = h("input", { type: "checkbox", value: name });
      check.checked = state.chosen[key].has(k);
      check.addEventListener("change", () => {
        state.chosen[key][check.checked ? "add" : "delete"](k);
        changed();
      });
      return h("label", {}, check, h("span", {}, name));
    });
    const set = (chosen) => () => {
      state.chosen[key] = new Set(chosen);
      options.forEach((one, k) => (one.firstChild.checked = state.chosen[key].has(k)));
      changed();
    };
    const quick = [h("button", { type: "button", onclick: set([]) }, rest ?? "all")];
    if (key === "defense" && names.length > given.best.length + 1) {
      const first = [given.undefended, ...given.best].filter((k) => k !== null);
      quick.push(h("button", { type: "button", onclick: set(first) }, `best ${given.best.length}`));
    }
    say();
    return h(
      "details",
      { class: "box", "data-key": key },
      h("summary", {}, title + " ", said),
      h("div", { class: "options" }, h("div", { class: "quick" }, quick), options),
    );
  };
  const shown = Object.entries(boxes).filter(([, one]) => one.names.length > 1);
  const measure = h(
    "div",
    { class: "switch", role: "group", "aria-label": "Measure" },
    Object.entries(measures).map(([key, one]) =>
      h(
        "button",
        {
          type: "button",
          title: one.about,
          "data-measure": key,
          "aria-pressed": String(state.measure === key),
          onclick: (event) => {
            state.measure = key;
            for (const other of event.currentTarget.parentNode.children)
              other.ariaPressed = String(other === event.currentTarget);
            redraw();
          },
        },
        one.title,
      ),
    ),
  );
  bar.replaceChildren(...shown.map(([key, one]) => box(key, one)), measure);
};
document.addEventListener("click", (event) => {
  for (const box of document.querySelectorAll(".box[open]")) if (!box.contains(event.target)) box.open = false;
});
