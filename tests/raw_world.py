"""A folder of raw benchmark files in their official formats, small enough for whole scripts to run on."""

from __future__ import annotations

import json
import random
from pathlib import Path

ADJECTIVES = {"0": ["dull", "weak", "cold"], "1": ["warm", "clear", "great"]}


def _sentence(draw: random.Random, label: str) -> str:
    noun, verb = draw.choice(["film", "team", "bridge", "dog"]), draw.choice(["was", "is", "seemed"])
    return f"the {draw.choice(ADJECTIVES[label])} {noun} {verb} near the river ."


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="\n")


def _table(path: Path, header: str | None, rows: list[list[str]], separator: str = "\t") -> None:
    _write(path, ([header.replace(" ", separator)] if header else []) + [separator.join(row) for row in rows])


def _squad(path: Path, draw: random.Random, count: int, suffixes: tuple[str, ...] = ("",)) -> None:
    paragraphs = []
    for i in range(count):
        year = str(draw.randrange(1800, 2000))
        context = f"The old bridge was built near the river in {year}."
        answer = {"text": year, "answer_start": context.index(year)}
        questions = [{"id": f"q{i}{s}", "question": "When was it built?", "answers": [answer]} for s in suffixes]
        paragraphs.append({"context": context, "qas": questions})
    content = {"version": "1.1", "data": [{"title": "bridge", "paragraphs": paragraphs}]}
    _write(path, [json.dumps(content)])


def write_raw(folder: Path, count: int = 24) -> Path:
    """SST-2, MRPC, CoLA, STS-B, MNLI (the sample's form), HANS, IMDB, MR, AG News, SQuAD and its variants, text."""
    draw = random.Random(1)
    texts = [(_sentence(draw, str(i % 2)), str(i % 2)) for i in range(count)]
    for split in ("train", "dev"):
        _table(folder / f"SST-2/{split}.tsv", "sentence label", [[text, label] for text, label in texts])
        _table(folder / f"CoLA/{split}.tsv", None, [["src", label, "", text] for text, label in texts])
        pairs = [[label, str(i), str(i + 1), text, text.upper()] for i, (text, label) in enumerate(texts)]
        _write(folder / f"MRPC/{split}.tsv", ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", *map("\t".join, pairs)])
        names = "index genre filename year old_index source1 source2 sentence1 sentence2 score"
        scored = [[str(i), *["x"] * 6, text, text.upper(), str(i % 5)] for i, (text, _) in enumerate(texts)]
        _table(folder / f"STS-B/{split}.tsv", names, scored)
    columns = "index sentence1 sentence2 gold_label"
    labels = ["contradiction", "neutral", "entailment"]
    nli = [[str(i), text, text.upper(), labels[i % 3]] for i, (text, _) in enumerate(texts)]
    for name in ("train", "dev_from_train"):
        _table(folder / f"MNLI/{name}.tsv", columns, nli)
    columns = "gold_label sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse sentence1 \
sentence2 pairID heuristic subcase template".replace("  ", " ")
    hans = [[["entailment", "non-entailment"][i % 2], *["x"] * 4, text, text, f"ex{i}", "lexical_overlap", "ln_x", "t"]
            for i, (text, _) in enumerate(texts)]  # fmt: skip
    _table(folder / "HANS/heuristics_generated.txt", columns, hans)
    quoted = [
        [["negative", "positive"][int(label)], f'"{text}"', str(i % 4 == 0)] for i, (text, label) in enumerate(texts)
    ]
    _table(folder / "IMDB/texts.csv", "label text is_valid", quoted, ",")
    for label, name in (("1", "pos"), ("0", "neg")):
        _write(
            folder / f"MR/rt-polarity.{name}",
            [f"{text} {i}" for i, (text, own) in enumerate(texts * 4) if own == label],
        )
    held = [f"{label} {text} {i}" for i, (text, label) in enumerate(texts[:8])]
    _write(folder / "TextFooler/mr", held)
    news = [[f'"{i % 4 + 1}"', '"The river"', f'"{text}"'] for i, (text, _) in enumerate(texts)]
    for split in ("train", "test"):
        _table(folder / f"AG-News/{split}.csv", None, news, ",")
    _squad(folder / "SQuAD-v1.1/train-subset-v1.1.json", draw, count)
    _squad(folder / "SQuAD-v1.1/dev-v1.1.json", draw, count)
    _squad(folder / "SQuAD-adversarial/sample1k-HCVerifySample.json", draw, 8, ("", "-high-conf-turk1"))
    _squad(folder / "SQuADShifts/new_wiki_v1.0.json", draw, 8)
    for name in ("valid", "test"):
        _write(folder / f"wikitext-2-raw/wiki.{name}.raw", [text for text, _ in texts])
    return folder
