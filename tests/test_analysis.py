"""Analyses of stored models, on a tiny study: transfer against the audit, a plane against numbers worked out anew."""

import inspect
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import xarray as xr

import bdjax
from bdjax import ANALYSES, InvalidInput
from bdjax.analysis.parts import stored
from bdjax.io.store.documents import read_json
from bdjax.io.store.store import Store
from bdjax.types import Trained

ATTACK = "badnets:size=4"
AUDIT = "reactivation:rows=20,poisoned=4,epochs=9,learning_rate=0.1,width=4,generator_epochs=9,alpha=5,epsilon=0.2"
DEFENSES = ("none", "ft:epochs=5,learning_rate=0.3", "ft:epochs=5,learning_rate=0.3,momentum=0")
WHERE = {"attack": ATTACK, "ratio": 0.1}
"""A backdoor that the linear model half learns, and generators strong enough to tell its defenses apart."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    study = tiny.study(data, attacks=(ATTACK,), ratios=(0.1,), defenses=DEFENSES, audits=(AUDIT,))
    bdjax.run(study, data / "study")
    return data / "study"


def test_what_is_trained_on_a_defense_and_applied_to_it_is_what_the_audit_says(folder):
    found = ANALYSES["transfer"].make(folder, **WHERE, defenses=DEFENSES[:2], audit=AUDIT)
    audited = bdjax.load(folder).sel(WHERE, drop=True)
    for name in ("acc", "asr", "activation", "acc_clean_model"):
        for defense in DEFENSES[:2]:
            same = found[name].sel(trained_on=defense, applied_to=defense)
            np.testing.assert_allclose(same, audited[f"reactivation_{name}"].sel(defense=defense), atol=1e-6)
    figures = found[["acc", "asr", "activation"]].to_array()
    assert not np.array_equal(figures.isel(trained_on=0), figures.isel(trained_on=1))
    assert not np.array_equal(figures.isel(applied_to=0), figures.isel(applied_to=1))


def test_transfer_is_a_matrix_with_intervals(monkeypatch):
    """Generators that are numbers, 1 and 2, trained on two defenses; the rate is 10 times it, plus the other's number.

    Over three seeds rates of 11, 12 and 13 have mean 12 and deviation 1, and Student's quantile is 4.3027.
    """
    models = {name: SimpleNamespace(group=SimpleNamespace(key=""), cells=cells) for name, cells in (("a", 1), ("b", 2))}

    def measure(models):
        return lambda cells, left: {"asr": 10 * left.carry["generator"] + cells + np.arange(3)}

    monkeypatch.setattr(stored, "opened", lambda *_: stored.Stored((4, 5, 6), None, models))
    monkeypatch.setattr(stored, "trained", lambda models: lambda cells: Trained(None, {"generator": cells}))
    monkeypatch.setattr(stored, "measure", measure)
    found = ANALYSES["transfer"].make("", "badnets", 0.1)
    assert isinstance(found, xr.Dataset) and found.asr.dims == ("trained_on", "applied_to", "seed")
    assert found.asr.sel(trained_on="a", applied_to="b").values.tolist() == [12, 13, 14]
    assert found.asr.sel(trained_on="b", applied_to="a", seed=5) == 22
    cell = found.sel(trained_on="a", applied_to="a")
    width = 4.302653 / np.sqrt(3)
    np.testing.assert_allclose([cell.asr_low, cell.asr_mean, cell.asr_high], [12 - width, 12, 12 + width], rtol=1e-6)


def test_points_of_a_plane_are_worked_out_from_the_stored_weights(folder):
    """One linear layer on 16x16x3 values: a point of the plane by numpy, from the three files."""
    found = ANALYSES["plane"].make(folder, **WHERE, points=4, seeds=(1,))
    assert found.error.dims == ("seed", "row", "column") and found.error.shape == (1, 4, 4)
    cells = read_json(folder / "study.json")["cells"]
    at = {cell["defense"]: cell["model"] for cell in cells if cell["ratio"] == 0.1 and cell["seed"] == 1}
    store = Store(folder)
    trees = [store.load_model(at[name]).weights.params["linear"] for name in DEFENSES]
    one, two, three = (np.concatenate([tree["kernel"].ravel(), tree["bias"]]).astype(float) for tree in trees)
    first = (two - one) / np.linalg.norm(two - one)
    aside = three - one
    second = aside - aside @ first * first
    second /= np.linalg.norm(second)
    corners = [[0, 0], [np.linalg.norm(two - one), 0], [aside @ first, aside @ second]]
    np.testing.assert_allclose(found.corners[0], corners, rtol=1e-4, atol=1e-5)
    x, y = (np.linspace(-0.3, 1.3, 4) * np.ptp(axis) + min(axis) for axis in np.transpose(corners))
    np.testing.assert_allclose(found.x[0], x, rtol=1e-4)
    np.testing.assert_allclose(found.y[0], y, rtol=1e-4, atol=1e-5)

    data = tiny.arrays()
    image, label = data["test_image"] / 255, data["test_label"]
    mean, std = (data["train_image"].reshape(-1, 3) / 255).mean(0), (data["train_image"].reshape(-1, 3) / 255).std(0)

    def logits(point, image):
        flat = ((image - mean) / std).reshape(len(image), -1)
        return flat @ point[: -tiny.CLASSES].reshape(-1, tiny.CLASSES) + point[-tiny.CLASSES :]

    white = image.copy()
    white[:, -4:, -4:] = 1
    for row, column in ((0, 3), (2, 1)):
        point = one + x[column] * first + y[row] * second
        values = logits(point, image)
        logs = values - np.log(np.exp(values).sum(1, keepdims=True))
        here = found.sel(seed=1).isel(row=row, column=column)
        np.testing.assert_allclose(here.loss, -logs[np.arange(len(label)), label].mean(), rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(here.error, (values.argmax(1) != label).mean(), atol=1.1 / len(label))
        others = logits(point, white).argmax(1)[label != 0]
        np.testing.assert_allclose(here.asr, (others == 0).mean(), atol=1.1 / len(others))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("transfer", {"attack": "blended"}, "nothing of blended at 0.1; it has badnets"),
        ("transfer", {"seeds": (9,)}, "no seed 9; choose from 0, 1"),
        ("transfer", {"defenses": ("nad",)}, "no defense nad"),
        ("transfer", {"audit": "retuning"}, "trains no generator"),
        ("plane", {"defenses": DEFENSES[:2]}, "2 defenses, none, ft:.*; give three"),
    ],
)
def test_what_is_not_there_is_refused(folder, name, change, words):
    with pytest.raises(InvalidInput, match=words):
        ANALYSES[name].make(folder, **WHERE | change)


def test_a_folder_without_study_or_without_clean_models_is_refused(folder, tmp_path):
    with pytest.raises(InvalidInput, match=r"no study\.json"):
        ANALYSES["plane"].make(tmp_path, **WHERE)
    shutil.copytree(folder, tmp_path / "study")
    named = {cell["model"] for cell in read_json(folder / "study.json")["cells"]}
    clean = [path for path in (tmp_path / "study" / "models").glob("*.safetensors") if path.stem not in named]
    assert len(clean) == 2
    clean[0].unlink()
    with pytest.raises(InvalidInput, match="lacks the model of none at seed"):
        ANALYSES["transfer"].make(tmp_path / "study", **WHERE, audit=AUDIT)


@pytest.mark.parametrize("name", sorted(ANALYSES))
def test_defaults_are_those_of_the_card(name):
    method = ANALYSES[name]
    parameters = inspect.signature(method.make).parameters.values()
    defaults = {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}
    assert defaults == {key: setting.default for key, setting in method.card.settings.items()}
