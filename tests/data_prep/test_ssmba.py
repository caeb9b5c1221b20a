"""SSMBA with a tiny random masked language model: what changes, how much, seeds, interruption, refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from data_prep import ssmba, ssmba_model
from mtrobust.errors import UserError
from tests.data_prep.helpers import prep, rows, write
from tests.tiny import write_tiny_model

TEXTS = [
    "The Doctor who met the lawyers slept, and the lawyers did not sleep.",
    'He said:  "the team won (2-1) in Z\u00fcrich"\u2028- naive caf\u00e9 prices.',
    "No cat chased every dog, but some dogs chased the cat!",
    "Dull.",
]
FAMILIES = ("bert", "roberta", "modernbert", "deberta-v2", "xlm-roberta")


@pytest.fixture(scope="module")
def mlm(tmp_path_factory):
    """`mlm(family)`: a folder with a random masked language model and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

    made: dict[str, Path] = {}

    def make(family="bert"):
        if family not in made:
            folder = write_tiny_model(family, tmp_path_factory.mktemp(family))
            tokenizer = AutoTokenizer.from_pretrained(folder)
            if tokenizer.mask_token_id is None:
                tokenizer.add_special_tokens({"mask_token": "<mask>"})
                tokenizer.save_pretrained(folder)
            config = AutoConfig.from_pretrained(folder, vocab_size=len(tokenizer))
            torch.manual_seed(3)
            AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
            made[family] = folder
        return made[family]

    return make


@pytest.fixture
def data(tmp_path):
    """40 single texts (more than one chunk), and pairs."""
    single = [{"id": f"r{i}", "text": f"{TEXTS[i % 4]} {i}", "label": "ab"[i % 2]} for i in range(40)]
    pairs = [{"id": f"p{i}", "text": TEXTS[i], "text_pair": TEXTS[3 - i], "label": i / 2} for i in range(4)]
    write(tmp_path / "data/one/train.jsonl", *map(json.dumps, single))
    write(tmp_path / "data/one/dev.jsonl", *map(json.dumps, single[:2]))
    write(tmp_path / "data/two/train.jsonl", *map(json.dumps, pairs))
    return tmp_path


def run(data, model, *more, task="one", out="out"):
    return prep("ssmba", "--rows", data / "data" / task, "--mlm", model, "--out", data / out, *more)


def words(text):
    return re.findall(r"\w+|[^\w\s]", text)


def test_new_rows_keep_labels_and_differ(data, mlm, capsys):
    assert run(data, mlm(), "--samples", 3) == 0
    got = rows(data / "out/one/train.jsonl")
    originals = [row for row in got if row["source"] == "original"]
    assert [{k: row[k] for k in ("id", "text", "label")} for row in originals] == rows(data / "data/one/train.jsonl")
    new = {f"{row['id']}-ssmba{k}": row for row in originals for k in (1, 2, 3)}
    assert {row["id"] for row in got} == {row["id"] for row in originals} | set(new)
    for row in got:
        if row["source"] == "ssmba":
            assert row["label"] == new[row["id"]]["label"] and row["text"] != new[row["id"]]["text"]
            assert not re.search(r"\[(MASK|UNK|CLS|SEP|PAD)\]", row["text"])
    for row in originals:
        assert len({r["text"] for r in got if r["id"].startswith(f"{row['id']}-")}) == 3
    assert (data / "out/one/dev.jsonl").read_bytes() == (data / "data/one/dev.jsonl").read_bytes()
    assert sorted(p.name for p in (data / "out/one").iterdir()) == ["dev.jsonl", "train.jsonl"]
    assert "one: 120 new rows beside 40 original ones" in capsys.readouterr().out


def test_rows_that_were_made_before_keep_their_ids(data, mlm):
    run(data, mlm(), "--samples", 2, task="two")
    made = {row["id"]: row for row in rows(data / "out/two/train.jsonl")}
    prep("ssmba", "--rows", data / "out/two", "--mlm", mlm(), "--out", data / "more", "--samples", 2, "--seed", 2)
    got = rows(data / "more/two/train.jsonl")
    by_id = {row["id"]: row for row in got}
    assert len(by_id) == len(got) == 3 * len(made) and all(by_id[name] == row for name, row in made.items())
    assert {"p0-ssmba3", "p0-ssmba4", "p0-ssmba1-ssmba1"} <= set(by_id)


def test_the_seed_decides(data, mlm):
    def texts(out, seed):
        run(data, mlm(), "--samples", 2, "--seed", seed, task="two", out=out)
        return [row["text"] for row in rows(data / out / "two/train.jsonl")]

    first = texts("a", 1)
    assert texts("b", 1) == first and texts("c", 2) != first


