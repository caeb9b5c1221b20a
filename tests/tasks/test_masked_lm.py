"""Masked language modelling: definitions, blocks of long texts, which tokens are hidden, the head, decoding, scores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mtrobust.data.collator import Collator, evaluation_batches
from mtrobust.errors import UserError
from mtrobust.tasks.base import Batch, HeadInput, RowError
from mtrobust.tasks.heads import IGNORED, MaskedLMHead
from mtrobust.tasks.masked_lm import choose_tokens, random_tokens
from mtrobust.tasks.taskdef import TaskDef, load_task_defs
from tests.tiny import TEXT

KINDS = {"wordpiece": "bert", "byte-level BPE": "roberta", "sentencepiece": "xlm-roberta", "metaspace": "deberta-v2"}
ROWS = [{"id": str(i), "text": " ".join(TEXT[i % 6 :] + TEXT[: i % 3])} for i in range(8)]
ROWS.append({"id": "x", "text": "A cat."})


def lm(**more: Any) -> TaskDef:
    return TaskDef(name="lm", task_type="MaskLM", data_format="MLM", metric_meta=["MaskAcc", "PPL"], **more)


@pytest.fixture(scope="module")
def tokenizer_of(tiny_model_dir):
    from transformers import AutoTokenizer

    return lambda family: AutoTokenizer.from_pretrained(tiny_model_dir(family))


def features_of(tokenizer, task: TaskDef | None = None, rows=ROWS, max_len: int = 40) -> list[dict[str, Any]]:
    return (task or lm()).type.featurize(rows, tokenizer, max_len, training=True)


def batch_of(tokenizer, task: TaskDef, features, key: tuple[int, ...] = (5, 0)) -> Batch:
    return task.type.drawn(Collator(task, tokenizer.pad_token_id)(features), tokenizer, key)


# --- definitions and rows -----------------------------------------------------------------------------------------


def test_definitions():
    assert lm().faults() == [] and lm(mlm_probability=0.3, whole_word_masking=True).faults() == []
    assert "mlm" in load_task_defs(["mlm"])
    assert lm().type.main_metric() == "acc"
    (fault,) = TaskDef(name="a", task_type="MaskLM", data_format="MLM", metric_meta=["PPL"]).faults()
    assert fault.startswith("metric_meta: PPL: lower is better")
    (fault,) = lm(labels=["a", "b"], n_class=2).faults()
    assert fault.startswith("labels: MaskLM predicts the encoder's vocabulary")
    other = TaskDef(name="a", task_type="Regression", data_format="PremiseOnly", whole_word_masking=True)
    assert other.faults() == ["whole_word_masking: only for masked language models (data_format MLM)"]
    other = TaskDef(name="a", task_type="MaskLM", data_format="MLM", doc_stride=5)
    assert other.faults() == ["doc_stride: only for span tasks (data_format MRC)"]


def test_a_definition_of_mt_dnn_loads():
    more = {"n_class": 30522, "loss": "MlmCriterion", "split_names": ["train", "dev"]}
    task = TaskDef(name="mlm", task_type="MaskLM", data_format="MLM", metric_meta=["ACC"], **more)
    assert task.faults() == [] and task.metric_meta == ["MaskAcc"]


def test_rows():
    kind = lm().type
    assert kind.parse_row({"id": "a", "text": "A film.", "label": 1})["label"] == 1  # of no concern, kept
    assert kind.is_labelled({"text": "A film."})
    with pytest.raises(RowError, match="one text a row"):
        kind.parse_row({"id": "a", "text": "A film.", "text_pair": "Another."})
    with pytest.raises(RowError, match="empty"):
        kind.parse_row({"id": "a", "text": " "})


# --- features -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", KINDS.values(), ids=KINDS)
def test_long_texts_become_consecutive_blocks_and_nothing_is_lost(tokenizer_of, family):
    tokenizer = tokenizer_of(family)
    features = features_of(tokenizer, max_len=24)
    special = set(tokenizer.all_special_ids)
    assert len(features) > len(ROWS) and {feature["row"] for feature in features} == set(range(len(ROWS)))
    assert [feature["row"] for feature in features] == sorted(feature["row"] for feature in features)
    for row, content in enumerate(ROWS):
        blocks = [feature for feature in features if feature["row"] == row]
        whole = tokenizer(content["text"], add_special_tokens=False)["input_ids"]
        assert [t for block in blocks for t in block["input_ids"][1:-1].tolist()] == whole
        assert all(len(block["input_ids"]) == 24 for block in blocks[:-1])
        for block in blocks:
            ids, words = block["input_ids"].tolist(), block["word"]
            assert ids[0] in special and ids[-1] in special and block["labelled"]
            assert ((words == -1) == np.isin(ids, list(special))).all()
    assert len({feature["key"] for feature in features}) == len(features)
    again = features_of(tokenizer, rows=ROWS[3:], max_len=24)
    assert again[0]["key"] == next(f["key"] for f in features if f["row"] == 3), "the row's own, wherever it stands"


def test_a_tokenizer_without_a_mask_token_is_refused(tokenizer_of):
    with pytest.raises(UserError, match=r"lm\.task_type: MaskLM: the encoder's tokenizer has no mask token"):
        features_of(tokenizer_of("t5"))


def test_a_text_without_any_token_is_a_feature_that_counts_nothing(tokenizer_of):
    tokenizer, task = tokenizer_of("bert"), lm()
    features = features_of(tokenizer, rows=[{"id": "a", "text": "\u200b"}, {"id": "b", "text": "A cat."}])
    batch = batch_of(tokenizer, task, features)
    assert len(features) == 2 and (batch.targets["labels"][0] == IGNORED).all()
    assert (batch.targets["labels"][1] != IGNORED).sum() >= 1


# --- which tokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole_words", [False, True])
@pytest.mark.parametrize("share", [0.15, 0.4])
def test_the_share_of_chosen_tokens(share, whole_words):
    random = np.random.default_rng(1)
    lengths = np.random.default_rng(2).integers(1, 4, 60)
    words = np.concatenate([[-1], np.repeat(np.arange(60), lengths), [-1]])
    chosen = [choose_tokens(words, share, whole_words, random) for _ in range(400)]
    real = int((words >= 0).sum())
    assert np.mean([len(places) for places in chosen]) == pytest.approx(share * real, rel=0.01)
    counts = np.bincount(np.concatenate(chosen), minlength=len(words))
    assert counts[0] == counts[-1] == 0
    assert counts[1:-1] / 400 == pytest.approx(share, abs=0.12 if whole_words else 0.1), "every token has its turn"


@pytest.mark.parametrize("whole_words", [False, True])
@pytest.mark.parametrize("real", [1, 2, 3, 5])
def test_at_least_one_token_of_a_short_text(real, whole_words):
    words = np.array([-1, *range(real), -1, -1])
    for seed in range(20):
        places = choose_tokens(words, 0.15, whole_words, np.random.default_rng(seed))
        assert 1 <= len(places) <= 2 and set(places) <= set(range(1, real + 1))
    assert len(choose_tokens(np.array([-1, -1]), 0.15, whole_words, np.random.default_rng(0))) == 0


@pytest.mark.parametrize("family", KINDS.values(), ids=KINDS)
def test_whole_words_are_masked_together(tokenizer_of, family):
    tokenizer, task = tokenizer_of(family), lm(whole_word_masking=True, mlm_probability=0.3)
    # Words that the vocabulary of whole words does not have.
    more = [{"id": "y", "text": "The doctors saw rivers, bridges, teams and hearts, dogs and films, walls and prices."}]
    features = features_of(tokenizer, task, ROWS + more)
    split = several = 0
    for step in range(20):
        batch = batch_of(tokenizer, task, features, (5, step))
        for feature, labels in zip(features, batch.targets["labels"].numpy(), strict=True):
            masked = labels[: len(feature["word"])] != IGNORED
            for word in set(feature["word"].tolist()) - {-1}:
                of_word = masked[feature["word"] == word]
                split += not (of_word.all() or not of_word.any())
                several += bool(of_word.all()) and len(of_word) > 1
    assert split == 0 and several > 5
    single = batch_of(tokenizer, lm(mlm_probability=0.3), features)
    pairs = [(f["word"], labels.numpy()) for f, labels in zip(features, single.targets["labels"], strict=True)]
    chosen = [(words, words[labels[: len(words)] != IGNORED]) for words, labels in pairs]
    assert any(0 < (some == word).sum() < (words == word).sum() for words, some in chosen for word in set(some))


def test_eighty_ten_ten(tokenizer_of):
    tokenizer, task = tokenizer_of("bert"), lm(mlm_probability=0.5)
    features = features_of(tokenizer, task)
    before = Collator(task, tokenizer.pad_token_id)(features)
    fates = {"mask": 0, "kept": 0, "other": 0}
    for step in range(40):
        batch = batch_of(tokenizer, task, features, (5, step))
        masked = batch.targets["labels"] != IGNORED
        old, new = before.inputs["input_ids"], batch.inputs["input_ids"]
        assert torch.equal(batch.targets["labels"][masked], old[masked]) and torch.equal(new[~masked], old[~masked])
        fates["mask"] += int((new[masked] == tokenizer.mask_token_id).sum())
        fates["kept"] += int((new[masked] == old[masked]).sum())
        others = new[masked & (new != old) & (new != tokenizer.mask_token_id)]
        fates["other"] += len(others)
        assert not np.isin(others.numpy(), tokenizer.all_special_ids).any()
    shares = {name: count / sum(fates.values()) for name, count in fates.items()}
    assert shares == pytest.approx({"mask": 0.8, "kept": 0.1, "other": 0.1}, abs=0.02)


def test_random_tokens_are_all_but_the_special_ones():
    drawn = random_tokens(5000, 12, [0, 3, 4, 11], np.random.default_rng(0))
    assert sorted(set(drawn.tolist())) == [1, 2, 5, 6, 7, 8, 9, 10]


def test_a_row_is_masked_the_same_beside_whatever(tokenizer_of):
    tokenizer, task = tokenizer_of("bert"), lm()
    features = features_of(tokenizer, task)
    whole = batch_of(tokenizer, task, features)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    for i, feature in enumerate(features):
        alone = batch_of(tokenizer, task, [feature])
        length = len(feature["input_ids"])
        for part, of in ((whole.inputs["input_ids"], alone.inputs["input_ids"]),):
            assert torch.equal(part[i, :length], of[0])
        assert torch.equal(whole.targets["labels"][i, :length], alone.targets["labels"][0])
    assert torch.equal(state, torch.get_rng_state())
    assert all((whole.targets["labels"][i, len(f["word"]) :] == IGNORED).all() for i, f in enumerate(features))
    other = [batch_of(tokenizer, task, features, key).targets["labels"] for key in ((5, 1), (6, 0))]
    assert all(not torch.equal(labels, whole.targets["labels"]) for labels in other), "another step, another seed"


def test_evaluation_sees_the_same_every_time(tokenizer_of):
    tokenizer, task = tokenizer_of("bert"), lm()
    features = features_of(tokenizer, task)
    batches = evaluation_batches(task, tokenizer)
    first, again = batches(features), batches(features[::-1])
    assert torch.equal(first.targets["labels"], again.targets["labels"].flip(0))
    assert torch.equal(first.inputs["input_ids"], again.inputs["input_ids"].flip(0))


# --- head ---------------------------------------------------------------------------------------------------------


class Info:
    """As an encoder describes itself: a vocabulary of 11."""

    model_type, hidden_size, num_layers = "fake", 8, 2

    def family_head(self, kind: str, num_labels: int | None, dropout: float | None) -> nn.Module:
        assert (kind, num_labels) == ("mlm", None)
        linear = nn.Linear(8, 11, dtype=torch.float64)
        net = nn.Module()
        net.forward = lambda last, pooled, inputs: linear(last)  # type: ignore[method-assign]
        net.linear = linear
        return net


def masked_batch(labelled: tuple[bool, ...] = (True, True, True)) -> Batch:
    labels = torch.full((3, 5), IGNORED)
    labels[0, 1], labels[0, 3], labels[2, 2] = 4, 7, 10
    inputs = {"input_ids": torch.ones(3, 5, dtype=torch.int64), "attention_mask": torch.ones(3, 5, dtype=torch.int64)}
    return Batch("lm", inputs, {"labels": labels, "labelled": torch.tensor(labelled)}, torch.arange(3))


def test_losses_counts_views_and_report_by_hand():
    head, last = MaskedLMHead(Info(), None), torch.randn(3, 5, 8, dtype=torch.float64)
    batch = masked_batch()
    out = head(HeadInput(last, None), batch)
    logits = head.net.linear(last)
    assert torch.equal(out["logits"], logits[[0, 0, 2], [1, 3, 2]])
    nll = -logits.log_softmax(-1)
    expected = torch.stack([nll[0, 1, 4] + nll[0, 3, 7], torch.zeros(()).double(), nll[2, 2, 10]])
    torch.testing.assert_close(head.loss(out, batch), expected)
    assert head.count(batch) == 3 and head.items(batch) == 3
    (view,) = head.views(out, batch)
    assert view.row.tolist() == [0, 0, 2] and view.support is None and view.logits is out["logits"]
    report = head.report(out, batch)
    assert report.keys() == head.token_outputs and all(value.shape == (3, 5) for value in report.values())
    torch.testing.assert_close(report["nll"].sum(1), expected)
    assert torch.equal(report["masked"].bool(), batch.targets["labels"] != IGNORED)
    right = logits.argmax(-1) == batch.targets["labels"]
    assert torch.equal(report["hit"].bool(), right)


def test_an_unlabelled_row_has_views_but_no_loss():
    head, last = MaskedLMHead(Info(), None), torch.randn(3, 5, 8, dtype=torch.float64)
    batch = masked_batch((False, True, True))
    out = head(HeadInput(last, None), batch)
    assert head.loss(out, batch)[0] == 0 and head.count(batch) == 1 and head.items(batch) == 3
    assert len(head.views(out, batch)[0].row) == 3


def test_a_batch_with_nothing_masked():
    head = MaskedLMHead(Info(), None)
    batch = masked_batch()
    batch.targets["labels"][:] = IGNORED
    out = head(HeadInput(torch.randn(3, 5, 8, dtype=torch.float64), None), batch)
    assert out["logits"].shape == (0, 11) and head.count(batch) == 0
    head.loss(out, batch).sum().backward()
    assert head.report(out, batch)["nll"].abs().sum() == 0


# --- decoding and scores ------------------------------------------------------------------------------------------


def test_decoding_and_scores():
    task = lm()
    rows = [{"id": "a"}, {"id": "b"}, {"id": "c"}]
    features = [{"row": 0}, {"row": 0}, {"row": 1}, {"row": 2}]

    def tokens(*values: float) -> np.ndarray:
        return np.array(values, dtype=np.float32)

    outputs = [
        {"masked": tokens(0, 1, 1), "nll": tokens(0, 2, 0), "hit": tokens(0, 0, 1)},  # a loss of 0 counts as a token
        {"masked": tokens(1), "nll": tokens(1), "hit": tokens(0)},
        {"masked": tokens(0, 1), "nll": tokens(0, 5), "hit": tokens(0, 1)},
        {"masked": tokens(0), "nll": tokens(0), "hit": tokens(0)},
    ]
    made = task.type.decode(rows, features, outputs)
    assert [p.record for p in made] == [
        {"id": "a", "masked": 3, "right": 1, "nll": 1.0},
        {"id": "b", "masked": 1, "right": 1, "nll": 5.0},
        {"id": "c", "masked": 0, "right": 0, "nll": None},
    ]
    assert task.type.score(rows, made) == pytest.approx({"acc": 50.0, "ppl": math.exp(2)})
    assert task.type.score(rows[2:], made[2:]) == {}
    huge = task.type.decode(rows[:1], features[:1], [{**outputs[0], "nll": tokens(0, 5000, 0)}])
    assert task.type.score(rows[:1], huge)["ppl"] == math.inf
