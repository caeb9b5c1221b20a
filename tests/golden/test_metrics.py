"""Recorded results of the official SQuAD scripts, of SWEP's span decoding and of MT-DNN's metric functions."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtrobust.tasks import squad_metrics
from mtrobust.tasks.metrics import METRICS
from mtrobust.tasks.span_decode import Window, decode_question, final_text, join_pieces, top_indexes
from tests.golden.exemptions import Ledger

EXACT = {"rel": 1e-9, "abs": 1e-9}
OFFICIAL = {
    "squad_v1_1": squad_metrics.v1_question,
    "mrqa": squad_metrics.v1_question,
    "squad_v2_0": squad_metrics.v2_question,
    "mtdnn_mrc_eval": squad_metrics.v2_question,
}
OUR_NAMES = {"f1_macro": "F1MAC", "f1_micro": "F1MIC", "pearson": "Pearson", "spearman": "Spearman"}


def read(golden: Path, name: str) -> Any:
    return json.loads((golden / "metrics" / name).read_text(encoding="utf-8"))


def test_every_question_scores_as_in_the_official_scripts(golden: Path) -> None:
    ledger = Ledger("metrics/qa_metrics")
    scripts = lambda case: [k for k, v in case.items() if isinstance(v, dict)]  # noqa: E731
    for case in read(golden, "qa_metrics.json")["cases"]:
        ledger.see(f"{case['id']}/{script}" for script in scripts(case))
        for script in scripts(case):
            em, f1 = OFFICIAL[script](case["prediction"], case["golds"])
            expected = (case[script]["em"], case[script]["f1"])
            assert (em, f1) == pytest.approx(expected, **EXACT), f"{case['id']} {script}"
            ledger.done(f"{case['id']}/{script}")
        assert squad_metrics.normalize_answer(case["prediction"]) == case["normalized_prediction"], case["id"]
    ledger.close()


def test_aggregates_equal_the_official_scripts(golden: Path) -> None:
    recorded = read(golden, "qa_metrics.json")
    cases, expected = recorded["cases"], recorded["aggregate"]
    every = {c["id"]: c["golds"] for c in cases}
    answerable = {c["id"]: c["golds"] for c in cases if c["golds"]}
    texts = {c["id"]: c["prediction"] for c in cases}
    odds = {c["id"]: c["na_prob"] for c in cases}
    missing = expected["squad_v1_1_one_missing_prediction"]["missing_id"]
    fewer = {key: text for key, text in texts.items() if key != missing}

    def one_missing(skip: bool = False) -> dict[str, Any]:
        if skip:
            return squad_metrics.evaluate_v1(answerable, fewer, skip_missing=True)
        with pytest.warns(UserWarning, match=missing):
            return squad_metrics.evaluate_v1(answerable, fewer)

    ours = {
        "squad_v1_1_only_answerable": squad_metrics.evaluate_v1(answerable, texts),
        "squad_v1_1_one_missing_prediction": one_missing() | {"missing_id": missing},
        "mrqa_one_missing": one_missing(),
        "mrqa_one_missing_skip_no_answer": one_missing(skip=True),
    }
    for name in ("squad_v2_0", "swep_squad_metrics"):
        ours[name] = {t: squad_metrics.evaluate_v2(every, texts, odds, float(t)) for t in expected[name]}
    assert set(ours) == set(expected)
    for name, values in expected.items():
        nested = values if name in ("squad_v2_0", "swep_squad_metrics") else {"": values}
        for threshold, result in nested.items():
            got = ours[name][threshold] if threshold else ours[name]
            assert set(got) == set(result), f"{name} {threshold}"
            for key, value in result.items():
                assert got[key] == (value if isinstance(value, str) else pytest.approx(value, **EXACT)), f"{name} {key}"


def window(feature: dict[str, Any], case: dict[str, Any]) -> Window:
    """A feature of the released code, whose answers are words of a document and not character offsets."""
    start, end = np.array(feature["start_logits"]), np.array(feature["end_logits"])
    word_of = {int(token): word for token, word in feature["token_to_orig_map"].items()}
    whole_context = {int(token): flag for token, flag in feature["token_is_max_context"].items()}
    can_end = np.array([i < len(feature["tokens"]) and i in word_of for i in range(len(start))])
    can_start = can_end & np.array([whole_context.get(i, False) for i in range(len(start))])

    def text(i: int, j: int) -> str:
        words = " ".join(case["doc_tokens"][word_of[i] : word_of[j] + 1])
        return final_text(join_pieces(feature["tokens"][i : j + 1]), words, case["do_lower_case"])

    return Window(start, end, can_start, can_end, (float(start[0]), float(end[0])), text)


def compare_decoding(case: dict[str, Any]) -> None:
    for feature, best in zip(case["features"], case["top_indexes"], strict=True):
        assert top_indexes(feature["start_logits"], case["n_best_size"]).tolist() == best["best_start"]
        assert top_indexes(feature["end_logits"], case["n_best_size"]).tolist() == best["best_end"]
    windows = [window(feature, case) for feature in case["features"]]
    null = case["version_2_with_negative"]
    answer = decode_question(windows, null, case["n_best_size"], case["max_answer_length"], placeholder="empty")
    assert answer.text(case["null_score_diff_threshold"]) == case["prediction"]
    assert [entry.text for entry in answer.nbest] == [entry["text"] for entry in case["nbest"]]
    for ours, expected in zip(answer.nbest, case["nbest"], strict=True):
        assert ours.record() == {k: v if k == "text" else pytest.approx(v, rel=1e-9) for k, v in expected.items()}
    expected_diff = case["null_score_diff"]
    assert answer.null_score_diff == (None if expected_diff is None else pytest.approx(expected_diff, **EXACT))


def test_span_decoding_equals_the_released_code(golden: Path) -> None:
    ledger = Ledger("metrics/span_decoding")
    for case in read(golden, "span_decoding.json"):
        stops = case.get("raises") is not None
        name = case["id"] + ("/raises" if stops else "")
        ledger.see([name])
        if case.get("kind") == "get_final_text":
            projected = final_text(case["pred_text"], case["orig_text"], case["do_lower_case"])
            assert projected == case["final_text"], case["id"]
        elif stops:
            windows = [window(feature, case) for feature in case["features"]]
            decode_question(windows, case["version_2_with_negative"], case["n_best_size"], case["max_answer_length"])
            continue
        else:
            compare_decoding(case)
        ledger.done(name)
    ledger.close()


def test_metric_functions_equal_mtdnn(golden: Path) -> None:
    ledger = Ledger("metrics/glue_metrics")
    cases = read(golden, "glue_metrics.json")
    ledger.see(f"{i}/{case['metric']}" for i, case in enumerate(cases))
    for i, case in enumerate(cases):
        name = case["metric"].removesuffix("_3class")
        metric = METRICS[OUR_NAMES.get(name, name.upper())]
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # undefined values are the reporter's business, not a library's warning
            try:
                value = metric(case["labels"], case["predictions"])[metric.key]
            except ValueError:
                assert case["raises"], case
                value = math.nan
        undefined = case["is_nan"] or case["raises"]
        assert math.isnan(value) if undefined else value == pytest.approx(case["value"], **EXACT), case
        ledger.done(f"{i}/{case['metric']}")
    ledger.close()