def test_of_a_question_the_context_stays(data, mlm):
    """So that the answers still stand where they are said to."""
    answers = {"text": ["the team"], "answer_start": [7]}
    lines = [
        {"id": f"q{i}", "question": TEXTS[i], "context": "I know the team won.", "answers": answers} for i in (0, 2)
    ]
    write(data / "data/three/train.jsonl", *map(json.dumps, lines))
    run(data, mlm(), "--samples", 2, task="three")
    found = rows(data / "out/three/train.jsonl")
    assert len(found) == 6 and [row["id"] for row in found[:3]] == ["q0", "q0-ssmba1", "q0-ssmba2"]
    assert all(row["context"] == "I know the team won." and row["answers"] == answers for row in found)
    assert len({row["question"] for row in found}) == 6


@pytest.mark.parametrize("field", ["text", "text_pair", "both"])
def test_pairs_and_fields(data, mlm, field):
    run(data, mlm(), "--samples", 4, "--field", field, task="two")
    got = rows(data / "out/two/train.jsonl")
    original = {row["id"]: row for row in got if row["source"] == "original"}
    changed = {"text": 0, "text_pair": 0}
    for row in got:
        old = original[row["id"].split("-")[0]]
        assert row["label"] == old["label"]
        for name in changed:
            changed[name] += row[name] != old[name]
    assert {name for name, count in changed.items() if count} == ({"text", "text_pair"} if field == "both" else {field})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_share_of_the_tokens_and_only_whole_words_change(mlm, family):
    """The corruption itself, and that every other character of a text stays."""
    model = ssmba_model.Reconstructor(str(mlm(family)), 0.25, None, None, 8, 1)
    data = [{"id": str(i), "text": text} for i, text in enumerate(TEXTS)]
    kinds = {"masked": 0, "kept": 0, "random": 0}
    for i, item in enumerate(model._encode(data, [("text",)] * 4)):
        special = set(model.tokenizer.all_special_ids)
        assert not special & {item.ids[p] for p in item.choosable} - {model.tokenizer.unk_token_id}
        for attempt in range(100):
            draft = model._corrupt(0, item, str(i), attempt)
            assert len(draft.chosen) == max(1, int(0.25 * len(item.choosable) + 0.5))
            assert set(draft.chosen) <= set(item.choosable)
            for p, (new, old) in enumerate(zip(draft.ids, item.ids, strict=True)):
                if p in draft.chosen:
                    masked = new == model.tokenizer.mask_token_id
                    kinds["masked" if masked else "kept" if new == old else "random"] += 1
                else:
                    assert new == old
        untouched = model._written(item, "text", item.ids)
        assert untouched == TEXTS[i]
    total = sum(kinds.values())
    assert abs(kinds["masked"] / total - 0.8) < 0.04 and abs(kinds["random"] / total - 0.1) < 0.03
    made = model.samples(data, [("text",)] * 4, 2, 10)
    assert all(len(texts) == 2 for texts in made)
    for text in (texts["text"] for texts in made[1]):
        # most of the words, the double space and the line separator among them, are still there
        kept = [word for word in words(TEXTS[1]) if word in words(text)]
        assert len(kept) >= 0.4 * len(words(TEXTS[1]))


def test_words_written_anew(mlm):
    model = ssmba_model.Reconstructor(str(mlm()), 0.25, None, None, 8, 1)
    text = 'The "cat"  slept.'
    (item,) = model._encode([{"id": "a", "text": text}], [("text",)])
    by_text = {text[w.start : w.end]: w for w in item.words["text"]}
    ids = list(item.ids)
    film = model.tokenizer.convert_tokens_to_ids("film")
    ids[by_text['"'].tokens[0]] = film  # the last quotation mark, before two spaces
    assert model._written(item, "text", ids) == 'The "cat film  slept.'
    ids = list(item.ids)
    ids[by_text["cat"].tokens[0]] = film
    for position in by_text["cat"].tokens[1:]:
        ids[position] = model.tokenizer.convert_tokens_to_ids("##s")
    assert model._written(item, "text", ids) == f'The "film{"s" * (len(by_text["cat"].tokens) - 1)}"  slept.'


