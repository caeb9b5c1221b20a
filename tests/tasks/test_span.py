"""Span questions: rows, windows, positions, decoding, thresholds, the official files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mtrobust.errors import UserError
from mtrobust.tasks import squad_metrics
from mtrobust.tasks.base import RowError
from mtrobust.tasks.span_decode import Window, basic_words, decode_question, final_text
from mtrobust.tasks.taskdef import TaskDef

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTEXT = (
    "The old bridge was built near the river in 1886. The team won (2-1) in Zürich, and the café rose 3.5 percent!"
)
QUESTION = "Where was the old bridge built?"


def definition(kind: str = "SpanClassification", **changes: Any) -> TaskDef:
    return TaskDef(name="qa", task_type=kind, data_format="MRC", **changes)


def row(answer: str | None = "near the river", **changes: Any) -> dict[str, Any]:
    answers = (
        {"text": [answer], "answer_start": [CONTEXT.index(answer)]} if answer else {"text": [], "answer_start": []}
    )
    return {"id": "q", "question": QUESTION, "context": CONTEXT, "answers": answers} | changes


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Any) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir("bert"))


def said(feature: dict[str, Any], context: str = CONTEXT) -> str:
    """What the feature's own positions say, by its offsets."""
    begin, end = feature["start_positions"], feature["end_positions"]
    return context[feature["offset_start"][begin] : feature["offset_end"][end]]


def answered(feature: dict[str, Any]) -> bool:
    return bool(feature["offset_start"][feature["start_positions"]] >= 0)


