"""How detectors are judged: figures worked out by hand, ties, rows that do not count, and what has no figure."""

import numpy as np
import pytest

from bdjax.metrics.detection import FIGURES, GRID, judge


def test_figures_worked_out_by_hand():
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    truth = np.array([1, 0, 1, 0, 1, 0], np.int8)
    found = judge(score, truth, score > 0.65)
    # Of the 9 pairs of one with and one without the trigger 3 + 2 + 1 are in order.
    assert found["auroc"] == pytest.approx(6 / 9)
    assert found["ap"] == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3)
    assert [found[name] for name in ("tpr_at_1", "tpr_at_5", "tpr_at_10")] == pytest.approx([1 / 3] * 3)
    assert (found["tpr"], found["fpr"]) == pytest.approx((2 / 3, 1 / 3))
    assert found["roc"].shape == GRID.shape
    assert found["roc"][[0, 50, 100]] == pytest.approx([1 / 3, 2 / 3, 1])


def test_ties_count_half():
    found = judge(np.array([1.0, 1.0, 1.0, 0.0]), np.array([1, 0, 0, 0], np.int8))
    assert found["auroc"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert found["tpr_at_10"] == 0  # a threshold that takes the first takes two of three without the trigger


@pytest.mark.parametrize("level", [0.01, 0.05, 0.1])
def test_rates_at_a_level_are_of_thresholds_within_it(level):
    score, truth = np.arange(200, dtype=float), np.zeros(200, np.int8)
    truth[[50, 195]] = 1
    truth[10] = -1
    found = judge(score, truth)
    clean = score[truth == 0]
    bound = np.sort(clean)[::-1][int(level * clean.size)]
    assert found[f"tpr_at_{round(100 * level)}"] == np.mean(score[truth == 1] > bound)


def test_rows_that_do_not_count_change_nothing():
    random = np.random.default_rng(0)
    score, truth = random.normal(size=30), random.integers(0, 2, 30).astype(np.int8)
    wide = judge(
        np.append(score, [9, -9]), np.append(truth, [-1, -1]).astype(np.int8), np.append(score > 0, [True, False])
    )
    np.testing.assert_equal(wide, judge(score, truth, score > 0))


def test_without_poison_there_are_false_alarms_alone():
    found = judge(np.arange(4.0), np.zeros(4, np.int8), np.arange(4) > 2)
    assert found["fpr"] == 0.25
    assert all(np.isnan(found[name]).all() for name in (*FIGURES, "roc") if name != "fpr")


def test_a_score_that_is_no_number_has_no_rank_and_infinite_ones_have():
    truth = np.array([1, 0, 1], np.int8)
    broken = judge(np.array([np.nan, 1, 2]), truth, np.zeros(3, bool))
    assert all(np.isnan(broken[name]).all() for name in (*FIGURES, "roc"))
    assert judge(np.array([np.inf, -np.inf, 3]), truth)["auroc"] == 1
