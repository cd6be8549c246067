"""A user's own poisoned set: what is read, and every way in which it can contradict itself."""

import numpy as np
import pytest

from bdjax.errors import InvalidInput
from bdjax.io.datasets.poisoned_sets import check_matches, load_set


def arrays() -> dict[str, np.ndarray]:
    """Classes 0, 1, 2; rows 3 and 1 poisoned to class 0; the trigger sends 1 and 2 to 0."""
    draw = np.random.default_rng(0)
    train, test, query = (draw.integers(0, 256, (count, 8, 8, 3), np.uint8) for count in (6, 4, 4))
    return {
        "train_image": train,
        "train_label": np.array([0, 1, 2, 1, 0, 2]),
        "test_image": test,
        "test_label": np.array([2, 0, 1, 1]),
        "poison_row": np.array([3, 1]),
        "poison_label": np.array([0, 2]),
        "query_image": query,
        "query_label": np.array([0, 0, 0, 0]),
    }


def test_what_is_read(tmp_path):
    np.savez(tmp_path / "set.npz", **arrays())
    poisoned = load_set(tmp_path / "set.npz")
    np.testing.assert_array_equal(poisoned.row, [1, 3])
    np.testing.assert_array_equal(poisoned.label, [2, 0])
    np.testing.assert_array_equal(poisoned.image, arrays()["train_image"][[1, 3]])
    np.testing.assert_array_equal(poisoned.query_image, arrays()["query_image"])
    np.testing.assert_array_equal(poisoned.goal, [0, 0, 0])
    np.testing.assert_array_equal(poisoned.splits.train_label, arrays()["train_label"])
    assert poisoned.row.dtype == poisoned.label.dtype == poisoned.goal.dtype == np.int32


def test_unsigned_labels(tmp_path):
    np.savez(tmp_path / "set.npz", **{name: array.astype(np.uint8) for name, array in arrays().items()})
    np.testing.assert_array_equal(load_set(tmp_path / "set.npz").label, [2, 0])


def test_a_goal_for_every_class(tmp_path):
    np.savez(tmp_path / "set.npz", **arrays() | {"query_label": np.array([0, 0, 2, 2])})
    np.testing.assert_array_equal(load_set(tmp_path / "set.npz").goal, [0, 2, 0])


def test_the_studys_dataset_may_differ_in_poisoned_images_alone(tmp_path):
    np.savez(tmp_path / "set.npz", **arrays())
    poisoned = load_set(tmp_path / "set.npz")
    check_matches(poisoned, poisoned.splits, "set.npz")
    for row, fits in ((1, True), (3, True), (0, False)):
        image = poisoned.splits.train_image.copy()
        image[row] ^= 1
        splits = poisoned.splits._replace(train_image=image)
        if fits:
            check_matches(poisoned, splits, "set.npz")
        else:
            with pytest.raises(InvalidInput, match=r"set.npz: made from another dataset"):
                check_matches(poisoned, splits, "set.npz")
    others = [
        poisoned.splits._replace(train_label=poisoned.splits.train_label[::-1]),
        poisoned.splits._replace(test_image=poisoned.query_image),
        poisoned.splits._replace(
            train_image=poisoned.splits.train_image[:4], train_label=poisoned.splits.train_label[:4]
        ),
    ]
    for splits in others:
        with pytest.raises(InvalidInput, match="another dataset"):
            check_matches(poisoned, splits, "set.npz")


BAD = {
    "poison_row": [
        (np.array([3, 3]), "twice"),
        (np.array([3, 6]), "from 3 to 6; rows go from 0 to 5"),
        (np.array([-1, 3]), "from -1"),
        (np.array([3]), "1 poison_row and 2 poison_label"),
        (np.array([3.0, 1.0]), "whole numbers"),
        (np.array([True] * 2), "whole numbers"),
    ],
    "poison_label": [
        (np.array([0, 3]), "poison_label from 0 to 3; labels go from 0 to 2"),
        (np.array([0, -1]), "from -1"),
        (np.array([[0, 1]]), "whole numbers"),
    ],
    "query_image": [
        (np.zeros((3, 8, 8, 3), np.uint8), "one row a test image"),
        (np.zeros((4, 8, 8), np.uint8), "one row a test image"),
        (np.full((4, 8, 8, 3), np.nan), "give uint8"),
    ],
    "query_label": [
        (np.array([0, 0, 0]), "3 query_label"),
        (np.array([0, 0, 0, 9]), "from 0 to 9"),
        (np.array([0, 0, 0, 2]), "differs within class '1'"),
        (np.array([2, 0, 1, 1]), "every query_label is the true label"),
        (np.array([0, 0, 0, None]), "Python objects"),
    ],
    "train_label": [(np.array([0, 1, 2, 1, 0, -2]), "labels from -2 to 2")],
}


@pytest.mark.parametrize(("name", "array", "message"), [(name, *case) for name in BAD for case in BAD[name]])
def test_bad_sets(tmp_path, name, array, message):
    np.savez(tmp_path / "set.npz", **arrays() | {name: array})
    with pytest.raises(InvalidInput, match=message) as caught:
        load_set(tmp_path / "set.npz")
    assert "set.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_no_poisoned_row(tmp_path):
    none = np.zeros(0, int)
    np.savez(tmp_path / "set.npz", **arrays() | {"poison_row": none, "poison_label": none})
    with pytest.raises(InvalidInput, match="1 to 6 rows"):
        load_set(tmp_path / "set.npz")


def test_a_plain_dataset_is_no_poisoned_set(tmp_path):
    plain = {name: array for name, array in arrays().items() if name.startswith(("train", "test"))}
    np.savez(tmp_path / "set.npz", **plain)
    with pytest.raises(InvalidInput, match="no array 'poison_row'"):
        load_set(tmp_path / "set.npz")
    with pytest.raises(InvalidInput, match="no such file"):
        load_set(tmp_path / "none.npz")
