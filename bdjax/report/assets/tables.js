// Tables that sort by their heads, show their first rows, and can be saved as they stand.
const FIRST = 100;
const compare = (a, b) =>
  typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : isNaN(a) - isNaN(b) || a - b;

// A column: title, about, value(row) to sort by, text(row) to save, parts(row) as numbers of several columns, show(row).
const words = (key, title, text, show = text, about = "") => ({ key, title, about, value: text, text, show });
const number = (key, title, value, form = String, about = "") => ({
  key,
  title,
  about,
  numeric: true,
  value: (row) => value(row) ?? NaN,
  text: (row) => (value(row) === null ? "" : form(value(row))),
  show: (row) => (value(row) === null ? "–" : form(value(row))),
  parts: (row) => [value(row) ?? ""],
});
const estimated = (key, title, get, form = fixed, about = "") => ({
  key,
  title,
  about,
  numeric: true,
  value: (row) => mean(get(row)),
  text: (row) => whole(get(row), form),
  show: (row) => [
    h("span", { class: "mean" }, centre(get(row), form)),
    spread(get(row), form) && h("span", { class: "spread" }, " " + spread(get(row), form)),
  ],
  parts: (row) => (get(row).length === 3 ? get(row) : [isNaN(mean(get(row))) ? "" : mean(get(row)), "", ""]),
  heads: [title, `${title} low`, `${title} high`],
});

const sortable = ({ id, name, columns, rows, sort = "", sorted = () => {}, row: dress = () => ({}) }) => {
  const body = h("tbody");
  let order = rows,
    all = false;
  const more = h("button", {
    type: "button",
    class: "more",
    onclick: () => {
      all = true;
      show();
    },
  });
  const show = () => {
    body.replaceChildren(
      ...order.slice(0, all ? order.length : FIRST).map((row) =>
        h(
          "tr",
          dress(row),
          columns.map((one) =>
            h("td", { class: one.numeric && "number", "data-label": one.title, "data-key": one.key }, one.show(row)),
          ),
        ),
      ),
    );
    more.hidden = all || order.length <= FIRST;
    more.textContent = `Show all ${order.length.toLocaleString("en")} rows`;
  };
  const heads = columns.map((one) =>
    h(
      "th",
      { scope: "col", "aria-sort": "none", title: one.about || null, class: one.numeric && "number" },
      h(
        "button",
        {
          type: "button",
          "data-key": one.key,
          onclick: (event) => {
            const falling = event.currentTarget.parentNode.ariaSort === "ascending";
            arrange(one.key, falling);
            sorted((falling ? "-" : "") + one.key);
          },
        },
        one.title,
      ),
    ),
  );
  const arrange = (key, falling) => {
    const k = columns.findIndex((one) => one.key === key);
    if (k < 0) return;
    const { value } = columns[k];
    const turn = (a, b) => (a !== a || b !== b || !falling ? compare(a, b) : compare(b, a));
    order = [...rows].sort((a, b) => turn(value(a), value(b)));
    heads.forEach((head, other) => (head.ariaSort = other !== k ? "none" : falling ? "descending" : "ascending"));
    show();
  };
  show();
  if (sort) arrange(sort.replace("-", ""), sort.startsWith("-"));
  const save = (form, write) =>
    h(
      "button",
      {
        type: "button",
        class: "save",
        "data-form": form,
        onclick: () => saveText(`${id}.${form}`, write(columns, order)),
      },
      form.toUpperCase(),
    );
  return [
    h(
      "p",
      { class: "tools" },
      `${rows.length.toLocaleString("en")} ${rows.length === 1 ? "row" : "rows"}. Save them as `,
      save("csv", asCsv),
      " ",
      save("md", asMarkdown),
      " ",
      save("tex", asLatex),
    ),
    h(
      "div",
      { class: "scroll tall", tabindex: 0, role: "region", "aria-label": name },
      h("table", { class: "sortable", id }, h("thead", {}, h("tr", {}, heads)), body),
    ),
    more,
  ];
};

const saveText = (name, text, kind = "text/plain") => {
  const address = URL.createObjectURL(new Blob([text], { type: kind }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
};
const quoted = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
const asCsv = (columns, rows) => {
  const heads = columns.flatMap((one) => one.heads ?? [one.title]);
  const line = (row) => columns.flatMap((one) => (one.parts ?? ((row) => [one.text(row)]))(row));
  return [heads, ...rows.map(line)].map((values) => values.map(quoted).join(",")).join("\n") + "\n";
};
const asMarkdown = (columns, rows) => {
  const line = (values) => `| ${values.map((value) => String(value).replaceAll("|", "\\|")).join(" | ")} |`;
  const rule = columns.map((one) => (one.numeric ? "---:" : "---"));
  return (
    [
      line(columns.map((one) => one.title)),
      line(rule),
      ...rows.map((row) => line(columns.map((one) => one.text(row)))),
    ].join("\n") + "\n"
  );
};
const asLatex = (columns, rows) => {
  const special = {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "−": "$-$",
    "–": "--",
    "…": "\\ldots{}",
  };
  const escaped = (value) =>
    String(value)
      .replace(/[\\~^−–…]/g, (one) => special[one])
      .replace(/(?<!\\)[&%#_]/g, "\\$&");
  const line = (values) => values.map(escaped).join(" & ") + " \\\\";
  return (
    [
      `\\begin{tabular}{${columns.map((one) => (one.numeric ? "r" : "l")).join("")}}`,
      "\\toprule",
      line(columns.map((one) => one.title)),
      "\\midrule",
      ...rows.map((row) => line(columns.map((one) => one.text(row)))),
      "\\bottomrule",
      "\\end{tabular}",
    ].join("\n") + "\n"
  );
};

// A figure leaves the page with its colours in it.
const saveFigure = (name, drawing) => {
  const copy = drawing.cloneNode(true);
  const page = getComputedStyle(document.documentElement);
  for (const one of copy.querySelectorAll("*")) {
    one.removeAttribute("data-tip");
    for (const key of ["fill", "stroke"]) {
      const variable = /^var\((--[\w-]+)\)$/.exec(one.getAttribute(key) ?? "");
      if (variable) one.setAttribute(key, page.getPropertyValue(variable[1]).trim());
    }
  }
  fill(
    copy,
    {
      xmlns: "http://www.w3.org/2000/svg",
      width: 700,
      height: 500,
      color: page.getPropertyValue("--ink").trim(),
      "font-family": "sans-serif",
    },
    [],
  );
  saveText(`${name.replace(/[^\w.-]+/g, "_")}.svg`, new XMLSerializer().serializeToString(copy), "image/svg+xml");
};
