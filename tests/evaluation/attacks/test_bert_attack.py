"""The search of BERT-Attack on rules whose right answer is known, and against the plain attack."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import ValidationError

from mtrobust.evaluation.attacks.base import Change
from mtrobust.evaluation.attacks.bert_attack import Options
from tests.evaluation.attacks.rules import RuleAttack, RuleVictim, Table

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = {"great": 3.0, "fine": 1.0, "good": 2.0, "dull": -0.9, "poor": -2.0, "plain": 0.5, "so": -0.5}


def attack(text: str, table: dict[str, list[str]], label: int = 1, sees: int = 1000, **options):
    victim = RuleVictim(WEIGHTS, sees=sees)
    return RuleAttack(victim, table, **options).run({"text": text, "label": label})


def test_the_first_substitute_that_flips_ends_the_attack():
    found = attack("so a great , fine film", {"great": ["good", "poor", "dull"], "fine": ["dull"]})
    assert found.success is True and found.prediction == 1 and found.adversarial_prediction == 0
    assert found.changes == [Change(2, "great", "poor")]
    assert found.adversarial == "so a poor , fine film"
    assert (found.queries, found.words) == (1 + 6 + 2, 6)


def test_without_a_flip_the_largest_drop_stays_and_the_next_word_follows():
    found = attack("great and great fine film", {"great": ["plain", "good"], "fine": ["dull"]}, max_changed=1.0)
    # importance 3, 3, 1; each `great` becomes `plain` (good lowers less); then `dull`: .5 + .5 - .9 is no flip
    assert found.success is False and found.adversarial is None and found.changes == []
    assert found.queries == 1 + 5 + 2 + 2 + 1
    found = attack("great and great fine film", {"great": ["plain", "good"], "fine": ["poor"]}, max_changed=1.0)
    assert found.success is True and found.adversarial == "plain and plain poor film"
    assert [change.index for change in found.changes] == [0, 2, 3] and found.queries == 1 + 5 + 5


def test_a_substitute_that_raises_the_probability_is_not_taken():
    found = attack("fine plain film tonight", {"fine": ["great"], "plain": ["poor"]}, max_changed=0.5)
    assert found.adversarial == "fine poor film tonight" and found.queries == 1 + 4 + 2


@pytest.mark.parametrize(("share", "limit"), [(0.4, 2), (0.6, 3), (0.2, 1), (0.01, 1), (1.0, 5)])
def test_no_more_than_the_share_of_the_words_is_changed(share: float, limit: int):
    """All five words lower the probability, none of them flips the label."""
    victim = RuleVictim({"great": 0.3, "good": 0.2})
    row = {"text": " ".join(["great"] * 5), "label": 1}
    found = RuleAttack(victim, {"great": ["good"]}, max_changed=share).run(row)
    assert found.success is False and found.queries == 1 + 5 + limit


def test_a_row_that_is_wrong_already_is_not_attacked():
    found = attack("a poor film", {"poor": ["great"]})
    assert (found.success, found.prediction, found.queries, found.words) == (None, 0, 1, 3)


@pytest.mark.parametrize("text", ["great great", "great"])
def test_a_text_without_a_replaceable_word_survives(text: str):
    """Nothing is masked then: the model is asked for the text alone."""
    victim = RuleVictim(WEIGHTS)
    found = RuleAttack(victim, {"fine": ["poor"]}).run({"text": text, "label": 1})
    assert found.success is False and found.changes == [] and victim.asked == [1]
    assert found.queries == 1 + found.words


def test_words_behind_the_cut_are_left_alone():
    table = {"great": ["poor"], "fine": ["poor"]}
    seen = attack("fine film that is great", table, sees=3)
    assert seen.changes == [Change(0, "fine", "poor")] and seen.queries == 1 + 5 + 1


def test_equal_importance_keeps_the_order_of_the_text():
    victim = RuleVictim({"great": 1.0, "fine": 1.0 + 1e-9, "good": -2.0})
    found = RuleAttack(victim, {"great": ["good"], "fine": ["good"]}).run({"text": "great fine film", "label": 1})
    assert [change.index for change in found.changes] == [0]


def test_a_text_without_substitutes_is_counted_as_attacked():
    found = attack("great film", {})
    assert found.success is False and found.queries == 3


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The attack that asks for one text at a time."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    monkeypatch.delitem(sys.modules, "one_by_one", raising=False)
    return importlib.import_module("one_by_one")


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_batches_change_nothing(plain: ModuleType, batch_size: int):
    """Outcomes, texts and query counts of random rules are those of the attack one text at a time."""
    rng = random.Random(batch_size)
    vocabulary = [f"w{i}" for i in range(40)]
    outcomes = set()
    for _ in range(60):
        weights = {word: round(rng.gauss(0, 1), rng.choice([1, 3])) for word in vocabulary}  # coarse ones make ties
        table = {word: rng.sample(vocabulary, rng.randint(0, 9)) for word in vocabulary}
        text, label = " ".join(rng.choices(vocabulary, k=rng.randint(1, 15))), rng.randint(0, 1)
        victim = RuleVictim(weights, batch_size, sees=rng.choice([5, 1000]))
        found = RuleAttack(victim, table).run({"text": text, "label": label})
        assert max(victim.asked) <= max(batch_size, 15)
        expected = plain.attack(text, label, victim.ask, victim.mask, Table(table), 0.4)
        changes = [{"index": one.index, "from": one.before, "to": one.after} for one in found.changes]
        assert (found.success, found.adversarial, changes, found.queries) == tuple(expected[key] for key in (
            "success", "adversarial", "changes", "queries"
        ))  # fmt: skip
        outcomes.add(found.success)
        if found.success:  # the text is what the victim gets wrong, and what the changes make of the old one
            words = text.split()
            for change in found.changes:
                assert words[change.index] == change.before
                words[change.index] = change.after
            assert " ".join(words) == found.adversarial and len(found.changes) <= max(1, int(0.4 * len(words)))
            probabilities, _ = victim.ask(found.adversarial)
            assert int(probabilities[1] > 0.5) == found.adversarial_prediction != label
    assert outcomes == {True, False, None}


def test_substitutes_of_another_meaning_or_text_are_left_out():
    class Cosines:
        def cosine(self, one: str, other: str) -> float | None:
            return {"poor": 0.1, "dull": 0.9}.get(other)

        def cosines(self, text: str, others: list[str]) -> list[float]:
            return [0.9 if "plain" in other else 0.1 for other in others]

    made = RuleAttack(RuleVictim(WEIGHTS), {"great": ["poor", "plain", "dull"]})
    made.vectors = Cosines()  # type: ignore[assignment]
    assert [made.accept("great", one) for one in ("poor", "dull", "unknown", "the", "Great")] == [
        False, True, True, False, False,
    ]  # fmt: skip
    made.similarity = Cosines()  # type: ignore[assignment]
    found = made.run({"text": "a great film", "label": 1})
    assert found.success is False and found.queries == 1 + 3 + 1  # of three texts one is near enough to be tried


@pytest.mark.parametrize("name", ["min_cosine", "min_similarity"])
def test_a_threshold_without_its_filter_is_refused(name: str):
    with pytest.raises(ValidationError, match=f"--{name}: without effect without --"):
        Options(mlm="m", **{name: 0.5})
