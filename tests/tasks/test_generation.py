"""SequenceGeneration without a model: definitions, rows, features, texts, figures."""

from __future__ import annotations

import numpy as np
import pytest

from mtrobust.errors import UserError
from mtrobust.tasks.base import RowError
from mtrobust.tasks.metrics import METRICS
from mtrobust.tasks.taskdef import TaskDef, load_task_defs
from tests.t5 import question_rows, t5_tokenizer


def task_of(**more) -> TaskDef:
    return TaskDef(name="qa", task_type="SequenceGeneration", data_format="Generation", **more)


@pytest.fixture(scope="module")
def tokenizer():
    return t5_tokenizer()


def test_the_shipped_definition():
    task = load_task_defs(["generation"])["squad_gen"]
    assert (task.num_beams, task.data, task.metric_meta) == (4, "squad", ["EmF1", "Exact"])
    assert list(task.eval_sets) == list(load_task_defs(["squad"])["squad"].eval_sets)
    assert TaskDef(name="a", task_type="SeqenceGeneration", data_format="CLUE_GEN").type.needs_labels, "MT-DNN's names"


FAULTS = {
    "labels: [a, b]": "qa.labels: SequenceGeneration writes texts, not named labels",
    "length_penalty: 0.5": "qa.length_penalty: 0.5: compares beams: only with num_beams above 1",
    "num_beams: 0": "qa.num_beams: 0: must be an integer >= 1",
    "max_target_len: 1": "qa.max_target_len: 1: must be an integer >= 2",
    "metric_meta: [ACC]": "qa.metric_meta: ACC: SequenceGeneration has EmF1, Exact",
    "head_input: mean": "qa.head_input: mean: only for Classification, Regression, Ranking; SequenceGeneration: family",
    "loss: MseCriterion": "qa.loss: MseCriterion: SequenceGeneration is trained with SeqCeCriterion or CeCriterion",
    "n_best: 3": "qa.n_best: only for span tasks",
}


