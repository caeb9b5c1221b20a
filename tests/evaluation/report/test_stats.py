"""Intervals: closed forms, invariants, and the share of times that they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as reference

from mtrobust.evaluation.report.examples import Examples
from mtrobust.evaluation.report.level import LEVELS
from mtrobust.evaluation.report.stats import bootstrap, draws, interval, mean_std, share_bounds


def test_mean_and_sample_deviation_by_hand():
    assert mean_std([1.0, 2.0, 6.0]) == (3.0, pytest.approx(7**0.5))
    assert mean_std([4.0]) == (4.0, None)


def test_of_seeds_alone_is_student_s_t():
    values = [1.0, 2.0, 4.5]
    found = interval(values, None)
    low, high = reference.t.interval(0.95, 2, loc=np.mean(values), scale=reference.sem(values))
    assert (found.low, found.high, found.of) == (pytest.approx(low), pytest.approx(high), "seeds")


def test_one_seed_without_examples_has_no_interval():
    found = interval([1.0], None)
    assert found.of == "none" and np.isnan(found.low) and np.isnan(found.high)


def test_of_examples_alone_is_the_percentile_bootstrap():
    deviations = np.linspace(-2, 2, 4001)
    found = interval([5.0], deviations)
    assert (found.low, found.high, found.of) == (pytest.approx(3.1), pytest.approx(6.9), "examples")


def test_of_both_is_wider_than_of_each_and_meets_each_at_its_limit():
    values, generator = [0.5, 1.0, 1.5], np.random.default_rng(1)
    deviations = generator.normal(0, 0.8, 5000)
    both, seeds, examples = interval(values, deviations), interval(values, None), interval([1.0], deviations)
    assert both.of == "seeds and examples"
    width = [found.high - found.low for found in (both, seeds, examples)]
    assert width[0] > max(width[1:])
    flat = interval(values, np.zeros(5000))  # no noise of examples: Student's t
    assert flat[:2] == pytest.approx(seeds[:2], abs=0.01)
    equal = interval([1.0, 1.0, 1.0], deviations)  # no noise of seeds: the bootstrap
    assert equal[:2] == pytest.approx(examples[:2])


def test_an_undefined_draw_is_left_out():
    found = interval([0.0], np.array([np.nan, -1.0, 1.0, np.nan]))
    assert found[:2] == (pytest.approx(-0.95), pytest.approx(0.95))


def test_draws_are_with_replacement_and_the_same_for_the_same_key():
    first, again = (np.concatenate(list(draws("mr.dev", 50, 400))) for _ in range(2))
    other = np.concatenate(list(draws("mrpc.dev", 50, 400)))
    assert first.shape == (400, 50) and (first.sum(axis=1) == 50).all() and (first == again).all()
    assert (first != other).any()
    # a count is binomial(50, 1/50): variance 0.98
    assert first.mean() == pytest.approx(1) and first.var() == pytest.approx(0.98, abs=0.03)


def test_bootstrap_of_a_mean_has_its_standard_error():
    right = np.arange(400) % 4 > 0
    drawn = bootstrap([lambda weights: weights @ right / 400], "k", 400)[0]
    assert drawn.mean() == pytest.approx(0.75, abs=0.002)
    assert drawn.std() == pytest.approx((0.75 * 0.25 / 400) ** 0.5, rel=0.05)


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_holds_the_true_difference_as_often_as_it_says(seeds: int):
    """Simulated tables: examples with a common effect, seeds with an effect of their own, noise of each pair."""
    generator, n, truth, held = np.random.default_rng(7), 150, 2.0, 0
    weights = np.concatenate(list(draws("coverage", n, 400)))
    rounds = 600
    for _ in range(rounds):
        of_seeds = generator.normal(0, 1.0 if seeds > 1 else 0.0, (seeds, 1))
        table = truth + of_seeds + generator.normal(0, 12, n) + generator.normal(0, 5, (seeds, n))
        deviations = (weights @ table.T / n).mean(axis=1) - table.mean()
        found = interval(table.mean(axis=1).tolist(), deviations)
        held += found.low <= truth <= found.high
    assert 0.93 <= held / rounds <= 0.995


def test_share_bounds_are_binomial_quantiles():
    low, high = share_bounds(0.5, 100)
    assert (low, high) == (0.40, 0.60)
    drawn = np.random.default_rng(0).binomial(100, 0.5, 100_000) / 100
    assert np.quantile(drawn, [0.025, 0.975]) == pytest.approx([low, high], abs=0.01)


# --- metrics of weighted examples ---------------------------------------------------------------------------------

CLASSES = ("a", "b", "c")


def examples(labels, predictions, classes=()) -> Examples:
    from pathlib import Path

    return Examples(Path("x.jsonl"), tuple(map(str, range(len(labels)))), list(labels), list(predictions), classes)


def by_metric(metric: str, labels: list, predictions: list, classes: tuple[str, ...]) -> float:
    from mtrobust.tasks.metrics import METRICS

    names = {"acc": "ACC", "f1": "F1", "f1_macro": "F1MAC", "f1_micro": "F1MIC", "mcc": "MCC"}
    name = names.get(metric, metric.capitalize())
    ids = [[classes.index(x) for x in side] if classes else side for side in (labels, predictions)]
    return METRICS[name](*ids)[metric]


@pytest.mark.parametrize("metric", ["acc", "f1", "f1_macro", "f1_micro", "mcc", "pearson", "spearman"])
def test_weighted_scores_are_the_metrics_of_the_drawn_examples(metric: str):
    """Each draw, written out as a list, through the metric that evaluation uses."""
    generator = np.random.default_rng(3)
    numbers = metric in ("pearson", "spearman")
    classes = () if numbers else CLASSES[:2] if metric == "f1" else CLASSES
    if numbers:
        labels = np.round(generator.uniform(0, 5, 40), 1).tolist()  # with ties
        predictions = [round(x + float(generator.normal()), 1) for x in labels]
    else:
        labels = generator.choice(classes, 40).tolist()
        predictions = [x if generator.random() < 0.6 else str(generator.choice(classes)) for x in labels]
    score = examples(labels, predictions, classes).score(metric)
    assert score is not None
    weights = np.concatenate([np.ones((1, 40)), *draws("t", 40, 25)])
    for row, figure in zip(weights, score(weights), strict=True):
        at = np.repeat(np.arange(40), row.astype(int))
        drawn = [labels[i] for i in at], [predictions[i] for i in at]
        assert figure == pytest.approx(by_metric(metric, *drawn, classes), abs=1e-8)


def test_scores_that_are_not_defined_are_none_or_nan():
    assert examples(["a", "b"], ["a", "b"], CLASSES).score("f1") is None  # three classes have no positive one
    assert examples([1.0, 2.0], [1.0, 2.0]).score("acc") is None
    assert examples(["a", "b"], ["a", "b"]).score("pearson") is None
    assert examples(["a", "b"], ["a", "b"], CLASSES).score("auc") is None
    constant = examples([1.0, 2.0], [3.0, 3.0]).score("pearson")
    assert constant is not None and np.isnan(constant(np.ones((1, 2)))[0])


# --- levels ------------------------------------------------------------------------------------------------------


def test_levels_are_the_metrics_of_constant_answers():
    from collections import Counter

    labels, counts = ["a"] * 30 + ["b"] * 70, Counter({"a": 30, "b": 70})
    for metric in ("acc", "f1", "f1_macro", "f1_micro"):
        level = LEVELS[metric](counts, CLASSES[:2])
        assert level is not None and level.upper > level.figure
        assert level.figure == pytest.approx(by_metric(metric, labels, ["b"] * 100, CLASSES[:2]))
    acc = LEVELS["acc"](counts, CLASSES[:2])
    assert acc is not None and acc.upper == pytest.approx(100 * share_bounds(0.7, 100)[1])
    assert LEVELS["mcc"](counts, ()) == (0.0, pytest.approx(19.6), "no correlation")


def test_a_set_of_one_class_has_no_majority_to_beat():
    from collections import Counter

    assert LEVELS["acc"](Counter(a=10), CLASSES) is None
    assert LEVELS["f1"](Counter(a=10), CLASSES[:2]) is None
