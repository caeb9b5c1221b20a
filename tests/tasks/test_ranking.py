"""Lists of candidates: definitions, rows, features, the losses in closed form, views, metrics, decoding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mtrobust.data.collator import Collator
from mtrobust.errors import RunError
from mtrobust.tasks.base import Batch, RowError
from mtrobust.tasks.metrics import METRICS
from mtrobust.tasks.ranking_head import LIST_LOSSES, RankingHead
from mtrobust.tasks.taskdef import TaskDef, load_task_defs

TEXTS = ["A cat slept.", "The dog won the market.", "It was built."]


def task(kind: str = "Ranking", **more: Any) -> TaskDef:
    return TaskDef(name="t", task_type=kind, data_format="PremiseAndMultiHypothesis", **more)


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir("bert"))


def row(label: Any = None, kind: str = "Ranking", candidates: Any = TEXTS, **more: Any) -> dict[str, Any]:
    """A row as it is after parsing."""
    raw = {"id": "a", "text": "Where was it?", "candidates": candidates, "label": label, **more.pop("raw", {})}
    return raw | task(kind, **more).type.parse_row(raw)


# --- definitions and rows -----------------------------------------------------------------------------------------


def test_definitions():
    shipped = load_task_defs(["ranking"])
    assert shipped["squad_sentences"].metric_meta == ["TopACC", "MRR"] and shipped["qnli_lists"].n_class == 1
    assert task().metric_meta == ["TopACC"] and task().type.main_metric() == "acc"
    assert task(metric_meta=["MRR"]).type.main_metric() == "mrr"
    assert task(head_input="mean", ranking_loss="pairwise").faults() == [] and task(enable_san=True).faults() == []
    old = {"loss": "RankCeCriterion", "kd_loss": "MseCriterion", "adv_loss": "SymKlCriterion", "n_class": 1}
    assert task(metric_meta=["ACC"], labels=["not_entailment", "entailment"], **old).faults() == []


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        (task(n_class=2), "n_class: 2: Ranking has 1 output"),
        (task(labels=["a", "b", "c"]), "labels: a, b, c: Ranking has none, or two"),
        (task("MultipleChoice", labels=["a", "b"]), "labels: MultipleChoice has numbers of choices"),
        (task("MultipleChoice", metric_meta=["MRR"]), "metric_meta: MRR: MultipleChoice has TopACC"),
        (task("MultipleChoice", head_input="mean"), "head_input: mean: only for Classification, Regression, Ranking;"),
        (task("MultipleChoice", enable_san=True), "enable_san: true: reads two texts (supported: Classification,"),
        (task(kd_weight=0.2), "kd_weight: only for Classification, Regression"),
        (task(loss="CeCriterion"), "loss: CeCriterion: Ranking is trained with RankCeCriterion"),
        (
            TaskDef(name="t", task_type="Regression", data_format="PremiseOnly", ranking_loss="pairwise"),
            "ranking_loss: only for lists of candidates (data_format PremiseAndMultiHypothesis)",
        ),
    ],
)
def test_faults_of_definitions(made, fault):
    (found,) = made.faults()
    assert found.startswith(fault)


def test_rows():
    assert row(2)["label"] == 2 and row([0, 0.5, 3])["label"] == [0.0, 0.5, 3.0] and row(None)["label"] is None
    assert row(["no", "yes", "no"], labels=["no", "yes"])["label"] == [0.0, 1.0, 0.0]
    assert row([0, 1, 0], "MultipleChoice")["label"] == [0.0, 1.0, 0.0]
    assert not task().type.is_labelled(row(None)) and task().type.is_labelled(row(0))


def test_numbers_that_are_names_are_these_names():
    assert row([2, 1, "2"], labels=["1", "2"])["label"] == [1.0, 0.0, 1.0]
    assert row([np.int64(0), np.int64(1), 0], labels=["1", "0"])["label"] == [1.0, 0.0, 1.0]
    made = row([np.float32(0.5), 0, np.int64(3)])["label"]
    assert made == [0.5, 0.0, 3.0] and all(type(gain) is float for gain in made)
    assert row(np.int64(2))["label"] == 2 and type(row(np.int64(2))["label"]) is int
    lists = {"id": "a", "candidates": [{"token_id": [9], "type_id": [0]}] * 3, "label": [0, 1, 1]}
    kind = task(labels=["1", "0"]).type
    assert kind.parse_row(lists)["label"] == [0.0, 1.0, 1.0], "preprocessed lines have numbers"


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"text": " "}, "text", "is empty"),
        ({"candidates": None}, "candidates", "is missing; a list of texts"),
        ({"candidates": "a"}, "candidates", "is 'a'; a list of at least 2 texts"),
        ({"candidates": ["a"]}, "candidates", "at least 2"),
        ({"candidates": ["a", 3]}, "candidates[1]", "is int 3"),
        ({"candidates": ["a", ""]}, "candidates[1]", "is empty"),
        ({"label": 3}, "label", "3: allowed: the number of the right candidate, 0 to 2, or a list of 3 numbers"),
        ({"label": -1}, "label", "allowed"),
        ({"label": True}, "label", "allowed"),
        ({"label": "b"}, "label", "allowed"),
        ({"label": [0, 1]}, "label", "a list of 3 numbers"),
        ({"label": [0, 0, 0]}, "label", "no candidate is right; leave the label out"),
        ({"label": [0, -1, 1]}, "label", "at least 0"),
        ({"label": [0, "x", 1]}, "label", "at least 0"),
        ({"label": [0, 10**400, 1]}, "label", "at least 0"),
        ({"label": [0, 1e300, 1]}, "label", "[0, 1e+300, 1]: a number that is at least 0 and at most 3.4e+38"),
        ({"label": [0, float("nan"), 1]}, "label", "at least 0"),
    ],
)
def test_bad_rows(changes, field, message):
    with pytest.raises(RowError) as caught:
        task().type.parse_row({"id": "a", "text": "t", "candidates": TEXTS, "label": 0} | changes)
    assert caught.value.field == field and message in caught.value.message


def test_bad_rows_of_multiple_choice():
    for label in ([1, 1, 0], [0, 2, 0]):
        with pytest.raises(RowError, match="exactly one choice is right"):
            row(label, "MultipleChoice")
    with pytest.raises(RowError, match="context: is empty"):
        row(0, "MultipleChoice", raw={"context": ""})


# --- features -----------------------------------------------------------------------------------------------------


def test_a_feature_per_candidate(tokenizer):
    made = task().type.featurize([row(1), row([0.0, 2.0], candidates=TEXTS[:2]), row(None)], tokenizer, 24, True)
    assert [(f["row"], f["place"], f["gains"], f["labelled"]) for f in made] == [
        (0, 0, 0.0, True), (0, 1, 1.0, True), (0, 2, 0.0, True), (1, 0, 0.0, True), (1, 1, 2.0, True),
        (2, 0, 0.0, False), (2, 1, 0.0, False), (2, 2, 0.0, False),
    ]  # fmt: skip
    assert made[1]["input_ids"].tolist() == tokenizer("Where was it?", TEXTS[1])["input_ids"]
    assert made[1]["token_type_ids"].tolist() == tokenizer("Where was it?", TEXTS[1])["token_type_ids"]
    short = task().type.featurize([row(1)], tokenizer, 10, True)
    assert max(len(f["input_ids"]) for f in short) == 10


def test_the_second_text_begins_where_san_asks(tokenizer):
    (made, *_) = task(enable_san=True).type.featurize([row(1)], tokenizer, 24, True)
    assert tokenizer.decode(made["input_ids"][made["second"] :]).startswith("a cat")


def test_a_context_stands_first(tokenizer):
    kind = task("MultipleChoice").type
    (made, *_) = kind.featurize([row(1, "MultipleChoice", raw={"context": "The river."})], tokenizer, 40, True)
    assert made["input_ids"].tolist() == tokenizer("The river.", "Where was it? A cat slept.")["input_ids"]
    (made, *_) = task().type.featurize([row(1, raw={"context": "The river."})], tokenizer, 40, True)
    assert made["input_ids"].tolist() == tokenizer("Where was it?", "A cat slept.")["input_ids"], "a column as any"


# --- the head -----------------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """Gives the scores that it was told."""

    first_only = True


def batch(place: list[int], gains: list[float], labelled: list[bool]) -> Batch:
    targets = {"place": torch.tensor(place), "gains": torch.tensor(gains), "labelled": torch.tensor(labelled)}
    ids = torch.zeros(len(place), 1, dtype=torch.long)
    return Batch("t", {"input_ids": ids, "attention_mask": ids + 1}, targets, torch.arange(len(place)))


PLACE, LABELLED = [0, 1, 2, 0, 1, 0, 1], [True] * 3 + [False] * 2 + [True] * 2
GAINS, SCORES = [0.0, 1.0, 0.0, 0.0, 0.0, 3.0, 1.0], [0.2, 1.5, -0.3, 9.0, -9.0, 0.7, 1.1]


def out() -> dict[str, torch.Tensor]:
    return {"logits": torch.tensor(SCORES).unsqueeze(1).requires_grad_(True)}


def test_the_listwise_loss_in_closed_form():
    head, given = RankingHead(Fixed()), batch(PLACE, GAINS, LABELLED)
    made = out()
    loss = head.loss(made, given)
    first = -1.5 + math.log(sum(map(math.exp, SCORES[:3])))
    both = math.log(math.exp(0.7) + math.exp(1.1))
    last = 0.75 * (both - 0.7) + 0.25 * (both - 1.1)
    torch.testing.assert_close(loss.detach(), torch.tensor([first, 0, 0, 0, 0, last, 0]))
    assert int(head.count(given)) == 2 and int(head.items(given)) == 3
    loss.sum().backward()
    grad = made["logits"].grad[:, 0]
    assert (grad[3:5] == 0).all(), "a list without a label"
    torch.testing.assert_close(grad[5:], torch.tensor([0.7, 1.1]).softmax(0) - torch.tensor([0.75, 0.25]))


def test_the_pairwise_loss_in_closed_form():
    head, given = RankingHead(Fixed(), "pairwise"), batch(PLACE, GAINS, LABELLED)
    soft = lambda x: math.log1p(math.exp(x))  # noqa: E731
    wanted = [(soft(0.2 - 1.5) + soft(-0.3 - 1.5)) / 2, soft(1.1 - 0.7)]
    made = out()
    loss = head.loss(made, given)
    torch.testing.assert_close(loss.detach(), torch.tensor([wanted[0], 0, 0, 0, 0, wanted[1], 0]))
    loss.sum().backward()
    assert torch.isfinite(made["logits"].grad).all()
    equal = LIST_LOSSES["pairwise"](torch.tensor([[1.0, 5.0]]), torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool))
    assert float(equal) == 0, "no pair to learn from"


def test_a_list_s_loss_does_not_depend_on_its_neighbours():
    for name in LIST_LOSSES:
        head = RankingHead(Fixed(), name)
        whole = head.loss(out(), batch(PLACE, GAINS, LABELLED))
        part = head.loss({"logits": out()["logits"][5:]}, batch(PLACE[5:], GAINS[5:], LABELLED[5:]))
        torch.testing.assert_close(whole[5:], part)


def test_the_view_is_one_item_per_list():
    (view,) = RankingHead(Fixed()).views(out(), batch(PLACE, GAINS, LABELLED))
    assert view.row.tolist() == [0, 3, 5] and view.kind == "categorical"
    assert view.support.tolist() == [[True, True, True], [True, True, False], [True, True, False]]
    assert view.logits[view.support].tolist() == pytest.approx(SCORES)


@pytest.mark.parametrize("place", [[1, 2, 0, 1], [0, 2, 0, 1], [0, 1, 1, 0], [0, 0, 1, 3]])
def test_torn_lists_are_refused(place):
    given = batch(place, [1.0] * 4, [True] * 4)
    made = {"logits": torch.zeros(4, 1)}
    for ask in (RankingHead(Fixed()).loss, RankingHead(Fixed()).views):
        with pytest.raises(RunError, match="t: a batch has lists without their first candidates, or in another order"):
            ask(made, given)


# --- decoding and scores ------------------------------------------------------------------------------------------


def test_decode_and_score(tokenizer):
    kind = task(metric_meta=["ACC", "MRR", "MAP", "NDCG"]).type
    rows = [row(1), row([1, 0], candidates=TEXTS[:2]), row(None)]
    features = kind.featurize(rows, tokenizer, 24, False)
    scores = [0.5, 0.1, -2.0, 3.0, 1.0, 0.0, 0.0, 1.0]
    outputs = [{"logits": np.array([score])} for score in scores]
    made = kind.decode(rows, features, outputs)
    assert [p.record for p in made] == [
        {"id": "a", "prediction": 0, "scores": [0.5, 0.1, -2.0], "label": 1},
        {"id": "a", "prediction": 0, "scores": [3.0, 1.0], "label": [1.0, 0.0]},
        {"id": "a", "prediction": 2, "scores": [0.0, 0.0, 1.0]},
    ]
    found = kind.score(rows, made)
    ndcg = 50 * (1 / math.log2(3) + 1)
    assert found == pytest.approx({"acc": 50.0, "mrr": 75.0, "map": 75.0, "ndcg": ndcg})
    assert kind.score(rows[2:], made[2:]) == {}


def test_metrics_of_several_right_candidates():
    gains, scores = [[0.0, 2.0, 1.0, 0.0]], [[0.9, 0.5, 0.7, 0.1]]
    assert METRICS["TopACC"](gains, scores) == {"acc": 0.0}
    assert METRICS["MRR"](gains, scores) == {"mrr": 50.0}
    assert METRICS["MAP"](gains, scores)["map"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
    assert METRICS["TopACC"](gains, [[0, 3, 1, 1]]) == {"acc": 100.0} == METRICS["TopACC"]([[1, 1]], [[0, 4]])


def test_equal_scores_gain_nothing():
    gains, scores = [[1.0, 0.0, 0.0]], [[0.25, 0.25, 0.25]]
    assert METRICS["TopACC"](gains, scores) == {"acc": 0.0}
    assert METRICS["MRR"](gains, scores)["mrr"] == pytest.approx(100 / 3)


def test_a_batch_from_features(tokenizer):
    kind = task().type
    made = Collator(task(), tokenizer.pad_token_id)(kind.featurize([row(1), row(None)], tokenizer, 24, True))
    assert made.targets["place"].tolist() == [0, 1, 2] * 2 and made.targets["labelled"].tolist() == [True] * 3 + [
        False
    ] * 3
    head = RankingHead(Fixed())
    loss = head.loss({"logits": torch.zeros(6, 1)}, made)
    torch.testing.assert_close(loss, torch.tensor([math.log(3), 0, 0, 0, 0, 0]))
