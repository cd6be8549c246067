// Everything is drawn again when a choice changes.
const draw = () => {
  for (const one of [
    drawMatrix,
    drawScatter,
    drawRatios,
    drawResults,
    drawDifferences,
    drawAudits,
    drawTraining,
    drawDetection,
    choosePictures,
  ])
    one();
};
const choosePictures = () => {
  for (const one of document.querySelectorAll("[data-attack]"))
    one.hidden = !allows("attack", Number(one.dataset.attack));
};
const change = () => {
  writeAddress();
  draw();
};

const filter = document.querySelector("#results input[type=search]");
filter?.addEventListener("input", () => {
  state.words = filter.value;
  writeAddress();
  drawResults();
});

const bringOut = (series) => {
  for (const one of document.querySelectorAll("figure [data-series]")) {
    one.classList.toggle("faded", series !== undefined && one.dataset.series !== series);
  }
};
const pinned = () => document.querySelector(".legend [aria-pressed=true]")?.dataset.series;
document.addEventListener("click", (event) => {
  const key = event.target.closest?.(".legend button");
  if (!key) return;
  const pin = key.ariaPressed !== "true";
  for (const other of document.querySelectorAll(".legend button"))
    other.ariaPressed = String(pin && other.dataset.series === key.dataset.series);
  bringOut(pinned());
});

// What stands behind a point or a cell, beside the pointer; a tap or the keyboard brings it too.
const tip = h("div", { id: "tip", role: "status", hidden: true });
document.body.append(tip);
// Points may lie over each other: up to three are told, the nearest first.
const NEAR = 3;
const under = (event) => {
  const far = (one) => {
    const box = one.getBoundingClientRect();
    return Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY);
  };
  const all = document.elementsFromPoint(event.clientX, event.clientY).filter((one) => one.dataset.tip);
  return all.sort((a, b) => far(a) - far(b)).slice(0, NEAR);
};
const tell = (event) => {
  const about = event.target.closest?.("[data-tip]");
  tip.hidden = !about;
  if (tip.hidden) return;
  const told = event.type === "pointermove" ? under(event) : [about];
  tip.textContent = told.map((one) => one.dataset.tip).join("\n\n");
  const spot = about.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(spot.x + spot.width / 2, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${spot.bottom + tip.offsetHeight + 12 > innerHeight ? spot.top - tip.offsetHeight - 6 : spot.bottom + 6}px`;
};
for (const kind of ["pointermove", "focusin"]) document.addEventListener(kind, tell);
for (const kind of ["pointerout", "focusout"]) document.addEventListener(kind, () => (tip.hidden = true));
document.addEventListener("scroll", () => (tip.hidden = true), { capture: true, passive: true });

// Section links keep what is chosen in the address.
for (const link of document.querySelectorAll("nav a")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    state.section = link.hash.slice(1);
    writeAddress();
    document.getElementById(state.section).scrollIntoView();
  });
}
const begin = () => {
  readAddress();
  if (filter) filter.value = state.words;
  drawBoxes(change);
  draw();
  if (state.section) document.getElementById(state.section)?.scrollIntoView();
};
addEventListener("hashchange", begin);
begin();
