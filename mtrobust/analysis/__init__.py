"""What a method does to the representations of a trained encoder: one file per analysis, data and a picture each.

Importing this package registers the analyses and loads nothing heavy.
"""

from __future__ import annotations

from mtrobust.analysis import drift, frequency, heatmap, layers, neighbours, smoothness, space  # noqa: F401
from mtrobust.analysis.base import ANALYSES, Analysis, AnalysisOptions

__all__ = ["ANALYSES", "Analysis", "AnalysisOptions"]
