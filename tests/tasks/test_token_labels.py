"""Sequence labelling: definitions, rows, alignment of words and tokens, the head, decoding, chunk scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mtrobust.data.collator import Collator
from mtrobust.tasks.base import HeadInput, RowError
from mtrobust.tasks.metrics import METRICS
from mtrobust.tasks.taskdef import TaskDef, load_task_defs
from mtrobust.tasks.token_head import TokenHead
from mtrobust.tasks.token_labels import first_tokens, word_starts
from tests.tiny import FAMILIES

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
WORDS = ["naïve", "Zürich", "(2-1)", "was", "won", "!", "in", "café", "New York", "river"]
TAGS = ["B-PER", "I-PER", "O", "O", "O", "O", "O", "O", "B-LOC", "I-LOC"]


def task(**more: Any) -> TaskDef:
    return TaskDef(**{"name": "t", "task_type": "SequenceLabeling", "data_format": "Sequence", "labels": LABELS} | more)


@pytest.fixture(scope="module")
def tokenizer_of(tiny_model_dir):
    from transformers import AutoTokenizer

    return lambda family: AutoTokenizer.from_pretrained(tiny_model_dir(family))


def row(tags: Any = TAGS, tokens: Any = WORDS, definition: TaskDef | None = None, **more: Any) -> dict[str, Any]:
    raw = {"id": "a", "tokens": tokens, "tags": tags, **more}
    return raw | (definition or task()).type.parse_row(raw)


# --- definitions and rows -----------------------------------------------------------------------------------------


def test_definitions():
    assert set(load_task_defs(["ner"])) == {"ner", "entities"}
    assert task().metric_meta == ["SeqEval"] and task().type.main_metric() == "f1" and task().faults() == []
    pos = task(labels=["DET", "NOUN"], metric_meta=["ACC"])
    assert pos.faults() == [] and pos.metric_meta == ["TagACC"] and pos.type.main_metric() == "acc"
    (fault,) = task(labels=["DET", "NOUN"]).faults()
    assert fault.startswith("metric_meta: SeqEval: is for chunks, with labels O, B-NAME, I-NAME")
    (fault,) = task(labels=["O"], metric_meta=["ACC"]).faults()
    assert fault == "n_class: 1: SequenceLabeling needs at least 2 labels"
    (fault,) = task(head_input="first").faults()
    assert fault.startswith("head_input: first: only for")
    assert task(metric_meta=["NERACC"]).metric_meta == ["SeqEval"], "an old name"


def test_without_seqeval_the_command_that_installs_it_is_named(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "seqeval" else real(name))
    (fault,) = task().faults()
    assert fault == "metric_meta: SeqEval: needs a further package: pip install 'mtrobust[seqlabel]'"
    assert task(metric_meta=["ACC"]).faults() == []


def test_rows():
    assert row()["label"] == [1, 2, 0, 0, 0, 0, 0, 0, 3, 4] == row([1, 2, 0, 0, 0, 0, 0, 0, "B-LOC", 4])["label"]
    assert row(None)["label"] is None and not task().type.is_labelled(row(None))


def test_a_number_that_is_a_name_is_that_name():
    made = task(labels=["1", "2", "X", "CLS", "SEP"], metric_meta=["ACC"])
    assert row([1, "2", "X", np.int64(2)], list("abcd"), made)["label"] == [0, 1, 2, 1]
    line = {"id": "a", "token_id": [9, 9, 9, 9], "type_id": [0] * 4, "label": [3, 0, 1, 4]}
    assert made.type.parse_row(line)["label"] == [0, 1], "preprocessed lines have ids"


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"tokens": None}, "tokens", "is missing; a list of words is needed"),
        ({"tokens": []}, "tokens", "is []; a list of words"),
        ({"tokens": "a b"}, "tokens", "is 'a b'; a list of words"),
        ({"tokens": ["a", " "]}, "tokens[1]", "is empty"),
        ({"tokens": ["a", "\ud800"]}, "tokens[1]", "holds half of a surrogate pair"),
        ({"tokens": ["a", None]}, "tokens[1]", "is missing"),
        ({"tags": ["O"]}, "tags", "1 tags for 2 tokens"),
        ({"tags": "O O"}, "tags", "'O O' for 2 tokens"),
        ({"tags": ["O", "B-PRE"]}, "tags[1]", "'B-PRE': unknown; did you mean 'B-PER'? (allowed: O, B-PER"),
        ({"tags": ["O", 5]}, "tags[1]", "5: unknown"),
        ({"tags": ["O", True]}, "tags[1]", "True: unknown"),
        ({"tags": ["O", None]}, "tags[1]", "None: unknown"),
        ({"tags": ["O", ["O"]]}, "tags[1]", "['O']: unknown"),
    ],
)
def test_bad_rows(changes, field, message):
    with pytest.raises(RowError) as caught:
        task().type.parse_row({"id": "a", "tokens": ["a", "b"], "tags": ["O", "O"]} | changes)
    assert caught.value.field == field and message in caught.value.message


# --- alignment ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_each_word_has_one_first_token(family, tokenizer_of):
    tokenizer = tokenizer_of(family)
    (made,) = task().type.featurize([row()], tokenizer, 128, True)
    places = np.flatnonzero(made["word"] >= 0)
    assert made["word"][places].tolist() == list(range(len(WORDS))) and made["cut"] == 0
    assert [LABELS[i] for i in made["labels"][places]] == TAGS
    text = " ".join(WORDS)
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    at = 0
    for place, word in zip(places, WORDS, strict=True):
        begin, end = offsets[place]
        assert begin in (at - 1, at) and end > at, f"{word}: begins at {at}, its token covers {begin} to {end}"
        at += len(word) + 1


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_it_is_what_presplit_words_give(family, tokenizer_of):
    tokenizer = tokenizer_of(family)
    (made,) = task().type.featurize([row()], tokenizer, 128, True)
    other = tokenizer(WORDS, is_split_into_words=True)
    assert made["input_ids"].tolist() == other["input_ids"]
    firsts = [i for i, word in enumerate(other.word_ids()) if word is not None and word != (other.word_ids()[i - 1])]
    assert np.flatnonzero(made["word"] >= 0).tolist() == firsts


def test_words_beyond_the_length_and_without_a_token(tokenizer_of):
    tokenizer = tokenizer_of("bert")
    kind = task().type
    rows = [row(), row(["O", "B-LOC"], ["\u200b", "river"])]
    made = kind.featurize(rows, tokenizer, 16, True)
    assert made[1]["cut"] == 1 and made[1]["word"].max() == 1, "nothing is left of a zero-width space"
    seen = len(np.flatnonzero(made[0]["word"] >= 0))
    assert 0 < seen < len(WORDS) and made[0]["cut"] == len(WORDS) - seen and len(made[0]["input_ids"]) == 16
    said = kind.remark(lambda name: np.array([feature[name] for feature in made]))
    assert said.startswith(f"{len(WORDS) - seen + 1} of {len(WORDS) + 2} words, in 2 of 2 rows, are beyond max_len")
    assert said.endswith("predicted as O") and kind.remark(lambda name: np.zeros(2, dtype=int)) is None
    outputs = [{"tag": np.full(len(feature["word"]), 3.0)} for feature in made]
    predictions = kind.decode(rows, made, outputs)
    assert predictions[0].record["prediction"] == ["B-LOC"] * seen + ["O"] * (len(WORDS) - seen)
    assert predictions[0].record["cut"] == len(WORDS) - seen
    assert predictions[1].record == {"id": "a", "prediction": ["O", "B-LOC"], "cut": 1, "label": ["O", "B-LOC"]}
    pos = task(labels=["DET", "NOUN"], metric_meta=["ACC"])
    ours = row(["DET"] * 10, definition=pos)
    (cut,) = pos.type.featurize([ours], tokenizer, 16, True)
    (prediction,) = pos.type.decode([ours], [cut], [{"tag": np.zeros(16)}])
    assert prediction.record["prediction"] == ["DET"] * seen + [None] * (10 - seen)
    assert pos.type.score([ours], [prediction]) == {"acc": 10.0 * seen}, "what is cut counts as wrong"


def test_first_tokens_by_offsets():
    text, owner = word_starts(["ab", "c"])
    assert text == "ab c" and owner.tolist() == [0, 0, -1, 1]
    offsets = [(0, 0), (0, 1), (1, 2), (2, 4), (0, 0)]
    assert first_tokens(offsets, owner).tolist() == [-1, 0, -1, 1, -1], "the space counts to the word behind it"
    assert first_tokens([(0, 2), (2, 3), (3, 4)], owner).tolist() == [0, -1, 1], "a token of a space alone is no word's"


# --- the head -----------------------------------------------------------------------------------------------------


class Fixed:
    """Stands for an encoder: its head gives the states themselves."""

    def family_head(self, kind: str, n: int, dropout: Any) -> nn.Module:
        assert kind == "token" and n == 5

        class Net(nn.Module):
            def forward(self, last, pooled, inputs):
                return last

        return Net()


@pytest.fixture
def batch(tokenizer_of):
    tokenizer, kind = tokenizer_of("bert"), task().type
    features = kind.featurize([row(), row(None), row(["O", "B-LOC"], ["the", "river"])], tokenizer, 64, True)
    return Collator(task(), tokenizer.pad_token_id)(features)


def test_the_loss_is_the_mean_over_words(batch):
    head = TokenHead(Fixed(), 5, None)
    logits = torch.randn(*batch.inputs["input_ids"].shape, 5, requires_grad=True)
    out = head(HeadInput(logits, None), batch)
    loss = head.loss(out, batch)
    for i, tags in ((0, row()["label"]), (2, [0, 3])):
        places = (batch.targets["word"][i] >= 0).nonzero()[:, 0]
        wanted = -logits[i, places].log_softmax(-1)[torch.arange(len(tags)), torch.tensor(tags)].sum()
        torch.testing.assert_close(loss[i], wanted)
    assert loss[1] == 0 and int(head.count(batch)) == 12 and int(head.items(batch)) == 22
    loss.sum().backward()
    begins = batch.targets["word"] >= 0
    begins[1] = False
    assert ((logits.grad.abs().sum(-1) > 0) == begins).all(), "first tokens of labelled rows, nothing else"


def test_the_view_is_one_item_per_word(batch):
    head = TokenHead(Fixed(), 5, None)
    logits = torch.randn(*batch.inputs["input_ids"].shape, 5)
    (view,) = head.views({"logits": logits}, batch)
    assert view.logits.shape == (22, 5) and view.row.tolist() == [0] * 10 + [1] * 10 + [2] * 2 and view.support is None
    torch.testing.assert_close(view.logits[:10], logits[0, batch.targets["word"][0] >= 0])
    assert torch.equal(head.report({"logits": logits}, batch)["tag"], logits.argmax(-1))


# --- scores -------------------------------------------------------------------------------------------------------


def test_chunk_scores():
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-LOC", "O", "O"]]
    found = [["B-PER", "I-PER", "O", "O"], ["O", "B-LOC", "I-LOC", "O"]]
    assert METRICS["SeqEval"](gold, found) == pytest.approx({"f1": 40.0, "precision": 50.0, "recall": 100 / 3})
    assert METRICS["TagACC"](gold, found) == {"acc": 75.0}
    none = [["O"] * 4] * 2
    assert METRICS["SeqEval"](gold, none) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}


def test_the_labels_of_another_set():
    other = task(labels=["O", "B-HUMAN", "I-HUMAN"]).type
    given = row(["B-HUMAN", "O"], ["tom", "won"], task(labels=["O", "B-HUMAN", "I-HUMAN"]))
    names = {"O": "O", "B-PER": "B-HUMAN", "I-PER": "I-HUMAN", "B-LOC": "O", "I-LOC": "O"}
    (feature,) = [{"row": 0, "word": np.array([-1, 0, 1, -1]), "cut": 0}]
    blind = {**given, "label": None}
    (decoded,) = task().type.decode([blind], [feature], [{"tag": np.array([0, 1, 3, 0])}])
    made = other.carried(decoded, given, names)
    assert made.record == {"id": "a", "prediction": ["B-HUMAN", "O"], "label": ["B-HUMAN", "O"]}
    assert other.score([given], [made]) == {"f1": 100.0, "precision": 100.0, "recall": 100.0}
