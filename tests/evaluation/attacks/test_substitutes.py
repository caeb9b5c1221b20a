"""Substitutes of masked language models of every kind of tokenizer, against a count of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mtrobust.errors import UserError
from mtrobust.evaluation.attacks import substitutes as module
from mtrobust.evaluation.attacks.filters import SentenceSimilarity, WordVectors
from mtrobust.evaluation.attacks.substitutes import SubstituteModel
from mtrobust.evaluation.attacks.words import is_stop_word, words_of
from tests.evaluation.attacks.lm import write_tiny_lm


@pytest.fixture(autouse=True)
def _many_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the few entries of a tiny vocabulary, few begin a word: more than four are looked at per place."""
    monkeypatch.setattr(module, "PIECE_CHOICES", 48)


CPU = torch.device("cpu")
TEXT = 'The "old bridge" slept near (warm) lawyers, and a well-built market in Zürich rose 3.5 percent!'
FAMILIES = ["bert", "roberta", "xlm-roberta", "albert", "deberta-v2", "modernbert", "mpnet"]


def model_of(folder: Path, **options) -> SubstituteModel:
    settings = {"top_k": 48, "threshold": 0.0, "combinations": 24, "accept": lambda word, other: True}
    return SubstituteModel(str(folder), CPU, **{**settings, **options})


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model_dir) -> Path:
    family = request.param
    return write_tiny_lm(tiny_model_dir(family), tmp_path_factory.mktemp(f"lm-{family}"))


def test_every_substitute_is_one_word(folder: Path):
    words = words_of(TEXT)
    found = model_of(folder, accept=lambda word, other: not is_stop_word(other)).of(words)
    possible = found.possible()
    assert len(possible) >= 5
    for word in words:
        substitutes = found.at(word.index)
        assert len(set(substitutes)) == len(substitutes)
        assert bool(substitutes) <= (word.index in possible) <= word.replaceable
        for one in substitutes:
            assert len(one.split()) == 1 and one[0].isalnum() and one[-1].isalnum() and not is_stop_word(one)
            assert words_of(word.before + one + word.after)[0].text == one
            assert "##" not in one and "\u0120" not in one and "\u2581" not in one


def test_words_of_one_piece_have_the_likeliest_tokens_that_begin_a_word(folder: Path):
    """Counted from the model's logits and the marks that the kind of tokenizer puts on its pieces."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer, lm = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder).eval()
    text = "lawyers chased dogs near bridges"
    encoded = tokenizer(" " + text if "\u0120" in "".join(tokenizer.get_vocab()) else text, return_tensors="pt")
    with torch.no_grad():
        logits = lm(**encoded).logits[0]
    vocabulary, words = tokenizer.get_vocab(), words_of(text)
    found = model_of(folder, top_k=30, threshold=0.001).of(words)
    counted = 0
    for index in range(5):
        tokens = [i for i, word in enumerate(encoded.word_ids()) if word == index]
        if len(tokens) != 1 or not words[index].replaceable:
            continue
        scores, ids = logits[tokens[0]].topk(30)
        pieces = tokenizer.convert_ids_to_tokens(ids[scores >= 0.001].tolist())
        marks = [
            mark for mark in ("\u0120", "\u2581") if any(piece.startswith(mark) for piece in tokenizer.get_vocab())
        ]
        begun = [p for p in pieces if (p.startswith(marks[0]) if marks else not p.startswith("##"))]
        expected = [p.lstrip("\u0120\u2581") for p in begun]
        expected = [p for p in expected if p and p not in tokenizer.all_special_tokens]
        expected = [p for p in expected if p.isascii() and p[0].isalnum() and p[-1].isalnum()]
        assert [one for one in found.at(index) if one.isascii()] == list(dict.fromkeys(expected))
        counted += 1
    assert counted >= 1 or "\u2581" in "".join(vocabulary)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir) -> Path:
    return write_tiny_lm(tiny_model_dir("bert"), tmp_path_factory.mktemp("lm"))


def test_words_of_several_pieces_are_ranked_by_perplexity(bert: Path):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer, lm = AutoTokenizer.from_pretrained(bert), AutoModelForMaskedLM.from_pretrained(bert).eval()
    word = "bridgelawyers"
    made = model_of(bert, combinations=6)
    assert len(tokenizer.tokenize(word)) > 1
    found = made.of(words_of(f"the {word} slept")).at(1)
    assert 1 < len(found) <= 6

    def loss(text: str) -> float:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = lm(input_ids=ids).logits[0, 1:-1]
        return float(torch.nn.functional.cross_entropy(logits, ids[0, 1:-1]))

    combined = made.of(words_of(f"the {word} slept"))._combined[1]
    losses = {}
    for ids, text in combined:
        rows = torch.tensor([[tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]])
        with torch.no_grad():
            logits = lm(input_ids=rows).logits[0, 1:-1]
        losses.setdefault(text, float(torch.nn.functional.cross_entropy(logits, rows[0, 1:-1])))
    assert found == sorted(losses, key=losses.__getitem__)
    assert loss(word) > 0 and model_of(bert, combinations=0).of(words_of(f"the {word} slept")).possible() == [2]


def test_a_hyphen_stays(bert: Path):
    found = model_of(bert).of(words_of("a well-built market"))
    assert found.at(1) and all(one.count("-") == 1 for one in found.at(1))


def test_the_threshold_and_the_cut(bert: Path):
    words = words_of("the cat slept " * 60)
    made = model_of(bert)
    assert max(made.of(words).possible()) < made.max_len <= 126
    high = model_of(bert, threshold=1e6).of(words_of("the cat slept"))
    assert high.possible() == []


def test_a_model_without_a_trained_head_is_refused(tiny_model_dir):
    with pytest.raises(UserError, match="mlm: .*its head was not trained"):
        model_of(tiny_model_dir("bert"))


def test_word_vectors(tmp_path: Path):
    path = tmp_path / "vectors.txt"
    path.write_text("3 2\ngood 1 0\nfine 3 3\nbad -2 0\n", encoding="utf-8")
    vectors = WordVectors(path)
    assert vectors.cosine("Good", "fine") == pytest.approx(0.5**0.5)
    assert vectors.cosine("good", "bad") == pytest.approx(-1) and vectors.cosine("good", "none") is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("good 1 0\nbad 1\n", ":2: must be a word and 2 finite numbers"),
        ("good 1 x\n", ":1: must be a word and numbers"),
        ("good 1 nan\n", ":1: must be a word and finite numbers"),
        ("good 0 0\n", ":1: must be a word and finite numbers, not all zero"),
        ("good 1 0\n\n", ":2: must be a word and 2 finite numbers"),
        ("", ": has no vectors"),
    ],
)
def test_bad_word_vectors(tmp_path: Path, text: str, fault: str):
    path = tmp_path / "vectors.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        WordVectors(path)
    assert caught.value.faults[0].startswith(f"--vectors: {path}{fault}")


def test_sentence_similarity_is_the_cosine_of_means_over_real_tokens(tiny_model_dir):
    from transformers import AutoModel, AutoTokenizer

    folder = tiny_model_dir("bert")
    texts = ["the cat slept", "the cat slept", "no dog chased the old bridge near the river"]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        means = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts]
    expected = [float(torch.cosine_similarity(means[0], mean, dim=0)) for mean in means[1:]]
    assert SentenceSimilarity(folder, CPU).cosines(texts[0], texts[1:]) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(UserError, match="--similarity_model: .*: cannot be loaded"):
        SentenceSimilarity(folder / "none", CPU)
