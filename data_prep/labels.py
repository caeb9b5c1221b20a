"""The label names each prepared task writes; `task_defs/*.yml` declares the same names (a test compares the two)."""

from __future__ import annotations

LABELS: dict[str, tuple[str, ...]] = {
    "cola": ("unacceptable", "acceptable"),
    "sst2": ("negative", "positive"),
    "mrpc": ("not_equivalent", "equivalent"),
    "qqp": ("not_duplicate", "duplicate"),
    "mnli": ("contradiction", "neutral", "entailment"),
    "qnli": ("not_entailment", "entailment"),
    "rte": ("not_entailment", "entailment"),
    "wnli": ("not_entailment", "entailment"),
    "mr": ("negative", "positive"),
    "imdb": ("negative", "positive"),
    "yelp": ("negative", "positive"),
    "agnews": ("World", "Sports", "Business", "Sci/Tech"),
    "snli": ("contradiction", "neutral", "entailment"),
    "anli": ("contradiction", "neutral", "entailment"),
    "scitail": ("neutral", "entailment"),
}
HANS = ("non-entailment", "entailment")  # an evaluation set: no task is trained on it

# What the inference sets write for a class. Numbers are those of their copies on the hub and in attack samples.
INFERENCE = {
    "entailment": "entailment",
    "entails": "entailment",  # SciTail's TSV
    "e": "entailment",  # ANLI
    "0": "entailment",
    "neutral": "neutral",
    "n": "neutral",
    "1": "neutral",
    "contradiction": "contradiction",
    "c": "contradiction",
    "2": "contradiction",
}
NO_GOLD = ("-", "-1")  # the annotators reached no majority


def numbered(task: str, first: int = 0) -> dict[str, str]:
    """Raw class numbers, counted from `first`, to label names."""
    return {str(i + first): name for i, name in enumerate(LABELS[task])}


def named(task: str) -> dict[str, str]:
    """Label names to themselves."""
    return {name: name for name in LABELS[task]}
