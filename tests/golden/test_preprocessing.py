"""MT-DNN's recorded token ids and types, from our sequence tasks with the 30522-entry uncased vocabulary."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mtrobust.tasks.taskdef import TaskDef
from tests.golden.exemptions import Ledger

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THREE_WAY = ["contradiction", "neutral", "entailment"]
MTDNN_LABELS = {
    **dict.fromkeys(["mnli", "snli", "anli"], THREE_WAY),
    **dict.fromkeys(["qnli", "rte"], ["not_entailment", "entailment"]),
    "scitail": ["neutral", "entails"],
}
REGRESSION = {"stsb"}


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "preprocessing" / "prepro.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer(real_model: Path, recorded: dict[str, Any]) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    digest = hashlib.sha256((real_model / "vocab.txt").read_bytes()).hexdigest()
    assert digest == recorded["vocab"]["sha256_of_vocab_txt"], "another vocabulary than the recorded one"
    return AutoTokenizer.from_pretrained(real_model)


def definition(task: str, pair: bool) -> TaskDef:
    kind = {"task_type": "Regression", "n_class": 1} if task in REGRESSION else {"task_type": "Classification"}
    if task not in REGRESSION:
        kind["labels"] = MTDNN_LABELS.get(task, ["0", "1"])
    return TaskDef(name=task, data_format="PremiseAndOneHypothesis" if pair else "PremiseOnly", **kind)


def encode(
    tokenizer: PreTrainedTokenizerBase, text: str, pair: str | None, max_len: int, task: str = "cola", label: Any = None
) -> dict[str, Any]:
    """The one feature of one row, through the same two steps as data files go."""
    kind = definition(task, pair is not None).type
    row = kind.parse_row({"id": "0", "text": text, "label": label} | ({} if pair is None else {"text_pair": pair}))
    (feature,) = kind.featurize([row], tokenizer, max_len, training=True)
    return feature


def test_recorded_rows(recorded: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    ledger = Ledger("preprocessing")
    for case in recorded["cases"]:
        name = f"{case['source'].replace('/', '_')}.{case['task']}.{case['split']}.{case['uid']}"
        ledger.see([name] + [f"{name}/{field}" for field in case if field == "roberta_base_expected"])
        label = case.get("raw_label", case["label"])
        feature = encode(tokenizer, case["premise"], case["hypothesis"], 512, case["task"], label)
        assert feature["input_ids"].tolist() == case["expected_token_id"], name
        assert feature["token_type_ids"].tolist() == case["expected_type_id"], name
        assert feature["labels"] == case["label"], name
        ledger.done(name)
    ledger.close()


def test_word_pieces(recorded: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    ledger = Ledger("preprocessing")
    kind = definition("cola", pair=False).type
    for case in recorded["wordpiece_extra"]:
        ledger.see([case["id"]])
        row = {"id": case["id"], "text": case["text"]}  # unchecked: one recorded text is blank, which rows may not be
        (feature,) = kind.featurize([row], tokenizer, 512, training=True)
        assert feature["input_ids"].tolist() == case["token_id"], case["id"]
        ledger.done(case["id"])
    ledger.close()


def test_the_longer_text_is_cut_first(recorded: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    ledger = Ledger("preprocessing")
    for case in recorded["truncation_longest_first"]:
        ledger.see([case["id"]])
        feature = encode(tokenizer, case["premise"], case["hypothesis"], case["max_length"])
        assert feature["input_ids"].tolist() == case["token_id"], case["id"]
        assert feature["token_type_ids"].tolist() == case["type_id"], case["id"]
        ledger.done(case["id"])
    ledger.close()


def test_files_without_a_test_are_in_the_list(golden: Path) -> None:
    ledger = Ledger("preprocessing")
    ledger.see(path.stem for path in (golden / "preprocessing").iterdir() if path.name != "prepro.json")
    ledger.close()
