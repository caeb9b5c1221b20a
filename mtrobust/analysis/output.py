"""What an analysis leaves behind: data, pictures, a page, TensorBoard entries."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtrobust.analysis.base import Analysis, Found
from mtrobust.evaluation.pictures import Picture, available, save, style, write_picture
from mtrobust.evaluation.run_folder import atomic_file, write_json

BOARD = "tensorboard"
PNG_DPI = 125


def write(out: Path, stem: str, analysis: Analysis, found: Found) -> list[Path]:
    """Writes all files, `<stem>.csv`, `.json`, `.png`, `.svg`, `.html` and the folder `tensorboard/<stem>`.

    Without matplotlib the data are written all the same. Returns the paths.
    """
    written = [out / f"{stem}.csv", out / f"{stem}.json"]
    _write_csv(written[0], found.table)
    caption = analysis.caption(found)
    write_json(written[1], {"analysis": analysis.name, "caption": caption, "notes": found.notes, **found.data})
    picture = None
    if available():
        with style():
            picture = save(stem, analysis.draw(found), caption, PNG_DPI)
        written += write_picture(out, picture)
    if found.html is not None:
        written.append(out / f"{stem}.html")
        with atomic_file(written[-1]) as file:
            file.write(found.html)
    if found.scalars or found.points or picture is not None:
        written.append(out / BOARD / stem)
        _write_board(written[-1], stem, found, picture)
    return written


def _write_csv(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    with atomic_file(path) as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def _write_board(folder: Path, stem: str, found: Found, picture: Picture | None) -> None:
    """Scalars, the picture, and points for the projector; what an earlier analysis wrote there is replaced."""
    import torch
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as board:
        for tag, value, step in found.scalars:
            board.add_scalar(f"analysis/{tag}", value, step)
        for number, (tag, vectors, labels) in enumerate(found.points):
            board.add_embedding(torch.from_numpy(vectors), metadata=labels, tag=f"analysis/{tag}", global_step=number)
        if picture is not None:  # as the PNG file has it; the writer's own way needs a library to encode it again
            width, height = (int.from_bytes(picture.png[at : at + 4], "big") for at in (16, 20))
            image = Summary.Image(encoded_image_string=picture.png, width=width, height=height, colorspace=4)
            value = Summary.Value(tag=f"analysis/{stem}", image=image)
            board._get_file_writer().add_summary(Summary(value=[value]), 0)