@pytest.mark.parametrize(
    ("task", "fault"),
    [
        (definition(n_class=3), "n_class: 3: spans have 2"),
        (definition(max_len=12), "max_len: 12: too short"),
        (definition(metric_meta=["ACC"]), "metric_meta: ACC: SpanClassification has EmF1"),
    ],
)
def test_definition_faults(task: TaskDef, fault: str) -> None:
    assert any(line.startswith(fault) for line in task.faults()), task.faults()


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"context": ""}, "context", "empty"),
        ({"question": None}, "question", "missing"),
        ({"answers": "Paris"}, "answers", "is needed"),
        ({"answers": {"text": ["x"]}}, "answers", "is needed"),
        ({"answers": {"text": ["The"], "answer_start": []}}, "answers", "same number"),
        ({"answers": {"text": [], "answer_start": []}}, "answers", "SpanClassificationYN"),
        ({"answers": {"text": [7], "answer_start": [0]}}, "answers.text", "not empty"),
        ({"answers": {"text": [" "], "answer_start": [3]}}, "answers.text", "not empty"),
        ({"answers": {"text": ["The"], "answer_start": ["0"]}}, "answers.answer_start", "whole number"),
        ({"answers": {"text": ["The"], "answer_start": [True]}}, "answers.answer_start", "whole number"),
        ({"answers": {"text": ["The"], "answer_start": [-112]}}, "answers.answer_start", "not the answer"),
        ({"answers": {"text": ["bridge"], "answer_start": [9]}}, "answers.answer_start", "the context has 'ridge '"),
        ({"answers": {"text": ["1886"], "answer_start": [10**400]}}, "answers.answer_start", "^.{,150}$"),
        ({"gold_answers": "1886"}, "gold_answers", "a list of texts"),
        ({"gold_answers": []}, "gold_answers", "a list of texts"),
        ({"gold_answers": ["1886", " "]}, "gold_answers", "a list of texts"),
        ({"gold_answers": ["1886"], "answers": None}, "gold_answers", "without `answers`"),
    ],
)
def test_row_faults(change: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(RowError, match=message) as caught:
        definition().type.parse_row(row() | change)
    assert caught.value.field == field


def test_rows_in_the_official_list_form_and_without_answers() -> None:
    kind = definition().type
    listed = kind.parse_row(row(answers=[{"text": "1886", "answer_start": CONTEXT.index("1886")}]))
    assert listed["answers"] == {"text": ["1886"], "answer_start": [CONTEXT.index("1886")]}
    assert kind.parse_row(row(answers=None))["answers"] is None
    assert definition("SpanClassificationYN").type.parse_row(row(None))["answers"]["text"] == []


@pytest.mark.parametrize(
    "family", ["bert", "roberta", "xlm-roberta", "albert", "deberta-v2", "modernbert", "mpnet", "t5"]
)
@pytest.mark.parametrize("answer", ["near the river", "1886", "(2-1)", "Zürich", "café", "3.5 percent", "The", "!"])
def test_answers_come_back_from_their_positions(tiny_model_dir: Any, family: str, answer: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir(family))
    kind = definition().type
    (feature,) = kind.featurize([kind.parse_row(row(answer))], tokenizer, 256, training=True)
    assert said(feature) == answer
    assert set(kind.columns) <= set(feature)
    inside = np.flatnonzero(feature["offset_start"] >= 0)
    support = np.flatnonzero(feature["passage_mask"])
    assert len(support) == len(inside) + 1  # the passage and one position for "no answer"


def test_windows_cover_the_passage_and_only_whole_answers_are_positions(tokenizer: PreTrainedTokenizerBase) -> None:
    kind = definition(doc_stride=8).type
    context = " ".join(f"the cat slept and dog {i} rose." for i in range(30))
    gold = "dog 17 rose"
    begin = context.index(gold)
    parsed = kind.parse_row(row(context=context, answers={"text": [gold], "answer_start": [begin]}))
    features = kind.featurize([parsed], tokenizer, 48, training=True)
    assert len(features) > 5
    assert all(len(feature["input_ids"]) <= 48 for feature in features)
    covered = np.zeros(len(context), dtype=bool)
    for feature in features:
        inside = feature["offset_start"] >= 0
        low, high = feature["offset_start"][inside], feature["offset_end"][inside]
        for a, b in zip(low, high, strict=True):
            covered[a:b] = True
        holds = low.min() <= begin and high.max() >= begin + len(gold)
        assert answered(feature) == holds
        if holds:
            assert said(feature, context) == gold
        else:
            assert feature["start_positions"] == feature["end_positions"] == 0
    assert all(covered[i] or char == " " for i, char in enumerate(context))
    assert any(answered(feature) for feature in features)
    ends = [feature["offset_end"].max() for feature in features]
    starts = [feature["offset_start"][feature["offset_start"] >= 0].min() for feature in features]
    assert all(a > b for a, b in zip(ends, starts[1:], strict=False))  # neighbours overlap


def test_the_overlap_shrinks_where_the_length_leaves_no_room(tokenizer: PreTrainedTokenizerBase) -> None:
    kind = definition(doc_stride=128).type
    features = kind.featurize([kind.parse_row(row())], tokenizer, 24, training=True)
    assert max(len(feature["input_ids"]) for feature in features) <= 24
    assert features[-1]["offset_end"].max() == len(CONTEXT)


def test_long_questions_are_cut(tokenizer: PreTrainedTokenizerBase) -> None:
    kind = definition().type
    (first, *_) = kind.featurize([kind.parse_row(row(question="the old river " * 60))], tokenizer, 128, training=True)
    question = int(np.flatnonzero(first["offset_start"] >= 0)[0]) - 2  # before it: CLS, the question, SEP
    assert question == 64


def test_surrounding_space_of_an_answer_is_ignored(tokenizer: PreTrainedTokenizerBase) -> None:
    kind = definition().type
    (feature,) = kind.featurize([kind.parse_row(row(" river "))], tokenizer, 128, training=True)
    assert said(feature) == "river"


def test_unlabelled_and_unanswerable_rows(tokenizer: PreTrainedTokenizerBase) -> None:
    kind = definition("SpanClassificationYN").type
    rows = [kind.parse_row(row(answers=None)), kind.parse_row(row(None))]
    unlabelled, unanswerable = kind.featurize(rows, tokenizer, 128, training=True)
    assert (unlabelled["start_positions"], unlabelled["end_positions"], unlabelled["labelled"]) == (-1, -1, False)
    assert (unanswerable["start_positions"], unanswerable["end_positions"], unanswerable["labelled"]) == (0, 0, True)


def test_too_short_lengths_and_slow_tokenizers_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    kind = definition().type
    with pytest.raises(UserError, match="max_len: 8 is too short"):
        kind.featurize([kind.parse_row(row())], tokenizer, 8, training=True)

    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="fast tokenizer"):
        kind.featurize([kind.parse_row(row())], Slow(), 128, training=True)


def sure(feature: dict[str, Any], begin: int, end: int, by: float = 5.0, null: float = 0.0) -> dict[str, np.ndarray]:
    """Outputs that favour one span, and CLS by `null`."""
    out = {f"{side}_logits": np.zeros(len(feature["input_ids"]), dtype=np.float32) for side in ("start", "end")}
    out["start_logits"][begin] += by
    out["end_logits"][end] += by
    out["start_logits"][0] += null
    out["end_logits"][0] += null
    return out


def test_v1_decodes_the_best_span_over_windows(tokenizer: PreTrainedTokenizerBase) -> None:
    kind = definition(doc_stride=4).type
    rows = [kind.parse_row(row("Zürich", id="a")), kind.parse_row(row("1886", id="b"))]
    features = kind.featurize(rows, tokenizer, 40, training=False)
    outputs = [sure(f, f["start_positions"], f["end_positions"], 5.0, null=9.0) for f in features]
    made = kind.decode(rows, features[::-1], outputs[::-1])
    assert [p.record["prediction"] for p in made] == ["Zürich", "1886"]
    assert kind.score(rows, made) == {"em": 100.0, "f1": 100.0}
    files = kind.files(made)
    assert files["predictions.json"] == {"a": "Zürich", "b": "1886"}
    assert len(files["nbest_predictions.json"]["a"]) == 20
    json.dumps(files)
    assert kind.main_metric() == "f1"
    assert kind.score([{"answers": None}], made[:1]) == {}


