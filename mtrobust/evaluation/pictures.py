"""What all pictures have in common: palette, style, and the bytes of both formats. Needs matplotlib, an extra.

Every picture is made without a display, 800 px wide at 100 dpi. Colours: Okabe and Ito's, which people with any common
form of colour blindness can tell apart.
"""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from mtrobust.evaluation.run_folder import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASE, OTHERS = "#000000", ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#777777"
WIDTH = 8.0  # inches; 800 px at 100 dpi
MISSING = "matplotlib is not installed (pip install 'mtrobust[plot]')"
_STYLE: Any = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd",
    "axes.axisbelow": True, "legend.frameon": False, "svg.hashsalt": "mtrobust", "figure.constrained_layout.use": True,
}  # fmt: skip


class Picture(NamedTuple):
    """A drawn picture: stem of its files, caption, and the bytes of both formats."""

    stem: str
    caption: str
    png: bytes
    svg: bytes


def available() -> bool:
    """Whether matplotlib can be imported."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def style() -> AbstractContextManager[None]:
    """A context in which figures have the common style."""
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def new_figure(height: float) -> Figure:
    """An empty figure of the common width. height: in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height))


def save(stem: str, figure: Figure, caption: str, dpi: int = 200) -> Picture:
    """The figure's bytes: the same for the same figure, whenever and wherever it is drawn."""
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    figure.savefig(svg, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    return Picture(stem, caption, png.getvalue(), svg.getvalue())


def write_picture(folder: Path, picture: Picture) -> list[Path]:
    """Writes `<stem>.png` and `<stem>.svg`; each appears whole or not."""
    written = []
    for suffix, content in (("png", picture.png), ("svg", picture.svg)):
        written.append(folder / f"{picture.stem}.{suffix}")
        with atomic_file(written[-1]) as file:
            cast(io.TextIOWrapper, file).buffer.write(content)
    return written
