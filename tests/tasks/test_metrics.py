"""Metrics: hand-made values, undefined ones, and SQuAD's rules where the scripts differ."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from mtrobust.tasks import squad_metrics
from mtrobust.tasks.metrics import METRICS


@pytest.mark.parametrize(
    ("name", "labels", "predictions", "expected"),
    [
        ("ACC", [0, 1, 1, 0], [0, 1, 0, 0], {"acc": 75.0}),
        ("F1", [0, 1, 1, 0], [0, 1, 0, 0], {"f1": 200 / 3}),
        ("F1", [0, 0], [0, 0], {"f1": 0.0}),
        ("F1MAC", [0, 1, 2], [0, 1, 1], {"f1_macro": 100 * (1 + 2 / 3 + 0) / 3}),
        ("F1MIC", [0, 1, 2], [0, 1, 1], {"f1_micro": 200 / 3}),
        ("MCC", [0, 1, 0, 1], [1, 0, 1, 0], {"mcc": -100.0}),
        ("MCC", [1, 1, 1], [1, 1, 1], {"mcc": 0.0}),
        ("AUC", [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], {"auc": 75.0}),
        ("Pearson", [0.0, 1.0, 2.0], [5.0, 3.0, 1.0], {"pearson": -100.0}),
        ("Spearman", [1.0, 2.0, 3.0], [0.0, 0.1, 9.0], {"spearman": 100.0}),
        ("CMAT", [0, 1, 1], [0, 0, 1], {"cmat_0_0": 1, "cmat_0_1": 0, "cmat_1_0": 1, "cmat_1_1": 1}),
        ("EmF1", [["the cat", "a dog"]], ["Dog!"], {"em": 100.0, "f1": 100.0}),
        ("EmF12", [["cat"], []], ["", ""], {"em": 50, "f1": 50, "has_ans_em": 0, "has_ans_f1": 0, "no_ans_acc": 100}),
        ("EmF12", [["big cat"]], ["cat"], {"em": 0.0, "f1": 200 / 3}),
    ],
)
def test_values(name: str, labels: list, predictions: list, expected: dict[str, float]) -> None:
    assert METRICS[name](labels, predictions) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["Pearson", "Spearman"])
@pytest.mark.parametrize(
    ("labels", "predictions"), [([1.0, 1.0], [0.3, 2.0]), ([1.0, 2.0], [0.5, 0.5]), ([1.0], [2.0])]
)
@pytest.mark.filterwarnings("error")
def test_a_correlation_with_a_constant_is_undefined(name: str, labels: list, predictions: list) -> None:
    assert math.isnan(METRICS[name](labels, predictions)[name.lower()])


@pytest.mark.filterwarnings("error")
def test_auc_of_one_class_is_undefined() -> None:
    assert math.isnan(METRICS["AUC"]([1, 1], [0.2, 0.4])["auc"])


@pytest.mark.parametrize("name", list(METRICS))
def test_lengths_must_agree(name: str) -> None:
    with pytest.raises(ValueError, match="2 labels and 1 predictions"):
        METRICS[name]([0, 1], [0])
    with pytest.raises(ValueError, match="at least 1"):
        METRICS[name]([], [])


def test_metrics_agree_with_numpy_on_random_data() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=50), rng.normal(size=50)
    assert METRICS["Pearson"](x.tolist(), y.tolist())["pearson"] == pytest.approx(100 * np.corrcoef(x, y)[0, 1])
    a, b = rng.integers(0, 3, 60), rng.integers(0, 3, 60)
    assert METRICS["ACC"](a.tolist(), b.tolist())["acc"] == pytest.approx(100 * (a == b).mean())


@pytest.mark.parametrize(
    ("prediction", "golds", "v1", "v2"),
    [
        ("", [""], (1, 0), (1, 1)),
        ("the", ["an"], (1, 0), (1, 1)),  # both normalise to nothing
        ("Paris, France", ["in Paris"], (0, 0.5), (0, 0.5)),
        ("cat", ["...", "cat"], (1, 1), (1, 1)),
        ("", ["...", "cat"], (1, 0), (0, 0)),  # v2.0 drops the answer that is punctuation only
    ],
)
def test_where_v1_and_v2_differ(prediction: str, golds: list[str], v1: tuple, v2: tuple) -> None:
    assert squad_metrics.v1_question(prediction, golds) == v1
    assert squad_metrics.v2_question(prediction, golds) == v2


def test_best_threshold_matches_a_search_over_all_thresholds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        keys = [f"q{i}" for i in range(12)]
        has = {k: bool(rng.random() < 0.6) for k in keys}
        scores = {k: float(rng.random()) if has[k] else 0.0 for k in keys}
        diffs = {k: float(rng.normal()) for k in keys}
        low = min(diffs.values()) - 1
        total, chosen = squad_metrics.best_threshold(scores, dict.fromkeys(keys, True), diffs, has, start=low)

        def at(threshold: float, has: dict = has, diffs: dict = diffs, scores: dict = scores) -> float:
            kept = [float(not has[k]) if diffs[k] > threshold else scores[k] for k in scores]
            return 100 * sum(kept) / len(kept)

        assert at(chosen) == pytest.approx(total)
        assert total == pytest.approx(max(at(t) for t in [low, *diffs.values()]))


def test_questions_without_prediction() -> None:
    golds = {"a": ["x"], "b": ["y"]}
    with pytest.warns(UserWarning, match="1 questions have no prediction and count as wrong"):
        assert squad_metrics.evaluate_v1(golds, {"a": "x"})["f1"] == 50.0
    with pytest.warns(UserWarning, match="left out"):
        result = squad_metrics.evaluate_v2(golds, {"a": "x"})
    assert result == {
        "exact": 100.0,
        "f1": 100.0,
        "total": 1,
        "HasAns_exact": 100.0,
        "HasAns_f1": 100.0,
        "HasAns_total": 1,
    }
    with pytest.raises(ValueError, match="no question"):
        squad_metrics.evaluate_v1({}, {})


def test_definitions_are_checked_without_heavy_imports() -> None:
    code = (
        "import sys, mtrobust.tasks; "
        "heavy = {'torch', 'transformers', 'sklearn', 'scipy', 'numpy', 'datasets'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
