"""Words of token sequences, for every kind of tokenizer."""

from __future__ import annotations

import pytest

from mtrobust.analysis.texts import find_word, is_word, words_of
from mtrobust.errors import UserError

SENTENCE = "The filmmaker who met warmhearted lawyers slept, and a dullard did not win."


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "albert", "mpnet"])
def test_pieces_make_words(family: str, tiny_model_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(tiny_model_dir(family)))
    ids = tokenizer(SENTENCE)["input_ids"]
    words = words_of(tokenizer, ids)
    assert [word.text.lower() for word in words if is_word(word)] == [
        word.strip(",.").lower() for word in SENTENCE.split(" ")
    ]
    assert sorted(place for word in words for place in word.places) == list(range(len(ids)))
    assert any(len(word.places) > 1 for word in words), "the tokenizer has no pieces: the test shows nothing"
    assert words[-1].special


def test_words_are_found_in_any_case(subject):
    from mtrobust.analysis.base import TextOptions
    from mtrobust.analysis.texts import read_text

    text = read_text(subject("standard"), "mood", TextOptions(text="The doctor met a cat."))
    assert find_word(text, "Doctor").text == "doctor"
    with pytest.raises(UserError, match=r"--word: bridge: not in the text \(the, doctor, met, a, cat\)"):
        find_word(text, "bridge")
