"""Words of a text, and which of them may be changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtrobust.evaluation.attacks.words import in_case_of, is_stop_word, rewritten, words_of


def test_punctuation_at_the_ends_is_no_part_of_a_word():
    words = words_of('  "Well-made," he   said -- (twice)!')
    assert [word.text for word in words] == ["Well-made", "he", "said", "--", "twice"]
    assert [(word.before, word.after) for word in words] == [('"', ',"'), ("", ""), ("", ""), ("", ""), ("(", ")!")]
    assert [word.replaceable for word in words] == [True, False, True, False, True]


def test_a_possessive_stays():
    words = words_of("the director's (sons') film, it's")
    assert [(word.text, word.after) for word in words][1:3] == [("director", "'s"), ("sons", "')")]
    assert words[-1].text == "it" and not words[-1].replaceable


def test_only_the_word_is_replaced():
    text = '  "Well-made," he   said -- (twice)!\u2028'
    assert rewritten(text, words_of(text), {0: "Ugly", 4: "once"}) == '  "Ugly," he   said -- (once)!\u2028'


@given(st.text())
def test_words_are_those_between_blanks_and_nothing_changes_by_itself(text: str):
    words = words_of(text)
    assert [word.before + word.text + word.after for word in words] == text.split()
    assert [text[word.start : word.end] for word in words] == [word.text for word in words]
    assert rewritten(text, words, {}) == text
    same = rewritten(text, words, {word.index: word.text for word in words})
    assert same == text


@pytest.mark.parametrize("word", ["the", "Not", "isn't", "don\u2019t", "it's", "WE'LL", "cannot"])
def test_stop_words(word: str):
    assert is_stop_word(word)


@pytest.mark.parametrize("word", ["film", "director's", "not-so-good", "good", "rock'n'roll"])
def test_other_words(word: str):
    assert not is_stop_word(word)


def test_capitals_are_taken_over():
    pairs = [("Dollar", "euro"), ("NASA", "esa"), ("I", "you"), ("film", "movie"), ("film", "Movie"), ("Film", "NASA")]
    assert [in_case_of(*pair) for pair in pairs] == ["Euro", "ESA", "You", "movie", "Movie", "NASA"]
