"""BERT-Attack written the plain way around a Hugging Face classifier: every text is a prediction of its own.

What a user would write first, and what the batched attack is held against: outcomes and query counts must be the same.
Substitutes come from `SubstituteModel`; nothing else is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mtrobust.evaluation.attacks.substitutes import SubstituteModel
from mtrobust.evaluation.attacks.words import rewritten, words_of

GAP = 1e-5  # as the attack counts gaps

Tokens = list[int]
Ask = Callable[[str], tuple[list[float], Tokens]]  # text -> probabilities, tokens


def asker(model: Any, tokenizer: Any, length: int, first: str | None = None, padded: bool = False) -> Ask:
    """Asks a classifier for one text, as the second of a pair where `first` is given. padded: to `length`."""

    @torch.no_grad()
    def ask(text: str) -> tuple[list[float], Tokens]:
        texts = (text,) if first is None else (first, text)
        cut = {"truncation": "longest_first", "max_length": length, "padding": "max_length" if padded else False}
        inputs = tokenizer(*texts, return_tensors="pt", **cut).to(model.device)
        return model(**inputs).logits[0].double().softmax(-1).tolist(), inputs["input_ids"][0].tolist()

    return ask


def attack(text: str, gold: int, ask: Ask, mask: str, substitutes: SubstituteModel, share: float) -> dict[str, Any]:
    """`success`, `adversarial`, `changes` and `queries` of a text, as the attack writes them."""
    words, queries = words_of(text), 1
    probabilities, tokens = ask(text)
    failed = {"success": False, "adversarial": None, "changes": []}
    if _best(probabilities) != gold:
        return {**failed, "success": None, "queries": queries}
    found = substitutes.of(words)
    current, drops = probabilities[gold], []
    for word in words:
        masked, hidden = ask(rewritten(text, words, {word.index: mask}))
        queries += 1
        if hidden != tokens and word.index in found.possible():
            drops.append((current - masked[gold], word.index))
    changes: dict[int, str] = {}
    for index in _order(drops):
        if len(changes) == max(1, int(share * len(words) + 1e-9)):
            break
        chosen = None
        for candidate in found.at(index):
            changed = rewritten(text, words, {**changes, index: candidate})
            probabilities, _ = ask(changed)
            queries += 1
            if _best(probabilities) != gold:
                changes[index] = candidate
                done = [{"index": i, "from": words[i].text, "to": changes[i]} for i in sorted(changes)]
                return {"success": True, "adversarial": changed, "changes": done, "queries": queries}
            if probabilities[gold] < current - GAP:
                current, chosen = probabilities[gold], candidate
        if chosen is not None:
            changes[index] = chosen
    return {**failed, "queries": queries}


def _best(probabilities: Sequence[float]) -> int:
    return max(range(len(probabilities)), key=probabilities.__getitem__)


def _order(drops: Sequence[tuple[float, int]]) -> list[int]:
    """Words by falling drop; those that follow one another by less than the gap, in the order of the text."""
    groups: list[list[int]] = []
    last = float("inf")
    for drop, index in sorted(drops, key=lambda item: (-item[0], item[1])):
        if last - drop > GAP:
            groups.append([])
        groups[-1].append(index)
        last = drop
    return [index for group in groups for index in sorted(group)]