def test_answers_are_never_taken_from_the_question_and_respect_the_length(tokenizer: PreTrainedTokenizerBase) -> None:
    kind = definition(max_answer_length=2).type
    rows = [kind.parse_row(row())]
    (feature,) = kind.featurize(rows, tokenizer, 128, training=False)
    first = int(np.flatnonzero(feature["offset_start"] >= 0)[0])
    output = sure(feature, 2, 3, 50.0)  # tokens of the question
    output["start_logits"][first] = output["end_logits"][first + 5] = 9.0
    (made,) = kind.decode(rows, [feature], [output])
    for entry in made.extra["nbest"]:
        assert entry["text"] in CONTEXT
        assert len(tokenizer(entry["text"], add_special_tokens=False)["input_ids"]) <= 2


def yn_set(tokenizer: PreTrainedTokenizerBase) -> tuple[Any, list[dict[str, Any]], list[Any]]:
    """Four answerable and four unanswerable questions whose null scores a threshold of about 5 tells apart."""
    kind = definition("SpanClassificationYN").type
    rows = [kind.parse_row(row(a, id=f"h{i}")) for i, a in enumerate(["1886", "café", "river", "Zürich"])]
    rows += [kind.parse_row(row(None, id=f"n{i}")) for i in range(4)]
    features = kind.featurize(rows, tokenizer, 128, training=False)
    strong = [1.0, 2.0, 3.0, 9.5, 7.0, 8.0, 9.0, 10.0]  # null pair: twice this; the best span: 10
    outputs = []
    for feature, null in zip(features, strong, strict=True):
        begin = feature["start_positions"] if answered(feature) else int(np.flatnonzero(feature["offset_end"] > 0)[4])
        outputs.append(sure(feature, begin, max(begin, feature["end_positions"]), 5.0, null))
    return kind, rows, kind.decode(rows, features, outputs)


def test_v2_tunes_the_threshold_and_all_files_agree(tokenizer: PreTrainedTokenizerBase) -> None:
    kind, rows, made = yn_set(tokenizer)
    diffs = [p.record["null_score_diff"] for p in made]
    assert diffs == pytest.approx([-8, -6, -4, 9, 4, 6, 8, 10])
    assert [p.record["prediction"] for p in made] == ["1886", "café", "river", "", "", "", "", ""]  # threshold 0
    scores = kind.score(rows, made)
    assert scores["best_f1_thresh"] == kind.threshold == pytest.approx(-4)
    assert scores["f1"] == scores["em"] == pytest.approx(87.5)
    assert (scores["has_ans_f1"], scores["no_ans_acc"]) == pytest.approx((75, 100))
    files = kind.files(made)
    assert files["predictions.json"] == {p.record["id"]: p.record["prediction"] for p in made}
    assert files["null_odds.json"] == dict(zip([r["id"] for r in rows], diffs, strict=True))
    golds = {r["id"]: r["answers"]["text"] for r in rows}
    official = squad_metrics.evaluate_v2(golds, files["predictions.json"])
    assert (official["exact"], official["f1"]) == pytest.approx((scores["em"], scores["f1"]))


def test_v2_without_labels_keeps_its_threshold(tokenizer: PreTrainedTokenizerBase) -> None:
    kind, rows, made = yn_set(tokenizer)
    kind.threshold = 20.0
    assert kind.score([r | {"answers": None} for r in rows], made) == {}
    assert kind.answer_text(made[3]) == "Zürich"
    kind.restore({"f1": 80.0, "best_f1_thresh": -4.0})
    assert [kind.answer_text(made[i]) for i in (2, 3, 4)] == ["river", "", ""]
    kind.restore({})
    assert kind.threshold == 0.0


def test_v2_keeps_to_a_threshold_of_another_set(tokenizer: PreTrainedTokenizerBase) -> None:
    own, _, _ = yn_set(tokenizer)
    own.threshold = 7.0  # abstains from "Zürich" and from two of the others
    kind, rows, made = yn_set(tokenizer)
    tuned = yn_set(tokenizer)[0].score(rows, made)
    kind.follow(own)
    scores = kind.score(rows, made)
    assert kind.threshold == 7.0 and (scores["has_ans_f1"], scores["no_ans_acc"]) == pytest.approx((75, 50))
    assert scores["f1"] == pytest.approx(62.5) and scores["best_f1"] == tuned["f1"] == pytest.approx(87.5)
    assert scores["best_f1_thresh"] == tuned["best_f1_thresh"] == pytest.approx(-4)


