"""Classification and regression: definitions, rows, features, decoding, scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mtrobust.tasks.base import RowError
from mtrobust.tasks.taskdef import TaskDef

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def nli(**changes: Any) -> TaskDef:
    values = {
        "name": "nli",
        "task_type": "Classification",
        "data_format": "PremiseAndOneHypothesis",
        "labels": ["no", "maybe", "yes"],
        "metric_meta": ["ACC", "F1MAC", "CMAT"],
    }
    return TaskDef(**(values | changes))


def topic(**changes: Any) -> TaskDef:
    values = {"data_format": "PremiseOnly", "labels": ["bad", "good"], "metric_meta": ["ACC", "AUC"]}
    return nli(name="topic", **(values | changes))


def similarity() -> TaskDef:
    return TaskDef(
        name="sim",
        task_type="Regression",
        data_format="PremiseAndOneHypothesis",
        n_class=1,
        metric_meta=["Pearson", "Spearman"],
    )


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Any) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir("bert"))


@pytest.mark.parametrize(
    ("task", "fault"),
    [
        (nli(labels=["one"]), "n_class: 1: Classification needs at least 2 labels"),
        (nli(metric_meta=["F1"]), "metric_meta: F1: only for two classes, not 3"),
        (nli(metric_meta=["CMAT"]), "metric_meta: CMAT: counts cannot compare models"),
        (
            TaskDef(name="r", task_type="Regression", data_format="PremiseOnly", n_class=2),
            "n_class: 2: Regression has 1",
        ),
    ],
)
def test_definition_faults(task: TaskDef, fault: str) -> None:
    assert any(line.startswith(fault) for line in task.faults()), task.faults()


def test_sound_definitions_have_no_faults() -> None:
    assert nli().faults() == topic().faults() == similarity().faults() == []


@pytest.mark.parametrize(("given", "label"), [("yes", 2), (1, 1), ("0", 0), (None, None)])
def test_class_labels(given: Any, label: Any) -> None:
    row = nli().type.parse_row({"id": "a", "text": "x", "text_pair": "y", "label": given, "genre": "kept"})
    assert (row["label"], row["genre"]) == (label, "kept")


@pytest.mark.parametrize(
    ("given", "label"), [(1, 0), ("1", 0), (3, 2), (np.int64(2), 1), (np.int8(1), 0)]
)
def test_a_number_that_is_a_name_is_that_name(given: Any, label: int) -> None:
    row = topic(labels=["1", "2", "3"], metric_meta=["ACC"]).type.parse_row({"id": "a", "text": "x", "label": given})
    assert row["label"] == label and type(row["label"]) is int


@pytest.mark.parametrize("given", [0, "0", np.int8(0), 4])
def test_where_names_are_numbers_others_are_refused(given: Any) -> None:
    with pytest.raises(RowError, match=r"unknown.* \(allowed: 1, 2, 3\)"):
        topic(labels=["1", "2", "3"], metric_meta=["ACC"]).type.parse_row({"id": "a", "text": "x", "label": given})


def test_a_message_names_a_few_of_many_labels() -> None:
    task = topic(labels=[f"c{i}" for i in range(5000)], metric_meta=["ACC"])
    with pytest.raises(RowError, match=r"c49, \.\.\. \(5000 in all\), or their numbers 0 to 4999") as caught:
        task.type.parse_row({"id": "a", "text": "x", "label": "d"})
    assert len(str(caught.value)) < 500


def test_a_fraction_can_be_a_name() -> None:
    task = topic(labels=["2.5", "1"], metric_meta=["ACC"])
    assert [task.type.parse_row({"id": "a", "text": "x", "label": x})["label"] for x in (2.5, 1)] == [0, 1]


def test_a_number_in_preprocessed_lines_is_an_id() -> None:
    kind = topic(labels=["1", "2", "3"], metric_meta=["ACC"]).type
    line = {"id": "a", "token_id": [1, 2], "type_id": [0, 0]}
    assert [kind.parse_row(line | {"label": x})["label"] for x in (0, 1, 2, "2")] == [0, 1, 2, 1]
    with pytest.raises(RowError, match="3: unknown"):
        kind.parse_row(line | {"label": 3})


@pytest.mark.parametrize(
    ("given", "label"),
    [
        (3, 3.0), (2.5, 2.5), ("4.250", 4.25), (None, None), (" -.5e+1", -5.0), ("3.", 3.0), (np.int64(3), 3.0),
        (np.float32(2.5), 2.5), ("1e38", 1e38),
    ],
)  # fmt: skip
def test_number_labels(given: Any, label: Any) -> None:
    row = similarity().type.parse_row({"id": "a", "text": "x", "text_pair": "y", "label": given})
    assert row["label"] == label
    assert label is None or isinstance(row["label"], float)


@pytest.mark.parametrize(
    ("task", "change", "field", "message"),
    [
        (nli(), {"text": None}, "text", "missing"),
        (nli(), {"text": 5}, "text", "is int 5"),
        (nli(), {"text": " \n"}, "text", "empty"),
        (nli(), {"text": "a \ud83d"}, "text", "holds half of a surrogate pair"),
        (nli(), {"text_pair": None}, "text_pair", "missing"),
        (nli(), {"label": "yess"}, "label", "did you mean 'yes'"),
        (nli(), {"label": 3}, "label", "0 to 2"),
        (nli(), {"label": -1}, "label", "unknown"),
        (nli(), {"label": True}, "label", "unknown"),
        (nli(), {"label": 1.0}, "label", "unknown"),
        (nli(), {"label": ["yes"]}, "label", "unknown"),
        (nli(), {"label": "01"}, "label", "'01': unknown"),
        (nli(), {"label": "9" * 5000}, "label", "unknown"),
        (nli(), {"label": 10**5000}, "label", "a number of thousands of digits: unknown"),
        (nli(), {"label": np.int64(3)}, "label", "unknown"),
        (nli(), {"label": np.True_}, "label", "unknown"),
        (nli(), {"soft_label": [0.2, 0.8]}, "soft_label", r"a list of 3 probabilities is needed \(no, maybe, yes\)"),
        (nli(), {"soft_label": [0.2, 0.3, 0.6]}, "soft_label", "sum to 1"),
        (nli(), {"soft_label": [-0.1, 0.5, 0.6]}, "soft_label", "at least 0"),
        (nli(), {"soft_label": [float("nan"), 0.5, 0.5]}, "soft_label", "a list of 3 probabilities"),
        (nli(), {"soft_label": [True, 0, 0]}, "soft_label", "a list of 3 probabilities"),
        (nli(), {"soft_label": "yes"}, "soft_label", "a list of 3 probabilities"),
        (nli(), {"softlabel": 0.5}, "soft_label", "a list of 3 probabilities"),
        (similarity(), {"soft_label": [1.0]}, "soft_label", "a number is needed"),
        (similarity(), {"soft_label": "high"}, "soft_label", "not a number"),
        (topic(), {}, "text_pair", "one text only"),
        (similarity(), {"label": "high"}, "label", "not a number"),
        (similarity(), {"label": float("nan")}, "label", "finite"),
        (similarity(), {"label": "inf"}, "label", "finite"),
        (similarity(), {"label": False}, "label", "a number is needed"),
        (similarity(), {"label": [1]}, "label", "a number is needed"),
        (similarity(), {"label": 10**400}, "label", "at most 3.4e.38"),
        (similarity(), {"label": 10**5000}, "label", "a number of thousands of digits; a finite number"),
        (similarity(), {"label": "9" * 5000}, "label", "finite number"),
        (similarity(), {"label": 1e300}, "label", r"is 1e\+300; a finite number is needed, at most 3.4e\+38"),
        (similarity(), {"label": "-1e39"}, "label", "'-1e39'; a finite number"),
        (similarity(), {"label": "1_0"}, "label", "not a number"),
        (similarity(), {"label": "١"}, "label", "not a number"),
        (similarity(), {"label": "0x1"}, "label", "not a number"),
        (similarity(), {"label": np.True_}, "label", "a number is needed"),
        (similarity(), {"soft_label": 10**400}, "soft_label", "finite number"),
        (similarity(), {"soft_label": -1e39}, "soft_label", r"is -1e\+39; a finite number"),
        (nli(), {"soft_label": [10**400, 0, 0]}, "soft_label", "a list of 3 probabilities"),
        (nli(), {"soft_label": [10**5000, 0, 0]}, "soft_label", "a list of 3 probabilities"),
    ],
)
def test_row_faults(task: TaskDef, change: dict[str, Any], field: str, message: str) -> None:
    row = {"id": "a", "text": "x", "text_pair": "y", "label": 0} | change
    with pytest.raises(RowError, match=message) as caught:
        task.type.parse_row(row)
    assert caught.value.field == field


def test_an_empty_soft_label_does_not_hide_mtdnns() -> None:
    row = topic().type.parse_row({"id": "a", "text": "x", "soft_label": None, "softlabel": [0.25, 0.75]})
    assert row["soft_label"] == [0.25, 0.75]
    row = topic().type.parse_row({"id": "a", "text": "x", "soft_label": [1, 0], "softlabel": [0.25, 0.75]})
    assert row["soft_label"] == [1.0, 0.0]


def test_numpys_numbers_are_probabilities() -> None:
    soft = nli().type.soft_label([np.float64(0.25), np.float32(0.75), np.int64(0)])
    assert soft == [0.25, 0.75, 0.0] and all(type(share) is float for share in soft)


def test_features_have_every_column_and_the_pair_format(tokenizer: PreTrainedTokenizerBase) -> None:
    kind = nli().type
    rows = [
        kind.parse_row({"id": "a", "text": "a clear film", "text_pair": "the film", "label": "yes"}),
        kind.parse_row({"id": "b", "text": "a cat", "text_pair": "the dog"}),
    ]
    first, second = kind.featurize(rows, tokenizer, 64, training=True)
    expected = tokenizer("a clear film", "the film")
    assert first["input_ids"].tolist() == expected["input_ids"]
    assert first["token_type_ids"].tolist() == expected["token_type_ids"]
    assert (first["labels"], first["labelled"], first["row"]) == (2, True, 0)
    assert (second["labels"], second["labelled"], second["row"]) == (0, False, 1)
    assert set(kind.columns) <= set(first)


@pytest.mark.parametrize("family", ["roberta", "distilbert", "t5"])
def test_families_without_token_types(tiny_model_dir: Any, family: str) -> None:
    from transformers import AutoTokenizer

    kind = nli().type
    row = kind.parse_row({"id": "a", "text": "a clear film", "text_pair": "the film"})
    (feature,) = kind.featurize([row], AutoTokenizer.from_pretrained(tiny_model_dir(family)), 64, training=True)
    assert "token_type_ids" not in feature


def test_pairs_are_cut_at_the_longer_side(tokenizer: PreTrainedTokenizerBase) -> None:
    kind = nli().type
    row = kind.parse_row({"id": "a", "text": "the cat " * 30, "text_pair": "the old river"})
    (feature,) = kind.featurize([row], tokenizer, 20, training=True)
    alone = tokenizer("the old river")["input_ids"][1:]
    assert len(feature["input_ids"]) == 20
    assert feature["input_ids"].tolist()[-len(alone) :] == alone


def test_classification_decodes_and_scores() -> None:
    kind = nli().type
    rows = [{"id": str(i), "label": label} for i, label in enumerate([2, 0, None])]
    outputs = [{"logits": np.array(v, dtype=np.float32)} for v in ([0, 0, 9], [1, 2, 0], [5, 5, 0])]
    order = [1, 2, 0]  # features come in any order
    made = kind.decode(rows, [{"row": i} for i in order], [outputs[i] for i in order])
    assert [p.record["prediction"] for p in made] == ["yes", "maybe", "no"]  # the first of equals
    assert [p.record.get("label") for p in made] == ["yes", "no", None]
    assert sum(made[1].record["probabilities"].values()) == pytest.approx(1)
    scores = kind.score(rows, made)
    assert scores["acc"] == 50.0
    assert scores["cmat_0_1"] == 1
    assert kind.main_metric() == "acc"
    assert kind.score([{"label": None}], made[2:]) == {}


def test_extreme_logits_keep_finite_probabilities() -> None:
    (made,) = topic().type.decode([{"id": "a"}], [{"row": 0}], [{"logits": np.array([-1e4, 1e4], dtype=np.float32)}])
    assert made.record["probabilities"] == {"bad": 0.0, "good": 1.0}


def test_auc_reads_the_probability_of_the_second_class() -> None:
    kind = topic().type
    rows = [{"id": str(i), "label": label} for i, label in enumerate([0, 0, 1, 1])]
    outputs = [{"logits": np.array([0.0, value])} for value in (-2.0, -0.5, -1.0, -0.1)]  # none is over one half
    scores = kind.score(rows, kind.decode(rows, [{"row": i} for i in range(4)], outputs))
    assert scores == {"acc": 50.0, "auc": 75.0}


def test_regression_decodes_and_scores() -> None:
    kind = similarity().type
    rows = [{"id": str(i), "label": label} for i, label in enumerate([1.0, 2.0, 4.0])]
    outputs = [{"logits": np.array([v], dtype=np.float32)} for v in (0.5, 1.0, 2.0)]
    made = kind.decode(rows, [{"row": i} for i in range(3)], outputs)
    assert [p.record["prediction"] for p in made] == [0.5, 1.0, 2.0]
    assert kind.score(rows, made) == pytest.approx({"pearson": 100.0, "spearman": 100.0})
    assert kind.main_metric() == "pearson"
    assert kind.files(made) == {}
