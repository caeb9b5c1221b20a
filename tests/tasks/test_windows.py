"""Windows over long passages: what neighbours share, and how questions are cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtrobust.tasks.taskdef import TaskDef

CONTEXT = "The old bridge was built near the river in 1886. The team won (2-1) in Zürich, and the café rose!"
FACE = "\N{GRINNING FACE}"


@pytest.fixture
def tokenizer(request: pytest.FixtureRequest, tiny_model_dir: Callable[[str], Path]) -> Any:
    """That of a family."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir(request.param))


def windows(tokenizer: Any, length: int, *rows: tuple[str, str]) -> list[dict[str, Any]]:
    """The features of (question, context) pairs."""
    kind = TaskDef(name="qa", task_type="SpanClassification", data_format="MRC", doc_stride=40).type
    raws = [{"id": str(i), "question": asked, "context": context} for i, (asked, context) in enumerate(rows)]
    return kind.featurize([kind.parse_row(raw) for raw in raws], tokenizer, length, training=False)


def ids(features: list[dict[str, Any]]) -> list[list[int]]:
    return [feature["input_ids"].tolist() for feature in features]


@pytest.mark.parametrize("tokenizer", ["bert", "roberta", "modernbert", "albert", "t5"], indirect=True)
def test_neighbours_share_what_is_asked_for_where_the_question_leaves_room(tokenizer: Any) -> None:
    first, second, *_ = windows(tokenizer, 128, ("Where?", CONTEXT * 9))
    shared = (second["offset_start"] >= 0) & (second["offset_end"] <= first["offset_end"].max())
    assert shared.sum() == 40


@pytest.mark.parametrize("tokenizer", ["bert", "roberta", "albert"], indirect=True)
@pytest.mark.parametrize("length", [48, 128])
def test_the_windows_of_a_row_do_not_depend_on_the_rows_beside_it(tokenizer: Any, length: int) -> None:
    rows = [(asked, CONTEXT * 9) for asked in ("Where?", "the old river " * 60, f"cat {FACE} " * 40, "Who won it?")]
    together = windows(tokenizer, length, *rows)
    assert [feature["row"] for feature in together] == sorted(feature["row"] for feature in together)
    for i, row in enumerate(rows):
        assert ids(windows(tokenizer, length, row)) == ids([f for f in together if f["row"] == i])


@pytest.mark.parametrize("tokenizer", ["bert", "roberta", "modernbert", "deberta-v2", "t5"], indirect=True)
@pytest.mark.parametrize("length", [16, 18, 33])
@pytest.mark.parametrize(
    "question",
    [f"cat {FACE * 4}" * 2, FACE * 40, "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}" * 9, "é" * 99],
    ids=["cats", "faces", "ligatures", "accents"],
)
def test_characters_of_many_tokens_leave_room_for_the_passage(tokenizer: Any, length: int, question: str) -> None:
    features = windows(tokenizer, length, (question, CONTEXT))
    assert max(map(len, ids(features))) <= length
    pieces = [piece for f in features for piece in zip(f["offset_start"], f["offset_end"], strict=True)]
    covered = {i for begin, end in pieces for i in range(begin, end)}
    assert covered >= {i for i, char in enumerate(CONTEXT) if not char.isspace()}
