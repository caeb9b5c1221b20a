"""How the known text-classification sets lie on disk: one reader each, from a raw folder to splits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mtrobust.errors import UserError

from .common import Items, Record, Reject, Row, accept, label_of, text_of
from .labels import named, numbered
from .readers import open_raw, read_csv, read_json_object


@dataclass(frozen=True)
class TextSet:
    """One set: its reader, and the share of training rows that becomes dev where the original has no dev set."""

    read: Callable[[Path], dict[str, Items]]
    dev_share: float


def _present(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """The files of a folder that are there, by name. Raises `UserError` when none is."""
    names = list(names)
    found = {name: folder / name for name in names if (folder / name).is_file()}
    if not found:
        raise UserError(f"--raw: {folder}: none of {', '.join(names)} found")
    return found


def mr_lines(path: Path, label: str) -> Iterator[Record]:
    """One sentence a line, windows-1252 with latin-1 for the few bytes that has no letter for; split at \\n only."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            text = line.decode("cp1252")
        except UnicodeDecodeError:
            text = line.decode("latin-1")
        if text.strip():
            yield Record(f"{path}:{number}", {"text": text, "label": label})


def read_mr(folder: Path) -> dict[str, Items]:
    """rt-polarity.pos and rt-polarity.neg; ids tell the file and the line (`pos-17`)."""
    files = {"neg": folder / "rt-polarity.neg", "pos": folder / "rt-polarity.pos"}
    missing = [path.name for path in files.values() if not path.is_file()]
    if missing:
        raise UserError(f"--raw: {folder}: {', '.join(missing)} not found")
    records = (r for side, path in files.items() for r in mr_lines(path, {"neg": "negative", "pos": "positive"}[side]))

    def convert(record: Record) -> Row:
        path, number = record.place.rsplit(":", 1)
        row = {"text": text_of(record.fields, "text"), "label": record.fields["label"]}
        return {"id": f"{path.rsplit('.', 1)[-1]}-{number}"} | row

    return {"train": accept(records, convert)}


Columns = tuple[str, ...]


def _csv_split(path: Path, header: Columns | None, label: str, texts: Columns, names: dict[str, str]) -> Items:
    def convert(record: Record) -> Row:
        text = " ".join(text_of(record.fields, name) for name in texts)
        return {"text": text, "label": label_of(record.fields, label, names)}

    return accept(read_csv(path, (*texts, label), header), convert)


def read_agnews(folder: Path) -> dict[str, Items]:
    """train.csv and test.csv (class 1-4, title, description, joined by a space), or the joined sample (text, 0-3)."""
    found = _present(folder, ("train.csv", "train_sample_joined.csv", "test.csv"))
    original = ("class", "title", "description")
    splits = {
        name: _csv_split(found[f"{name}.csv"], original, "class", original[1:], numbered("agnews", 1))
        for name in ("train", "test")
        if f"{name}.csv" in found
    }
    if "train" not in splits and "train_sample_joined.csv" in found:
        joined = found["train_sample_joined.csv"]
        splits["train"] = _csv_split(joined, ("text", "class"), "class", ("text",), numbered("agnews"))
    return splits


def read_yelp(folder: Path) -> dict[str, Items]:
    """Yelp review polarity: train.csv and test.csv, class 1 negative, 2 positive; literal `\\n` becomes a space."""
    splits = {
        path.stem: _csv_split(path, ("class", "text"), "class", ("text",), numbered("yelp", 1))
        for path in _present(folder, ("train.csv", "test.csv")).values()
    }
    return {name: spaced(items, "\\n") for name, items in splits.items()}


def spaced(items: Items, mark: str) -> Iterator[Row | Reject]:
    """The same rows with the mark, and every run of spaces, as one space."""
    for item in items:
        if isinstance(item, Reject):
            yield item
        else:
            yield item | {"text": " ".join(item["text"].replace(mark, " ").split())}


def _imdb_folders(folder: Path, part: str) -> Iterator[Record | Reject]:
    for label, side in (("negative", "neg"), ("positive", "pos")):
        for path in sorted((folder / part / side).glob("*.txt")):
            with open_raw(path) as file:
                text = file.read()
            if any("\udc80" <= c <= "\udcff" for c in text):
                yield Reject(f"{path}:1", "not UTF-8")
            else:
                yield Record(f"{path}:1", {"text": text, "label": label, "id": f"{side}/{path.stem}"})


def _imdb_sample(path: Path) -> dict[str, Items]:
    """The fastai sample (label, text, is_valid): `is_valid` rows are dev."""

    def part(dev: bool) -> Items:
        def convert(record: Record) -> Row:
            return {"text": text_of(record.fields, "text"), "label": label_of(record.fields, "label", named("imdb"))}

        records = read_csv(path, ("label", "text", "is_valid"))
        return accept(
            (r for r in records if (isinstance(r, Record) and r.fields["is_valid"] == "True") == dev), convert
        )

    return {"train": part(False), "dev": part(True)}


def _imdb_object(path: Path) -> Items:
    """A JSON object of `{"0": {"ori": text, "label": "0" or "1"}, ...}`, in which 0 is positive: a reader of the texts
    sees it, and a classifier trained on other reviews is right on 76 % of them so, on 24 % otherwise."""
    names = {"0": "positive", "1": "negative"}

    def convert(record: Record) -> Row:
        return {"text": text_of(record.fields, "ori"), "label": label_of(record.fields, "label", names)}

    return accept(read_json_object(path), convert)


def read_imdb(folder: Path) -> dict[str, Items]:
    """aclImdb's folders, the Kaggle file, or the small samples; `<br />` becomes a space."""
    root = folder / "aclImdb" if (folder / "aclImdb").is_dir() else folder
    splits: dict[str, Items] = {}
    for part in ("train", "test"):
        if (root / part / "pos").is_dir() and (root / part / "neg").is_dir():
            splits[part] = accept(
                _imdb_folders(root, part),
                lambda r: {"id": r.fields["id"], "text": text_of(r.fields, "text"), "label": r.fields["label"]},
            )
    if not splits:
        found = _present(folder, ("IMDB Dataset.csv", "texts.csv", "balanced_1000.json"))
        if "IMDB Dataset.csv" in found:
            splits["train"] = _csv_split(found["IMDB Dataset.csv"], None, "sentiment", ("review",), named("imdb"))
        elif "texts.csv" in found:
            splits |= _imdb_sample(found["texts.csv"])
        if "balanced_1000.json" in found:
            splits["test"] = _imdb_object(found["balanced_1000.json"])
    return {name: spaced(items, "<br />") for name, items in splits.items()}


SETS: dict[str, TextSet] = {
    "mr": TextSet(read_mr, 0.1),
    "agnews": TextSet(read_agnews, 0.05),
    "imdb": TextSet(read_imdb, 0.1),
    "yelp": TextSet(read_yelp, 0.02),
}


def letters(text: str) -> str:
    """The letters and digits of a text, lower-cased: what stays equal under tokenising and spacing.

    Texts mostly in ASCII are compared by their ASCII letters, for published copies of them often lost the others.
    """
    every = [character for character in text.casefold() if character.isalnum()]
    plain = [character for character in every if character.isascii()]
    return "".join(plain if 2 * len(plain) > len(every) else every)