@pytest.mark.parametrize("line", FAULTS)
def test_faults_of_definitions(line: str, tmp_path):
    file = tmp_path / "d.yml"
    file.write_text(f"qa:\n  task_type: SequenceGeneration\n  data_format: Generation\n  {line}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_task_defs([file])
    assert FAULTS[line] in str(caught.value)


def test_keys_of_generation_are_refused_elsewhere(tmp_path):
    file = tmp_path / "d.yml"
    file.write_text("m:\n  task_type: MaskLM\n  data_format: MLM\n  num_beams: 4\n", encoding="utf-8")
    with pytest.raises(UserError, match="m.num_beams: only for tasks that write text .data_format Generation."):
        load_task_defs([file])


ROWS = [
    ({"text": "a", "target": "b"}, ("a", "b", ["b"])),
    ({"text": "a"}, ("a", None, None)),
    ({"text": "a", "target": None, "targets": None}, ("a", None, None)),
    ({"text": "a", "targets": ["b", "c", "b"]}, ("a", "b", ["b", "c"])),
    ({"text": "a", "target": "c", "targets": ["b", "c"]}, ("a", "c", ["b", "c"])),
    ({"text": "a", "answers": ["b"]}, ("a", "b", ["b"])),
    ({"text": "a", "gold_answers": ["b"], "answers": {"text": ["the b"]}}, ("a", "b", ["b"])),
    (
        {"question": " who? ", "context": "A cat.", "answers": {"text": ["cat", "A cat"], "answer_start": [2, 0]}},
        ("question: who? context: A cat.", "cat", ["cat", "A cat"]),
    ),
    ({"question": "who?", "context": "A cat."}, ("question: who? context: A cat.", None, None)),
    ({"text": "a", "question": "kept as it is", "target": "b"}, ("a", "b", ["b"])),
]


@pytest.mark.parametrize(("raw", "parsed"), ROWS)
def test_rows(raw, parsed):
    kind = task_of().type
    row = kind.parse_row(raw)
    assert (row["text"], row["target"], row["targets"]) == parsed
    assert kind.is_labelled(row) == (parsed[1] is not None)


BAD = [
    ({"target": "b"}, "text: is missing"),
    ({"text": " ", "target": "b"}, "text: is empty"),
    ({"text": "a", "target": ""}, "target: is empty"),
    ({"text": "a", "target": 3}, "target: is int 3; a text is needed"),
    ({"text": "a", "targets": []}, "targets: is empty; a text to write is needed"),
    ({"text": "a", "targets": ["b", ""]}, "targets: is ['b', '']; a list of texts that are not empty is needed"),
    ({"text": "a", "targets": "b"}, "targets: is 'b'; a list"),
    ({"text": "a", "text_pair": "b", "target": "c"}, "text_pair: is given"),
    ({"question": "who?", "answers": {"text": ["b"]}}, "context: is missing"),
    ({"question": "who?", "context": "a b", "answers": {"text": [], "answer_start": []}}, "answers: is empty"),
    ({"text": "a", "answers": {"answer_start": [0]}}, "answers: is {'answer_start': [0]}; a list"),
]


@pytest.mark.parametrize(("raw", "message"), BAD)
def test_bad_rows(raw, message):
    with pytest.raises(RowError) as caught:
        task_of().type.parse_row(raw)
    assert str(caught.value).startswith(message)


def test_features_hold_the_target_with_its_end_and_cut_both(tokenizer):
    kind = task_of(max_target_len=4).type
    rows = [kind.parse_row(row) for row in question_rows(6, 1)]
    rows[2] = kind.parse_row({"text": "near the river"})
    features = kind.featurize(rows, tokenizer, 12, training=True)
    assert [feature["labelled"] for feature in features] == [True, True, False, True, True, True]
    assert len(features[2]["labels"]) == 0
    for row, feature in zip(rows, features, strict=True):
        assert len(feature["input_ids"]) <= 12 and feature["input_ids"][-1] == tokenizer.eos_token_id
        if row["target"]:
            whole = tokenizer(row["target"])["input_ids"]
            assert feature["labels"].tolist() == (whole if len(whole) <= 4 else [*whole[:3], tokenizer.eos_token_id])
    assert any(len(tokenizer(row["target"])["input_ids"]) > 4 for row in rows if row["target"]), "something was cut"


def test_texts_and_figures(tokenizer):
    kind = task_of(metric_meta=["EmF1", "Exact"]).type
    raw = [
        {"id": "a", "text": "x", "targets": ["the river", "river bank"]},
        {"id": "b", "text": "x", "target": "lamp"},
        {"id": "c", "text": "x"},
    ]
    rows = [kind.parse_row(row) for row in raw]
    written = ["river", "lamp", "ladder"]
    ids = [np.array([*tokenizer(text)["input_ids"], 0, 0], dtype=np.float32) for text in written]
    outputs = [{"ids": each, "log_probability": np.float32(-0.5)} for each in ids]
    predictions = kind.decode(rows, [{"row": i} for i in range(3)], kind.detokenized(outputs, tokenizer))
    assert [p.record for p in predictions] == [
        {"id": name, "prediction": text, "log_probability": -0.5} for name, text in zip("abc", written, strict=True)
    ]
    scores = kind.score(rows, predictions)
    assert scores == {"em": 100.0, "f1": 100.0, "exact": 50.0}, "articles count for `exact` alone; c has no target"
    assert kind.files(predictions) == {"predictions.json": dict(zip("abc", written, strict=True))}
    assert kind.score(rows[2:], predictions[2:]) == {}
    assert kind.main_metric() == "f1" and task_of(metric_meta=["Exact"]).type.main_metric() == "exact"


def test_exact_takes_any_of_the_accepted_texts_to_the_letter():
    assert METRICS["Exact"]([["a b", "c"], ["The"], ["x"]], [" c ", "the", "x"]) == {"exact": pytest.approx(200 / 3)}
