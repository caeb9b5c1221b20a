"""Exact match and F1 of answers to SQuAD questions, equal to the official v1.1, v2.0 and MRQA scripts.

The three agree on how a text is normalised and differ in corner cases: v1.1 and MRQA give F1 = 0 where no token is
shared, even when both sides are empty; v2.0 drops accepted answers that normalise to nothing, takes a question without
any as answered by the empty text, and gives 1 for empty against empty. Sources: Rajpurkar et al. 2016 and 2018; Fisch
et al. 2019. All scores here are in [0, 1] per question and in percent for a set.
"""

from __future__ import annotations

import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case without ASCII punctuation and English articles, single spaces between words."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def _overlap(prediction: str, gold: str) -> tuple[float, bool]:
    """F1 over the bags of normalised words, and whether both bags are empty."""
    ours, theirs = normalize_answer(prediction).split(), normalize_answer(gold).split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    if not shared:
        return 0.0, not ours and not theirs
    precision, recall = shared / len(ours), shared / len(theirs)
    return 2 * precision * recall / (precision + recall), False


def v1_question(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    """(exact match, F1) of one question as v1.1 and MRQA score it: the best over the accepted answers, at least one."""
    exact = max(float(normalize_answer(prediction) == normalize_answer(gold)) for gold in golds)
    return exact, max(_overlap(prediction, gold)[0] for gold in golds)


def v2_question(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    """(exact match, F1) of one question as v2.0 scores it; no accepted answer means that it has none."""
    real = [gold for gold in golds if normalize_answer(gold)] or [""]
    exact = max(float(normalize_answer(prediction) == normalize_answer(gold)) for gold in real)
    f1 = max(max(score, float(empty)) for score, empty in (_overlap(prediction, gold) for gold in real))
    return exact, f1


def _percent(values: Sequence[float]) -> float:
    return 100.0 * sum(values) / len(values)


def v1_scores(golds: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """`em` and `f1` in percent over questions that all have an accepted answer."""
    pairs = [v1_question(text, accepted) for text, accepted in zip(predictions, golds, strict=True)]
    return {"em": _percent([em for em, _ in pairs]), "f1": _percent([f1 for _, f1 in pairs])}


def v2_scores(golds: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """`em`, `f1` in percent; with both kinds of questions also `has_ans_em`, `has_ans_f1`, `no_ans_acc`."""
    pairs = [v2_question(text, accepted) for text, accepted in zip(predictions, golds, strict=True)]
    scores = {"em": _percent([em for em, _ in pairs]), "f1": _percent([f1 for _, f1 in pairs])}
    has = [pair for pair, accepted in zip(pairs, golds, strict=True) if accepted]
    none = [pair for pair, accepted in zip(pairs, golds, strict=True) if not accepted]
    if has and none:
        scores["has_ans_em"] = _percent([em for em, _ in has])
        scores["has_ans_f1"] = _percent([f1 for _, f1 in has])
        scores["no_ans_acc"] = _percent([em for em, _ in none])
    return scores


def evaluate_v1(
    golds: Mapping[str, Sequence[str]], predictions: Mapping[str, str], skip_missing: bool = False
) -> dict[str, float]:
    """Official aggregate over a data set by question id: `exact_match` and `f1` in percent.

    A question without a prediction counts as wrong, with a warning (v1.1, MRQA); `skip_missing` leaves it out (MRQA's
    `--skip-no-answer`).
    """
    missing = [key for key in golds if key not in predictions]
    if missing and not skip_missing:
        warnings.warn(f"{len(missing)} questions have no prediction and count as wrong: {missing[:5]}", stacklevel=2)
    pairs = [v1_question(predictions[key], accepted) for key, accepted in golds.items() if key in predictions]
    total = len(pairs) if skip_missing else len(golds)
    if not total:
        raise ValueError("no question to score")
    return {
        "exact_match": 100.0 * sum(em for em, _ in pairs) / total,
        "f1": 100.0 * sum(f1 for _, f1 in pairs) / total,
    }


def best_threshold(
    scores: Mapping[str, float],
    answered: Mapping[str, bool],
    no_answer: Mapping[str, float],
    has_answer: Mapping[str, bool],
    start: float = 0.0,
) -> tuple[float, float]:
    """The best total in percent over all thresholds, and the threshold (questions with `no_answer` above it abstain).

    scores: per question with its prediction kept; answered: whether that prediction is not empty; start: the threshold
    that stands for abstaining everywhere. The official script uses 0, which is right for probabilities only.
    """
    total = best = float(sum(not has for has in has_answer.values()))
    threshold = start
    for key in sorted(no_answer, key=lambda k: no_answer[k]):
        if key not in scores:
            continue
        total += scores[key] if has_answer[key] else -float(answered[key])
        if total > best:
            best, threshold = total, no_answer[key]
    return 100.0 * best / len(scores), threshold


def evaluate_v2(
    golds: Mapping[str, Sequence[str]],
    predictions: Mapping[str, str],
    no_answer: Mapping[str, float] | None = None,
    threshold: float = 1.0,
) -> dict[str, float]:
    """The official v2.0 result: `exact`, `f1`, `total`, these with `HasAns_`/`NoAns_`, `best_*` and `best_*_thresh`.

    Questions whose `no_answer` value exceeds `threshold` are taken as abstained. A question without a prediction is
    left out, with a warning. Without `no_answer` there are no `best_` entries.
    """
    keys = [key for key in golds if key in predictions]
    if len(keys) < len(golds):
        warnings.warn(f"{len(golds) - len(keys)} questions have no prediction and are left out", stacklevel=2)
    has_answer = {key: bool(accepted) for key, accepted in golds.items()}
    odds = no_answer or dict.fromkeys(golds, 0.0)
    pairs = {key: v2_question(predictions[key], golds[key]) for key in keys}
    raw = {"exact": {k: em for k, (em, _) in pairs.items()}, "f1": {k: f1 for k, (_, f1) in pairs.items()}}
    kept = {
        name: {k: float(not has_answer[k]) if odds[k] > threshold else score for k, score in values.items()}
        for name, values in raw.items()
    }
    result: dict[str, float] = {}
    groups: dict[str, Callable[[str], bool]] = {
        "": lambda key: True,
        "HasAns_": lambda key: has_answer[key],
        "NoAns_": lambda key: not has_answer[key],
    }
    for prefix, belongs in groups.items():
        chosen = [key for key in keys if belongs(key)]
        if chosen:
            result |= {f"{prefix}{name}": _percent([values[k] for k in chosen]) for name, values in kept.items()}
            result[f"{prefix}total"] = len(chosen)
    if no_answer is not None:
        answered = {key: bool(predictions[key]) for key in keys}
        for name, values in raw.items():
            best = best_threshold(values, answered, odds, has_answer)
            result[f"best_{name}"], result[f"best_{name}_thresh"] = best
    return result
