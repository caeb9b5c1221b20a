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
}
