"""Training and evaluation from MT-DNN's preprocessed lines are those from the texts they were made of."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtrobust.config import TrainConfig
from mtrobust.data.features import load_features
from mtrobust.errors import UserError
from mtrobust.evaluation.predict import predict
from mtrobust.evaluation.run_folder import load_run
from mtrobust.tasks.taskdef import TaskDef
from mtrobust.training.run import train
from tests.evaluation.runs import read_lines, sentence, span_rows, text_rows, write_rows
from tests.mtdnn.definitions import NER
from tests.mtdnn.preprocessed import WINDOW, list_lines, span_lines, tag_lines, text_lines
from tests.training.world import losses, settings, write_world

DEFS = """
mood: {task_type: Classification, data_format: PremiseOnly, n_class: 3, labels: [sad, calm, glad], metric_meta: [ACC]}
nli: {task_type: Classification, data_format: PremiseAndOneHypothesis, n_class: 2, enable_san: true, metric_meta: [ACC]}
stsb: {task_type: Regression, data_format: PremiseAndOneHypothesis, n_class: 1, metric_meta: [Pearson]}
copa: {task_type: Ranking, data_format: PremiseAndMultiHypothesis, n_class: 1, metric_meta: [ACC]}
ner: {task_type: SeqenceLabeling, data_format: Seqence, n_class: 12, metric_meta: [SeqEval],
      labels: [O, B-MISC, I-MISC, B-PER, I-PER, B-ORG, I-ORG, B-LOC, I-LOC, X, CLS, SEP]}
