"""The pages of this folder, made from the rows beside them.

    python -m experiments.safety.page

studies.json says what the rows are of. The rows hold every figure of every seed, but neither the training curves nor
the points along the audits' paths: those were kept in the studies' folders alone.
"""

import json
from pathlib import Path

import pandas
import xarray

import bdjax
from bdjax.report.page import render

HERE = Path(__file__).parent
CELL = ("attack", "ratio", "seed", "defense")
TEXTS = ("config", "versions")
UNASKED = -2


def read(name: str) -> xarray.Dataset:
    """The results of one study, as `bdjax.load` gives them."""
    rows = pandas.read_csv(HERE / f"{name}.csv")
    order = {dim: list(dict.fromkeys(rows[dim])) for dim in ("attack", "defense")}
    about = rows.drop_duplicates("defense").set_index("defense")[["oracle", "version"]].loc[order["defense"]]
    found = rows.drop(columns=["oracle", "version"]).set_index(list(CELL)).to_xarray().reindex(order)
    found["status"] = found["status"].fillna(UNASKED).astype("int8")
    attributes = json.loads((HERE / "studies.json").read_text(encoding="utf-8"))[name]
    found.attrs = attributes | {text: json.dumps(attributes[text]) for text in TEXTS}
    return found.assign_coords({column: ("defense", about[column].to_numpy()) for column in about})


def cards(results: xarray.Dataset) -> dict[str, list]:
    """The cards of the methods that the rows are of, as they are now, by what they are."""
    known = {"attacks": bdjax.ATTACKS, "defenses": bdjax.DEFENSES, "audits": bdjax.AUDITS}
    used = {
        "attacks": [str(text).partition(":")[0] for text in results["attack"].values],
        "defenses": [str(text).partition(":")[0] for text in results["defense"].values],
        "audits": [name for name in bdjax.AUDITS if any(str(column).startswith(f"{name}_") for column in results)],
    }
    return {kind: [known[kind][name].card for name in dict.fromkeys(names)] for kind, names in used.items()}


def main() -> None:
    """Write a page beside each file of rows."""
    for path in sorted(HERE.glob("*.csv")):
        results = read(path.stem)
        path.with_suffix(".html").write_text(render(results, cards=cards(results)), encoding="utf-8")


if __name__ == "__main__":
    main()
