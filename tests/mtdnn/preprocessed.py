"""Rows as lines of token ids, in the keys that MT-DNN's preprocessing writes."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
WINDOW, SHARED = 48, 10  # tokens of a window, and those that two neighbours share


def text_lines(rows: list[Row], tokenizer: Any, labels: list[str] | None = None, padded_to: int = 0) -> list[Row]:
    """labels: names that become numbers; padded_to: with padding up to that length, as `--do_padding` has it."""
    lines = []
    for row in rows:
        made = tokenizer(row["text"], row.get("text_pair"), truncation=True, max_length=64)
        ids = made["input_ids"]
        fill = [0] * max(0, padded_to - len(ids))
        label = row["label"] if labels is None else labels.index(row["label"])
        lines.append({
            "uid": row["id"], "label": label,
            "token_id": ids + [tokenizer.pad_token_id] * len(fill),
            "type_id": made.get("token_type_ids", [0] * len(ids)) + fill,
            "attention_mask": [1] * len(ids) + fill,
        })  # fmt: skip
    return lines


def span_lines(rows: list[Row], tokenizer: Any, training: bool) -> list[Row]:
    """One line per window: positions of the first answer in tokens to train on, else what decoding needs."""
    lines = []
    for row in rows:
        made = tokenizer(
            row["question"], row["context"], truncation="only_second", max_length=WINDOW, stride=SHARED,
            return_overflowing_tokens=True, return_offsets_mapping=True, padding="max_length",
        )  # fmt: skip
        for i, ids in enumerate(made["input_ids"]):
            types = made["token_type_ids"][i] if "token_type_ids" in made else [0] * len(ids)
            line = {"uid": row["id"], "token_id": ids, "mask": made["attention_mask"][i], "type_id": types}
            if training:
                line["start_position"], line["end_position"] = _positions(row["answers"], made, i)
                line["label"] = int(not row["answers"]["text"])
            else:
                line |= {"offset_mapping": made["offset_mapping"][i], "null_ans_index": 0, "context": row["context"]}
                line |= {"answer": row["answers"] | {"is_impossible": not row["answers"]["text"]}, "label": None}
            lines.append(line)
    return lines


def _positions(answers: Row, made: Any, window: int) -> tuple[int, int]:
    """Of the tokens that hold the answer's first and last character; those of CLS where the window has not both."""
    if not answers["text"]:
        return 0, 0
    begin = answers["answer_start"][0]
    first = made.char_to_token(window, begin, sequence_index=1)
    last = made.char_to_token(window, begin + len(answers["text"][0]) - 1, sequence_index=1)
    return (0, 0) if first is None or last is None else (first, last)


def list_lines(rows: list[Row], tokenizer: Any) -> list[Row]:
    """Lists of candidates: each field has one entry per candidate."""
    lines = []
    for row in rows:
        made = [tokenizer(row["text"], text, truncation=True, max_length=64) for text in row["candidates"]]
        labels = [float(place == row["label"]) for place in range(len(made))]
        lines.append({
            "uid": row["id"], "label": row["label"], "olabel": labels,
            "ruid": [f"{row['id']}-{i}" for i in range(len(made))],
            "token_id": [one["input_ids"] for one in made],
            "type_id": [one.get("token_type_ids", [0] * len(one["input_ids"])) for one in made],
            "attention_mask": [one["attention_mask"] for one in made],
        })  # fmt: skip
    return lines


def tag_lines(rows: list[Row], tokenizer: Any, labels: list[str]) -> list[Row]:
    """Each word's pieces, the first with the word's tag, the others with X."""
    lines = []
    for row in rows:
        ids, tags = [tokenizer.cls_token_id], ["CLS"]
        for word, tag in zip(row["tokens"], row["tags"], strict=True):
            pieces = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(word))
            ids, tags = ids + pieces, tags + [tag] + ["X"] * (len(pieces) - 1)
        ids, tags = [*ids, tokenizer.sep_token_id], [*tags, "SEP"]
        numbers = [labels.index(tag) for tag in tags]
        lines.append({"uid": row["id"], "label": numbers, "token_id": ids, "type_id": [0] * len(ids)})
    return lines
