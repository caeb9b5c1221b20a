"""A loss of a released code that is no divergence, as a plug-in: a `Divergence` whose values are its own formula."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrobust.perturb.divergence import Divergence, widen


class LogOdds(Divergence):
    """MT-DNN's NsKlCriterion, also the inner loss of its SMART (there the first argument is the noisy side).

    2 sum p (r(p) - r(q)) with r(x) = -log(1/(x + 1e-6) - 1 + 1e-6); only the leading p has a gradient.
    """

    def __init__(self, both: bool = False) -> None:
        super().__init__("log_odds", lambda pair: pair.x, detach_default=False)
        self.both = both

    def values(self, clean_logits: Tensor, noisy_logits: Tensor, support: Tensor | None) -> Tensor:
        assert support is None
        # Not softmax: the log-odds of a probability near 1 are made of its rounding, so this has to be theirs.
        p, q = (widen(logits).log_softmax(-1).exp() for logits in (clean_logits, noisy_logits))
        gap = (self._odds(p) - self._odds(q)).detach()
        return 2 * ((p - q) * gap if self.both else p * gap).sum(-1)

    @staticmethod
    def _odds(x: Tensor) -> Tensor:
        return -torch.log(1 / (x + 1e-6) - 1 + 1e-6)