squad-v2: {task_type: SpanYN, data_format: CLUE_SPAN, n_class: 2, metric_meta: [EmF12], max_len: 48, doc_stride: 10}
"""
MOODS = ["sad", "calm", "glad"]
NLI = {"task_type": "Classification", "data_format": "PremiseAndOneHypothesis", "n_class": 2, "enable_san": True}
PAIR = TaskDef(name="nli", **NLI)
MOOD = TaskDef(name="mood", task_type="Classification", data_format="PremiseOnly", labels=MOODS)
LISTS = TaskDef(name="copa", task_type="Ranking", data_format="PremiseAndMultiHypothesis", enable_san=True)
QA = TaskDef(name="squad", task_type="SpanClassificationYN", data_format="MRC", max_len=WINDOW, doc_stride=10)


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


def rows_of() -> dict[str, list[dict[str, Any]]]:
    return {
        "mood": text_rows(10, MOODS, pair=False),
        "nli": text_rows(10, [0, 1], pair=True),
        "stsb": text_rows(10, [0.0, 1.5, 4.0], pair=True),
        "copa": list_rows(6),
        "ner": tag_rows(6),
        "squad-v2": span_rows(6, unanswerable=True),
    }


def list_rows(count: int) -> list[dict[str, Any]]:
    return [
        {"id": str(i), "text": sentence(i), "candidates": [sentence(i + 7), sentence(i + 9)], "label": i % 2}
        for i in range(count)
    ]


def tag_rows(count: int) -> list[dict[str, Any]]:
    texts = [sentence(i).rstrip(".").split(" ") for i in range(count)]
    return [
        {"id": str(i), "tokens": words, "tags": [NER[(i + j) % 9] for j in range(len(words))]}
        for i, words in enumerate(texts)
    ]


def write_lines(folder: Path, tokenizer: Any) -> None:
    """`<task>_<split>.json` of all rows; one task is padded."""
    for name, rows in rows_of().items():
        for split in ("train", "dev"):
            if name == "squad-v2":
                lines = span_lines(rows, tokenizer, training=split == "train")
            elif name == "copa":
                lines = list_lines(rows, tokenizer)
            elif name == "ner":
                lines = tag_lines(rows, tokenizer, NER)
            else:
                padded = 40 if name == "mood" else 0
                lines = text_lines(rows, tokenizer, MOODS if name == "mood" else None, padded)
            write_rows(folder / f"{name}_{split}.json", lines)


def test_losses_metrics_and_predictions_are_the_same(tmp_path: Path, tiny_model_dir: Callable[[str], Path]) -> None:
    world = write_world(tmp_path, tiny_model_dir("bert"))
    (world / "defs.yml").write_text(DEFS, encoding="utf-8")
    shutil.rmtree(world / "data")
    for name, rows in rows_of().items():
        for split in ("train", "dev"):
            write_rows(world / "data" / name / f"{split}.jsonl", rows)
    write_lines(world / "old", tokenizer_of(world / "model"))
    runs: dict[str, TrainConfig] = {
        name: settings(world, f"run-{name}", "rapt", data_dir=world / name, train_tasks=[]) for name in ("data", "old")
    }
    results = {name: train(config) for name, config in runs.items()}
    assert len(losses(runs["old"].output_dir)) > 10
    for name in ("metrics.jsonl", *(f"predictions/{task}.dev.jsonl" for task in rows_of())):
        text, ids = (config.output_dir / name for config in runs.values())
        assert text.read_text(encoding="utf-8") == ids.read_text(encoding="utf-8"), name
    assert {k: v for k, v in results["old"].items() if k != "train"} == {
        k: v for k, v in results["data"].items() if k != "train"
    }

    run = load_run(runs["old"].output_dir, device="cpu")
    assert predict(run, "nli", world / "old" / "nli_dev.json", world / "out.jsonl") == 10
    assert read_lines(world / "out.jsonl") == read_lines(runs["data"].output_dir / "predictions" / "nli.dev.jsonl")
    with pytest.raises(UserError, match=r"squad-v2: row 'q0': windows\[0\].offset_mapping: is missing; this line was"):
        predict(run, "squad-v2", world / "old" / "squad-v2_train.json", world / "qa.jsonl")


@pytest.mark.parametrize("family", ["roberta", "albert", "t5"])
def test_features_are_the_same_where_the_tokenizer_is_of_another_kind(
    tmp_path: Path, tiny_model_dir: Callable[[str], Path], family: str
) -> None:
    tokenizer = tokenizer_of(tiny_model_dir(family))
    pairs, questions = text_rows(6, [0, 1], pair=True), span_rows(5, unanswerable=True)
    for task, rows, lines in (
        (PAIR, pairs, text_lines(pairs, tokenizer)),
        (QA, questions, span_lines(questions, tokenizer, training=True)),
        (LISTS, list_rows(4), list_lines(list_rows(4), tokenizer)),
    ):
        write_rows(tmp_path / "new" / task.name / "train.jsonl", rows)
        write_rows(tmp_path / "old" / f"{task.name}_train.json", lines)
        made = [
            load_features(task, "train", tmp_path / name, tokenizer, 64, tmp_path / name / "cache", training=True)
            for name in ("new", "old")
        ]
        assert len(made[0]) == len(made[1]) >= len(rows) and made[0].n_rows == made[1].n_rows == len(rows)
        for text, ids in zip(*made, strict=True):
            assert text.keys() == ids.keys()
            for column in text.keys() - {"offset_start", "offset_end"}:  # training lines have no offsets
                assert np.array_equal(text[column], ids[column]), column


# --- bad lines ----------------------------------------------------------------------------------------------------

LINE = {"uid": "0", "label": 1, "token_id": [2, 9, 3], "type_id": [0, 0, 0], "attention_mask": [1, 1, 1]}
SPAN = {"uid": "q", "token_id": [2, 9, 3, 8, 3], "type_id": [0, 0, 0, 1, 1], "start_position": 3, "end_position": 3}
READ = {"offset_mapping": [[0, 0], [0, 2], [0, 0], [0, 4], [0, 0]], "context": "Anna", "answer": {"text": ["Anna"]}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_id": None}, None),
        ({"token_id": []}, "token_id: []: a list of whole numbers >= 0 is needed, one per token"),
        ({"token_id": [2, -9, 3]}, "token_id: [2, -9, 3]: a list of whole numbers"),
        ({"token_id": [2, True, 3]}, "token_id: [2, True, 3]: a list of whole numbers"),
        ({"type_id": None}, "type_id: is missing; a list with one number per token is needed"),
        ({"type_id": [0, 0]}, "type_id: 2 numbers for 3 tokens; one per token is needed"),
        ({"type_id": [0, 0, 2]}, "type_id: 2: 0 (first text) or 1 (second text) is needed"),
        ({"attention_mask": [0, 1, 1]}, "attention_mask: 3 numbers are needed: 1 for each token, then 0 for padding"),
        ({"attention_mask": [1, 1]}, "attention_mask: 3 numbers are needed"),
        ({"attention_mask": [0, 0, 0]}, "attention_mask: 3 numbers are needed"),
        ({"label": 3}, "label: 3: unknown (allowed: sad, calm, glad, or their numbers 0 to 2)"),
        ({"label": "merry"}, "label: 'merry': unknown"),
        ({"uid": [1]}, "id: [1]: must be a text or an integer"),
        ({"token_id": [2, 999, 3]}, "token_id: 999 is not in the encoder's vocabulary (0 to "),
        ({"token_id": [0, 9, 3]}, "token_id: begins with 0, not with the encoder's [CLS] (2)"),
        ({"token_id": [2] * 70, "type_id": [0] * 70, "attention_mask": None}, "token_id: 70 tokens, and max_len (or "),
    ],
)
def test_a_bad_line_is_named(
    tmp_path: Path, tiny_model_dir: Callable[[str], Path], change: dict[str, Any], message: str | None
) -> None:
    path = write_rows(tmp_path / "mood_train.json", [LINE, LINE | {"uid": "1"} | change])
    with pytest.raises(UserError) as caught:
        load_features(MOOD, "train", tmp_path, tokenizer_of(tiny_model_dir("bert")), 64, tmp_path / "c", training=True)
    (line,) = caught.value.faults
    assert line.startswith(f"{path}:2: {message or 'token_id: is missing; a list'}")


def test_offsets_outside_the_passage_are_not_read(tmp_path: Path, tiny_model_dir: Callable[[str], Path]) -> None:
    far = [10**30, 10**30]
    odd = {"offset_mapping": [far, far, far, [0, 4], far], "uid": "odd"}
    write_rows(tmp_path / "squad_dev.json", [SPAN | READ, SPAN | READ | odd])
    tokenizer = tokenizer_of(tiny_model_dir("bert"))
    good, same = load_features(QA, "dev", tmp_path, tokenizer, 64, tmp_path / "c", training=False)
    assert same["offset_start"].tolist() == good["offset_start"].tolist() == [-1, -1, -1, 0, -1]
    assert same["offset_end"].tolist() == good["offset_end"].tolist() == [-1, -1, -1, 4, -1]


@pytest.mark.parametrize(
    ("line", "training", "message"),
    [
        (SPAN | {"start_position": 5}, True, "windows[0].start_position: 5: a position among the 5 tokens is needed"),
        (SPAN | {"end_position": None}, True, "windows[0].end_position: None: a position among the 5 tokens"),
        (SPAN | {"start_position": 1}, True, "windows[0].start_position: 1 to 3 is not a span of the passage's tokens"),
        (SPAN | {"type_id": [0]}, True, "windows[0].type_id: 1 numbers for 5 tokens"),
        (SPAN, False, "windows[0].offset_mapping: is missing; this line was made for training; evaluate on those of a"),
        (SPAN | READ | {"start_position": None, "end_position": None}, True, "windows[0].start_position: is missing; "),
        (SPAN | READ | {"context": None}, False, "windows[0].offset_mapping: is missing; "),
        (SPAN | READ | {"context": "Ann"}, False, "windows[0].offset_mapping: [0, 4]: not a piece of the context (3 "),
        (SPAN | READ | {"context": 1}, False, "context: is 1; a text is needed"),
        (SPAN | READ | {"offset_mapping": [[0, 1]]}, False, "windows[0].offset_mapping: 5 pairs of character offsets"),
        (SPAN | READ | {"answer": "Anna"}, False, "answer: 'Anna': {\"text\": [...], "),
    ],
)
def test_a_bad_window_is_named(
    tmp_path: Path, tiny_model_dir: Callable[[str], Path], line: dict[str, Any], training: bool, message: str
) -> None:
    path = write_rows(tmp_path / "squad_train.json", [SPAN | READ | {"uid": "good"}, line])
    with pytest.raises(UserError) as caught:
        load_features(QA, "train", tmp_path, tokenizer_of(tiny_model_dir("bert")), 64, tmp_path / "c", training)
    (fault,) = caught.value.faults
    assert fault.startswith(f"{path}:2: {message}")


def test_windows_of_a_question_follow_each_other(tmp_path: Path) -> None:
    from mtrobust.data.rows import read_rows

    path = write_rows(tmp_path / "train.json", [SPAN, SPAN, SPAN | {"uid": "r"}])
    assert [(row["id"], len(row["windows"])) for row in read_rows(QA, path)] == [("q", 2), ("r", 1)]
    write_rows(path, [SPAN, SPAN | {"uid": "r"}, SPAN])
    with pytest.raises(UserError, match=f"{path}:3: id: 'q': used before, at 1"):
        read_rows(QA, path)


def test_a_task_type_that_reads_no_token_ids_says_so_at_once(tmp_path: Path) -> None:
    from mtrobust.data.rows import read_rows

    task = TaskDef(name="mlm", task_type="MaskLM", data_format="MLM")
    path = write_rows(tmp_path / "mlm_train.json", [LINE] * 3)
    with pytest.raises(UserError) as caught:
        read_rows(task, path)
    (line,) = caught.value.faults
    assert line.startswith(f"{path}:1: token_id: MaskLM reads no token ids (supported: Classification, Regression, ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type_id": [[0, 0, 0]]}, "type_id: [[0, 0, 0]]: a list of 2 is needed, one for each candidate"),
        ({"olabel": [1]}, "olabel: [1]: a list of 2 is needed, one for each candidate"),
        ({"type_id": [[0, 0], [0, 0, 0]]}, "candidates[0].type_id: 2 numbers for 3 tokens"),
        ({"token_id": [[2, 9, 3], [0, 9, 3]]}, "candidates[1].token_id: begins with 0, not with the encoder's [CLS]"),
        ({"token_id": [[2, 9, 3]], "type_id": [[0] * 3], "olabel": [1]}, "candidates: at least 2 are"),
    ],
)
def test_a_bad_list_is_named(
    tmp_path: Path, tiny_model_dir: Callable[[str], Path], change: dict[str, Any], message: str
) -> None:
    line = {"uid": "0", "label": 0, "token_id": [[2, 9, 3]] * 2, "type_id": [[0] * 3] * 2, "olabel": [1, 0]}
    path = write_rows(tmp_path / "copa_train.json", [line, line | {"uid": "1"} | change])
    with pytest.raises(UserError) as caught:
        load_features(LISTS, "train", tmp_path, tokenizer_of(tiny_model_dir("bert")), 64, tmp_path / "c", training=True)
    assert caught.value.faults[0].startswith(f"{path}:2: {message}")


@pytest.mark.parametrize(
    ("labels", "change", "message"),
    [
        (NER, {"label": [10, 1]}, "tags: 2 tags for 3 tokens; a list of as many tags is needed"),
        (NER, {"label": [10, 1, 12]}, "tags[2]: 12: unknown (allowed: O, B-MISC, "),
        (NER, {"token_id": [0, 9, 3]}, "token_id: begins with 0, not with the encoder's [CLS]"),
        (NER[:9], {}, "token_id: the definition's labels lack X, CLS, SEP, which MT-DNN gives to tokens that begin no"),
    ],
)
def test_a_bad_line_of_tags_is_named(
    tmp_path: Path, tiny_model_dir: Callable[[str], Path], labels: list[str], change: dict[str, Any], message: str
) -> None:
    task = TaskDef(name="ner", task_type="SequenceLabeling", data_format="Sequence", labels=labels)
    line = {"uid": "0", "label": [10, 1, 11], "token_id": [2, 9, 3], "type_id": [0] * 3} | change
    path = write_rows(tmp_path / "ner_train.json", [line])
    with pytest.raises(UserError) as caught:
        load_features(task, "train", tmp_path, tokenizer_of(tiny_model_dir("bert")), 64, tmp_path / "c", training=True)
    assert caught.value.faults[0].startswith(f"{path}:1: {message}")


def test_an_attack_says_that_it_needs_texts(tmp_path: Path) -> None:
    from mtrobust.evaluation.attacks.target import labelled_rows

    path = write_rows(tmp_path / "mood_dev.json", [LINE])
    with pytest.raises(UserError, match=f"--split: {path}: has rows of token ids; an attack changes words"):
        labelled_rows(MOOD, tmp_path, "dev")
