"""Metrics by the names that task definitions use (MT-DNN's `metric_meta`), in percent.

A metric is called as `METRICS["F1"](labels, predictions)` and returns a dict of lower-case keys. What its `predictions`
are is said by `reads`: class ids, the score of the positive class, numbers, answer texts, figures of a row's tokens
(labels are then their numbers), the scores of a row's candidates (labels: how right each is), or a row's tags.
Undefined values (the correlation with a constant) are NaN; the reporter writes them as null and warns. scikit-learn,
scipy and seqeval are imported on the first call only, so that definitions can be checked without them.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mtrobust.registry import Registry
from mtrobust.tasks import squad_metrics

Reads = Literal["class", "score", "number", "answer", "tokens", "scores", "tags"]
Function = Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]


@dataclass(frozen=True)
class Metric:
    """A function of (labels, predictions) with what one needs to know before calling it.

    key: the entry of the result that stands for the metric when checkpoints are compared ("": none can); reads: what
    the predictions are; two_classes: it is defined for binary tasks only; of_a_row: it is a mean over rows.
    """

    key: str
    reads: Reads
    function: Function
    two_classes: bool = False
    of_a_row: bool = False

    def __call__(self, labels: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        """The values in percent (counts for CMAT). Raises `ValueError` when the lengths differ or nothing is given."""
        if len(labels) != len(predictions) or not len(labels):
            raise ValueError(f"{len(labels)} labels and {len(predictions)} predictions; the same number, at least 1")
        return self.function(labels, predictions)


METRICS: Registry[Metric] = Registry("metric")


def _metric(
    name: str, key: str, reads: Reads, two_classes: bool = False, of_a_row: bool = False
) -> Callable[[Function], Function]:
    def add(function: Function) -> Function:
        METRICS.register(name)(Metric(key, reads, function, two_classes, of_a_row))
        return function

    return add


@_metric("ACC", "acc", "class", of_a_row=True)
def accuracy(labels: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """Share of equal ids."""
    return {"acc": 100.0 * sum(a == b for a, b in zip(labels, predictions, strict=True)) / len(labels)}


def _f1(labels: Sequence[int], predictions: Sequence[int], average: str) -> float:
    from sklearn.metrics import f1_score

    return 100.0 * float(f1_score(labels, predictions, average=average, zero_division=0))


@_metric("F1", "f1", "class", two_classes=True)
def f1_binary(labels: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """F1 of class 1; 0 when neither side holds it."""
    return {"f1": _f1(labels, predictions, "binary")}


@_metric("F1MAC", "f1_macro", "class")
def f1_macro(labels: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """Unweighted mean of the F1 of the classes that occur on either side."""
    return {"f1_macro": _f1(labels, predictions, "macro")}


@_metric("F1MIC", "f1_micro", "class")
def f1_micro(labels: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """F1 over all decisions together (equals accuracy when each row has one label)."""
    return {"f1_micro": _f1(labels, predictions, "micro")}


@_metric("MCC", "mcc", "class")
def matthews(labels: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """Matthews correlation, times 100; 0 for constant labels or predictions."""
    from sklearn.metrics import matthews_corrcoef

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one class only: 0 by convention, no need to say it at every evaluation
        return {"mcc": 100.0 * float(matthews_corrcoef(labels, predictions))}


@_metric("AUC", "auc", "score", two_classes=True)
def auc(labels: Sequence[int], predictions: Sequence[float]) -> dict[str, float]:
    """Area under the ROC curve of the score of class 1; NaN when only one class occurs."""
    from sklearn.metrics import roc_auc_score

    return {"auc": 100.0 * float(roc_auc_score(labels, predictions)) if len(set(labels)) == 2 else float("nan")}


@_metric("CMAT", "", "class")
def confusion(labels: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """Confusion matrix as counts, `cmat_<label id>_<predicted id>`, up to the largest id that occurs."""
    ids = range(max(*labels, *predictions) + 1)
    pairs = Counter(zip(labels, predictions, strict=True))
    return {f"cmat_{i}_{j}": float(pairs[i, j]) for i in ids for j in ids}


def _correlation(name: str, labels: Sequence[float], predictions: Sequence[float]) -> float:
    from scipy import stats

    if len(labels) < 2 or len(set(labels)) == 1 or len(set(predictions)) == 1:
        return float("nan")
    return 100.0 * float(getattr(stats, name)(labels, predictions)[0])


@_metric("Pearson", "pearson", "number")
def pearson(labels: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Pearson's r, times 100; NaN for a constant side."""
    return {"pearson": _correlation("pearsonr", labels, predictions)}


