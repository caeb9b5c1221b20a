"""The stochastic answer network: several steps of reasoning over a pair of texts, whose predictions are averaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from mtrobust.tasks.base import EncoderInfo
from mtrobust.tasks.head_nets import NETS, refuse_export


class SanNet(nn.Module):
    """SAN over the last states M of a pair: P are the tokens of the first text, H those of the second.

        s_0 = sum_j a_j H_j,                 a = softmax over H of (w . H_j + b)
        x_k = sum_j b_j P_j,                 b = softmax over P of (P_j . (W s_k + c))
        y_k = V [s_k; x_k; |s_k - x_k|; s_k * x_k] + v,     s_{k+1} = GRU(x_k, s_k),     k = 0 .. steps - 1

    The output is the mean of the steps' posteriors, as log-probabilities (one output: the mean of the y_k). In training
    each step of each example is left out with probability `step_dropout`; where all would be, the one with the largest
    draw stays. In evaluation all count. Special tokens belong to the text before them, the first to the first text.
    Everything is computed in float32 at least, also in a bfloat16 run.

    Source: Liu, Duh and Gao 2018, Stochastic Answer Networks for Natural Language Inference (Section 2, without its
    encoder), as used by Liu et al. 2019, Multi-Task Deep Neural Networks, Section 3. Compared with MT-DNN's code:
    - the same order: the first prediction is made from s_0, before any GRU step (the papers' equations begin with one);
    - the same mean of posteriors over the steps that stay; there one step is fixed beforehand that always stays, and
      the sum is divided by the number of all steps, which its cross-entropy takes out again;
    - the memory is the first text (premise) as in the papers; in the code it is the second, since its inputs had the
      hypothesis first once and were turned round later;
    - one output (regression) is averaged as it is; there the softmax of a single number is always 1;
    - dropout once on the states, on s_k where it attends and before the GRU, and before V; no weight normalisation.

    dropout: default the encoder's.
    """

    first_only: ClassVar[bool] = False
    targets: ClassVar[tuple[str, ...]] = ("second",)

    def __init__(
        self, info: EncoderInfo, n: int, dropout: float | None, steps: int = 5, step_dropout: float = 0.1
    ) -> None:
        super().__init__()
        width = info.hidden_size
        self.steps, self.step_dropout = steps, step_dropout
        self.dropout = nn.Dropout(info.head_dropout if dropout is None else dropout)
        self.summary = nn.Linear(width, 1)
        self.attention = nn.Linear(width, width)
        self.gru = nn.GRUCell(width, width)
        self.classifier = nn.Linear(4 * width, n)

    def forward(self, last: Tensor, pooled: Tensor | None, inputs: Mapping[str, Tensor]) -> Tensor:
        """Outputs [B, n], float32 or wider. inputs: `attention_mask` [B, T]; `second` [B], where the second text
        begins."""
        with torch.autocast(last.device.type, enabled=False):
            states = self.dropout(last.float() if last.dtype.itemsize < 4 else last)
            first, second = parts(inputs["attention_mask"], inputs["second"])
            state = _weighted(states, self.summary(states).squeeze(-1), second)
            outputs = []
            for step in range(self.steps):
                query = self.attention(self.dropout(state))
                read = _weighted(states, (states @ query.unsqueeze(-1)).squeeze(-1), first)
                outputs.append(self.answer(state, read))
                if step + 1 < self.steps:
                    state = self.gru(read, self.dropout(state))
            return average(torch.stack(outputs, 1), self.kept(len(last), last.device))

    def answer(self, state: Tensor, read: Tensor) -> Tensor:
        """The outputs of one step, [B, n]."""
        both = torch.cat((state, read, (state - read).abs(), state * read), -1)
        return self.classifier(self.dropout(both))

    def kept(self, rows: int, device: torch.device) -> Tensor:
        """Which steps count, bool [rows, steps]: in training drawn from the generator that dropout draws from."""
        if not self.training or not self.step_dropout:
            return torch.ones(rows, self.steps, dtype=torch.bool, device=device)
        drawn = torch.rand(rows, self.steps, device=device)
        return (drawn >= self.step_dropout) | (drawn == drawn.amax(1, keepdim=True))

    def full_model(self, base: Any) -> NoReturn:
        """Refuses: see `refuse_export`."""
        refuse_export("enable_san: true")


@NETS.register("san")
def _san(task: Any, info: EncoderInfo, n: int) -> nn.Module:
    return SanNet(info, n, task.dropout_p, task.san_steps, task.san_step_dropout)


def parts(mask: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of the first and of the second text, bool [B, T] each; second: where the latter begins, [B]."""
    behind = torch.arange(mask.shape[1], device=mask.device) >= second.unsqueeze(1)
    return mask.bool() & ~behind, mask.bool() & behind


def _weighted(states: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """The mean of the states [B, T, H], weighted by the softmax of the scores [B, T] over the mask: [B, H]."""
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
    return (weights.unsqueeze(1) @ states).squeeze(1)


def average(outputs: Tensor, kept: Tensor) -> Tensor:
    """The mean over the kept steps of outputs [B, steps, n]: log of the mean posterior, or of one output itself."""
    count = kept.sum(1, keepdim=True).to(outputs.dtype)
    if outputs.shape[-1] == 1:
        return (outputs * kept.unsqueeze(-1)).sum(1) / count
    logs = outputs.log_softmax(-1).masked_fill(~kept.unsqueeze(-1), -torch.inf)
    return logs.logsumexp(1) - count.log()
