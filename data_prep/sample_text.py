"""Generators of the five sample tasks. Each makes one row from a random source, a set of words and a mode.

Modes: `plain` (train and dev), `shift` (other words and other sentence frames) and `adv` (the traps named in each
function, which are rare in `plain`).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from .sample_words import Words

Row = dict[str, Any]


def sentiment(rng: Random, words: Words, mode: str) -> Row:
    """A short review. Trap: negation, and a first clause of the other polarity that the second one overrules."""
    positive = rng.random() < 0.5
    same, other = (words.good, words.bad) if positive else (words.bad, words.good)
    thing, second = rng.sample(words.reviewed, 2)
    a, b, o = rng.choice(same), rng.choice(same), rng.choice(other)
    intensifier = rng.choice(("", "very ", "really ", "quite "))
    plain = (
        f"the {thing} was {intensifier}{a}",
        f"a {a} {thing} with a {b} {second}",
        f"i thought the {thing} was {a} and the {second} was {b}",
        f"{a} {thing} , {b} {second}",
    )
    shifted = (
        f"we stayed two nights and found the {thing} {intensifier}{a} and {b}",
        f"after a long day the {thing} was {a} , the {second} {b}",
        f"our {thing} seemed {a} to all of us , also {b}",
    )
    traps: tuple[str, ...] = (
        f"the {thing} was not {intensifier}{o}",
        f"people said it was {o} , but the {thing} was {a}",
    )
    if mode == "adv":
        traps += (
            f"the {thing} was never {o} and the {second} was not {rng.choice(other)}",
            f"the {thing} and the {second} were not {o} or {rng.choice(other)}",
            f"not a {o} {thing} , not a {o} {second}",
        )
    trapped = rng.random() < {"plain": 0.25, "shift": 0.1, "adv": 0.9}[mode]
    text = rng.choice(traps if trapped else shifted if mode == "shift" else plain)
    return {"text": text, "label": "positive" if positive else "negative"}


def _nouns(rng: Random, words: Words, n: int) -> list[tuple[str, str]]:
    """n different (noun, kind) pairs."""
    pairs = [(noun, kind) for kind, nouns in words.kinds.items() for noun in nouns]
    return rng.sample(pairs, n)


def entailment(rng: Random, words: Words, mode: str) -> Row:
    """Three-way inference over one event. Trap: every hypothesis word stands in the premise, roles exchanged."""
    label = rng.choice(("entailment", "neutral", "contradiction"))
    (a, kind_a), (b, kind_b) = _nouns(rng, words, 2)
    base, _, past = rng.choice(words.verbs)
    place, elsewhere = rng.sample(words.places, 2)
    adjective = rng.choice(words.adjectives)
    event = f"the {a} {past} the {b}"
    premise = rng.choice((f"{event} {place}", f"the {adjective} {a} {past} the {b}", f"{place} {event}"))
    if mode == "shift":
        premise = rng.choice((f"yesterday {event} {place}", f"we saw that {event} {place}"))
    passive = f"the {b} was {past} by the {a}"
    if rng.random() < {"plain": 0.15, "shift": 0.15, "adv": 0.85}[mode]:
        choices: dict[str, tuple[str, ...]] = {
            "entailment": (event, passive),
            "neutral": (f"the {b} {past} the {a}", f"the {a} was {past} by the {b}"),
            "contradiction": (f"the {a} never {past} the {b}", f"the {b} was not {past} by the {a}"),
        }
    else:
        choices = {
            "entailment": (event, f"the {kind_a} {past} the {b}", f"the {a} {past} the {kind_b}"),
            "neutral": (f"{event} {elsewhere} and sang", f"{event} and sang", f"the {a} sang for the {b}"),
            "contradiction": (f"the {a} did not {base} the {b}", f"nobody {past} the {b}", f"the {a} never {past} it"),
        }
    return {"text": premise, "text_pair": rng.choice(choices[label]), "label": label}


def similarity(rng: Random, words: Words, mode: str) -> Row:
    """Two events; 0 to 5 by topic and by what they share. Trap: one is negated, or they share words across topics.

    The same topic gives 3, each of who, what was done, to what and where that agrees 0.5; a negation takes 2.
    """
    first, other = rng.sample(words.topics, 2)
    same_topic = rng.random() < 0.6
    second = first if same_topic else other
    one = [rng.choice(slot) for slot in (first.agents, first.verbs, first.objects, first.places)]
    two = [rng.choice(slot) for slot in (second.agents, second.verbs, second.objects, second.places)]
    trap = rng.random() < {"plain": 0.1, "shift": 0.1, "adv": 0.85}[mode]
    for slot in range(4):
        if rng.random() < (0.6 if trap else 0.4 if same_topic else 0.05):
            two[slot] = one[slot]
    negated = trap and same_topic
    score = 3 * same_topic + 0.5 * sum(x == y for x, y in zip(one, two, strict=True)) - 2 * negated
    frame = "yesterday the {0} {1} the {2} {3}" if mode == "shift" and rng.random() < 0.5 else "the {0} {1} the {2} {3}"
    done = f"did not {two[1][0]}" if negated else two[1][1]
    return {
        "text": frame.format(one[0], one[1][1], *one[2:]),
        "text_pair": frame.format(two[0], done, *two[2:]),
        "label": float(score),
    }


def acceptability(rng: Random, words: Words, mode: str) -> Row:
    """A well-formed sentence or one with a fault. Trap: a noun of the other number between subject and verb."""
    acceptable = rng.random() < 0.5
    (a, _), (b, _), (near, _) = _nouns(rng, words, 3)
    plural = rng.random() < 0.5
    adjective, place = rng.choice(words.adjectives), rng.choice(words.places)
    base, third, _ = rng.choice(words.verbs)
    rest = ""
    if rng.random() < 0.7:
        base, third = "are", "is"
    else:
        rest = f" the {b}"
    right, wrong = (base, third) if plural else (third, base)
    subject = _plural(a) if plural else a
    trap = rng.random() < {"plain": 0.15, "shift": 0.1, "adv": 0.9}[mode]
    between = f" near the {near if plural else _plural(near)}" if trap else ""
    ending = f"{rest} {place}{' every day' if mode == 'shift' else ''}"
    the = rng.choice(("the", "these" if plural else "this"))
    good = f"{the} {adjective} {subject}{between} {right}{ending}"
    bad = [f"{the} {adjective} {subject}{between} {wrong}{ending}"]
    if not trap:
        bad += [f"{the} {subject} {adjective} {right}{ending}", f"{adjective} {the} {subject} {right}{ending}"]
    return {"text": good if acceptable else rng.choice(bad), "label": "acceptable" if acceptable else "unacceptable"}


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("x") else "s")


FACTS: tuple[tuple[str, str, str, str], ...] = (  # words field, statement, statement in the shifted part, question
    ("cities", "{who} lives in {x} .", "the home of {who} is in {x} .", "where does {who} live ?"),
    ("jobs", "{who} works as a {x} .", "by trade {who} is a {x} .", "what is the job of {who} ?"),
    ("foods", "{who} likes to eat {x} .", "for dinner {who} prefers {x} .", "what does {who} eat ?"),
    ("colours", "{who} owns a {x} car .", "the car of {who} is {x} .", "what colour is the car of {who} ?"),
)


def questions(rng: Random, words: Words, mode: str) -> Row:
    """Facts about people and a question about one. Trap: the same fact is stated about two other people as well."""
    who, *others = rng.sample(words.people, 4)
    asked, *rest = rng.sample(FACTS, 4)
    n_same = 2 if mode == "adv" else rng.choice((0, 0, 1))
    facts = [(asked, who), *((asked, other) for other in others[:n_same])]
    facts += [(fact, rng.choice((who, others[-1]))) for fact in rest[: 3 - n_same if n_same < 2 else 1]]
    rng.shuffle(facts)
    used: set[str] = set()
    context, answer, start = "", "", 0
    for fact, person in facts:
        value = rng.choice([word for word in getattr(words, fact[0]) if word not in used])
        used.add(value)
        before, after = fact[2 if mode == "shift" and rng.random() < 0.5 else 1].replace("{who}", person).split("{x}")
        context += " " if context else ""
        if fact is asked and person == who:
            answer, start = value, len(context) + len(before)
        context += before + value + after
    return {
        "question": asked[3].format(who=who),
        "context": context,
        "answers": {"text": [answer], "answer_start": [start]},
    }


GENERATORS: dict[str, Callable[[Random, Words, str], Row]] = {
    "sentiment": sentiment,
    "entailment": entailment,
    "similarity": similarity,
    "acceptability": acceptability,
    "questions": questions,
}