@_metric("Spearman", "spearman", "number")
def spearman(labels: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Spearman's rank correlation, times 100; NaN for a constant side."""
    return {"spearman": _correlation("spearmanr", labels, predictions)}


@_metric("EmF1", "f1", "answer", of_a_row=True)
def squad(labels: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Exact match and F1 of the official SQuAD v1.1 script; labels are lists of accepted answers."""
    return squad_metrics.v1_scores(labels, predictions)


@_metric("EmF12", "f1", "answer")
def squad2(labels: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Exact match and F1 of the official SQuAD v2.0 script; no accepted answer = unanswerable, "" = abstained.

    Where both kinds of questions occur also `has_ans_em`, `has_ans_f1` and `no_ans_acc`.
    """
    return squad_metrics.v2_scores(labels, predictions)


@_metric("MaskAcc", "acc", "tokens")
def masked_accuracy(labels: Sequence[int], predictions: Sequence[tuple[int, float]]) -> dict[str, float]:
    """Share of masked tokens whose most probable token is the right one.

    labels: masked tokens per row; predictions: of each row (how many are right, their negative log-likelihood in nats).
    """
    return {"acc": 100.0 * sum(right for right, _ in predictions) / sum(labels)}


@_metric("PPL", "", "tokens")
def perplexity(labels: Sequence[int], predictions: Sequence[tuple[int, float]]) -> dict[str, float]:
    """exp of the mean negative log-likelihood of the masked tokens (lower is better, so it compares no checkpoints)."""
    mean = sum(nll for _, nll in predictions) / sum(labels)
    return {"ppl": math.exp(mean) if mean < 700 else math.inf}


def _ahead(gains: Sequence[float], scores: Sequence[float], least: float) -> int:
    """How many candidates with a gain below `least` stand before the first of the others. Those with an equal score do,
    so that a model that gives all the same score gains nothing."""
    best = max(score for gain, score in zip(gains, scores, strict=True) if gain >= least)
    return sum(gain < least and score >= best for gain, score in zip(gains, scores, strict=True))


@_metric("TopACC", "acc", "scores", of_a_row=True)
def top_accuracy(labels: Sequence[Sequence[float]], predictions: Sequence[Sequence[float]]) -> dict[str, float]:
    """Share of lists whose highest score is that of a candidate with the largest gain."""
    pairs = zip(labels, predictions, strict=True)
    return {"acc": 100.0 * sum(not _ahead(gains, scores, max(gains)) for gains, scores in pairs) / len(labels)}


@_metric("MRR", "mrr", "scores", of_a_row=True)
def reciprocal_rank(labels: Sequence[Sequence[float]], predictions: Sequence[Sequence[float]]) -> dict[str, float]:
    """Mean of 1 / (rank of the first candidate with a gain above 0)."""
    ranks = [1 + _ahead(gains, scores, min(g for g in gains if g > 0))
             for gains, scores in zip(labels, predictions, strict=True)]  # fmt: skip
    return {"mrr": 100.0 * sum(1 / rank for rank in ranks) / len(ranks)}


@_metric("MAP", "map", "scores", of_a_row=True)
def average_precision(labels: Sequence[Sequence[float]], predictions: Sequence[Sequence[float]]) -> dict[str, float]:
    """Mean over lists of the mean precision at the rank of each candidate with a gain above 0."""
    from sklearn.metrics import label_ranking_average_precision_score as of_list

    lists = zip(labels, predictions, strict=True)
    return {"map": 100.0 * sum(float(of_list([[g > 0 for g in gains]], [s])) for gains, s in lists) / len(labels)}


@_metric("NDCG", "ndcg", "scores", of_a_row=True)
def discounted_gain(labels: Sequence[Sequence[float]], predictions: Sequence[Sequence[float]]) -> dict[str, float]:
    """Mean over lists of the sum of gain / log2(1 + rank), over what the best order has; ties share their places."""
    from sklearn.metrics import ndcg_score

    lists = zip(labels, predictions, strict=True)
    return {"ndcg": 100.0 * sum(float(ndcg_score([gains], [s])) for gains, s in lists) / len(labels)}


@_metric("SeqEval", "f1", "tags")
def chunks(labels: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, float]:
    """F1, precision and recall of whole chunks, as conlleval has them (seqeval's default mode)."""
    from seqeval.metrics import f1_score, precision_score, recall_score

    measures = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # labels that name no chunk, such as those of special tokens in old files
        given, found = list(map(list, labels)), list(map(list, predictions))
        return {key: 100.0 * float(measure(given, found, zero_division=0)) for key, measure in measures.items()}


@_metric("TagACC", "acc", "tags")
def tag_accuracy(labels: Sequence[Sequence[str]], predictions: Sequence[Sequence[str | None]]) -> dict[str, float]:
    """Share of words with the right tag, over all rows together."""
    hits = sum(a == b for row, found in zip(labels, predictions, strict=True) for a, b in zip(row, found, strict=True))
    return {"acc": 100.0 * hits / sum(map(len, labels))}