def test_draws_follow_the_models_distribution(mlm):
    """Frequencies of drawn tokens against a softmax of our own over the tokens that a text may hold."""
    import torch

    model = ssmba_model.Reconstructor(str(mlm()), 0.25, None, None, 8, 1)
    logits = torch.full((1, len(model.allowed)), -20.0)
    special, (a, b, c) = model.tokenizer.mask_token_id, model.ordinary[[5, 9, 40]].tolist()
    logits[0, [special, a, b, c]] = torch.tensor([9.0, 1.0, 0.0, -1.0])
    drawn = model._draw(logits.expand(20_000, -1), torch.Generator().manual_seed(0))
    share = torch.tensor([(drawn == token).float().mean() for token in (a, b, c)])
    expected = torch.tensor([1.0, 0.0, -1.0]).softmax(-1)
    assert (share - expected).abs().max() < 0.015
    model.top_k = 2
    drawn = model._draw(logits.expand(1000, -1), torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {a, b}


def test_an_interrupted_run_goes_on_to_the_same_result(data, mlm, monkeypatch, capsys):
    run(data, mlm(), "--samples", 2, out="whole")
    add, calls = ssmba.Kept.add, []

    def stops(self, texts):
        if calls:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write('[[{"text": "cut o')  # killed in the middle of a line
            raise KeyboardInterrupt
        calls.append(1)
        add(self, texts)

    monkeypatch.setattr(ssmba.Kept, "add", stops)
    with pytest.raises(KeyboardInterrupt):
        run(data, mlm(), "--samples", 2)
    assert [p.name for p in (data / "out/one").iterdir()] == [".train.ssmba"]
    monkeypatch.setattr(ssmba.Kept, "add", add)
    with pytest.raises(UserError, match=r"other settings: samples \(2, now 3\)"):
        run(data, mlm(), "--samples", 3)
    config = mlm() / "config.json"
    before = config.read_bytes()
    config.write_bytes(before.replace(b" ", b"\t", 1))  # as many bytes as before
    with pytest.raises(UserError, match=r"other settings: files"):
        run(data, mlm(), "--samples", 2)
    config.write_bytes(before)
    capsys.readouterr()
    run(data, mlm(), "--samples", 2)
    assert "goes on after 32 of 40 rows" in capsys.readouterr().out
    assert (data / "out/one/train.jsonl").read_bytes() == (data / "whole/one/train.jsonl").read_bytes()
    assert not (data / "out/one/.train.ssmba").exists()


def test_long_texts_keep_what_stands_beyond(tmp_path, mlm, capsys):
    text = " ".join(f"word{i}" for i in range(60))
    write(tmp_path / "data/one/train.jsonl", json.dumps({"id": "a", "text": text, "label": "x"}))
    run(tmp_path, mlm(), "--samples", 2, "--max_len", 16)
    for row in rows(tmp_path / "out/one/train.jsonl"):
        assert row["text"].endswith("word58 word59")
    assert "1 texts are longer than 16 tokens" in capsys.readouterr().out


def test_fewer_new_texts_where_there_are_no_more(tmp_path, mlm, capsys):
    write(tmp_path / "data/one/train.jsonl", json.dumps({"id": "a", "text": "Dull.", "label": "x"}))
    run(tmp_path, mlm(), "--samples", 50, "--top_k", 1, "--tries", 2)
    assert len(rows(tmp_path / "out/one/train.jsonl")) < 51
    assert "1 rows have fewer than 50" in capsys.readouterr().out


def test_faults_of_the_flags_come_together_and_load_nothing(data, monkeypatch):
    monkeypatch.setattr(ssmba, "survey", lambda *_: pytest.fail("started"))
    with pytest.raises(UserError) as caught:
        run(data, data / "no", "--samples", 0, "--mask", 1, "--top_k", 0, "--max_len", 3, "--seed", -1, task="gone")
    assert len(caught.value.faults) == 7
    with pytest.raises(UserError, match="no config.json in it"):
        run(data, data)


def test_models_that_cannot_do_it(data, mlm, tmp_path):
    base = write_tiny_model("bert", tmp_path / "base")  # no language-model head
    with pytest.raises(UserError, match="its head was not trained"):
        run(data, base)
    t5 = write_tiny_model("t5", tmp_path / "t5")
    with pytest.raises(UserError, match="cannot be loaded as a masked language model"):
        run(data, t5)
    with pytest.raises(UserError, match="--max_len: 4000: the model reads at most 128"):
        run(data, mlm(), "--max_len", 4000)
    assert not (data / "out/one").exists()


@pytest.mark.parametrize(
    ("line", "options", "reason"),
    [
        ('{"id": "a", "context": "y"}', [], "no text; SSMBA is for texts"),
        ('{"id": "a", "text": "x"}', ["--field", "text_pair"], "no text_pair; SSMBA"),
        ('{"id": "a", "text": 3}', [], "text: expected text"),
        ('{"id": "a", "text": ', [], "train.jsonl:1: not JSON"),
        ("", [], "no rows"),
    ],
)
def test_rows_without_a_text(tmp_path, line, options, reason):
    write(tmp_path / "data/one/train.jsonl", line)
    with pytest.raises(UserError, match=reason):
        run(tmp_path, "bert-base-uncased", *options)