@pytest.mark.parametrize("name", ["SpanClassification", "SpanClassificationYN"])
def test_texts_to_compare_with_may_differ_from_the_spans(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    kind = definition(name).type
    rows = [kind.parse_row(row("1886", gold_answers=gold)) for gold in (["the 1886", "year 1886"], ["1887"], None)]
    features = kind.featurize(rows, tokenizer, 128, training=False)
    begin = features[0]["start_positions"]
    made = kind.decode(rows, features, [sure(f, begin, f["end_positions"], 5.0, -5.0) for f in features])
    assert [p.record["prediction"] for p in made] == ["1886"] * 3
    found = [kind.score([one], [prediction]) for one, prediction in zip(rows, made, strict=True)]
    assert [scores["em"] for scores in found] == [100, 0, 100]
    assert kind.shown(rows[0], made[0])["gold"] == "the 1886 / year 1886"


def test_a_threshold_may_abstain_everywhere(tokenizer: PreTrainedTokenizerBase) -> None:
    kind, rows, made = yn_set(tokenizer)
    only = slice(4, 8)
    scores = kind.score(rows[only], made[only])
    assert scores["f1"] == 100.0
    assert all(p.record["prediction"] == "" for p in made[only])


def plain_window(start: list[float], end: list[float], text: Any = None) -> Window:
    usable = np.array([False] + [True] * (len(start) - 1))
    show = text or (lambda i, j: f"{i}-{j}")
    return Window(np.array(start), np.array(end), usable, usable, (start[0], end[0]), show)


def test_equal_scores_keep_the_order_of_windows_and_positions() -> None:
    answer = decode_question([plain_window([0, 1, 1], [0, 1, 1]), plain_window([0, 1, 1], [0, 1, 1])], False, 20, 30)
    assert [entry.text for entry in answer.nbest] == ["1-1", "1-2", "2-2"]


def test_equal_texts_stand_once_with_their_best_score() -> None:
    answer = decode_question([plain_window([0, 3, 1], [0, 1, 5], lambda i, j: "same")], False, 20, 30)
    assert [(entry.text, entry.score, entry.probability) for entry in answer.nbest] == [("same", 8.0, 1.0)]


def test_no_valid_span() -> None:
    late_start = plain_window([0.0, 0.0, 9.0], [0.0, 9.0, 0.0])
    answer = decode_question([late_start], False, 1, 30)
    assert (answer.best, answer.null_score_diff, len(answer.nbest)) == ("", None, 1)
    with_null = decode_question([late_start], True, 1, 30)
    assert with_null.text() == ""
    assert with_null.null_score_diff == 0.0


def test_the_null_score_is_the_smallest_over_windows() -> None:
    answer = decode_question([plain_window([4, 1], [4, 1]), plain_window([1, 1], [0.5, 1])], True, 20, 30)
    assert answer.null_score_diff == pytest.approx(1.5 - 2.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Café-Bar", ["cafe", "-", "bar"]),
        ("東京x", ["東", "京", "x"]),
        ("a\0b\u200bc\td", ["abc", "d"]),
        ("$5", ["$", "5"]),
    ],
)
def test_basic_words(text: str, words: list[str]) -> None:
    assert basic_words(text, lower=True) == words


def test_final_text_falls_back_to_the_whole_text() -> None:
    assert final_text("zebra", "A Horse", True) == "A Horse"
    assert final_text("horse", "a\0 horse", True) == "a\0 horse"  # characters were dropped: no alignment
    assert final_text("Horse", "A Horse's", False) == "Horse"


@pytest.mark.slow
def test_squad_dev_answers_come_back(real_data: Path, real_model: Path) -> None:
    """Every answer of the SQuAD v1.1 dev set, with the real vocabulary and windows of 384 tokens."""
    from transformers import AutoTokenizer

    from mtrobust.data.rows import read_rows

    task = definition()
    rows = read_rows(task, real_data / "SQuAD-v1.1" / "dev-v1.1.json")
    assert len(rows) == 10570
    rows = rows[::3]
    features = task.type.featurize(rows, AutoTokenizer.from_pretrained(real_model), 384, training=True)
    found: dict[int, set[str]] = {i: set() for i in range(len(rows))}
    for feature in features:
        if answered(feature):
            found[feature["row"]].add(said(feature, rows[feature["row"]]["context"]))
    golds = [r["answers"]["text"][0] for r in rows]
    assert all(found.values()), "an answer lies in no window"
    exact = np.mean([found[i] == {gold} for i, gold in enumerate(golds)])
    # The others begin or end inside a word piece ("Japan" of "Japanese"): positions say the whole piece.
    assert all(gold.strip() in text for i, gold in enumerate(golds) for text in found[i])
    assert exact > 0.99, exact
