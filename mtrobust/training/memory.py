"""How much memory a run takes: an estimate before the first step, and the peak that was measured.

The estimate adds up weights, gradients, the optimiser's state and the activations of the largest batch. A layer keeps
for the backward pass, with width H, A heads, width I inside the feed-forward block, w bytes a number (4; under bfloat16
2) and m bytes an entry of a dropout mask (0 without dropout; on the CPU a tensor of factors, w; elsewhere 1):

    attention, per token      H * (4 norm's input + m mask + w * (1 projections' input + 1 context) + 3 * s)
    feed-forward, per token   H * (4 norm's input + m mask + w input) + I * w * n
    scores, per pair          A * (4 softmax + m' mask + s what multiplies the values), over T * T pairs

where s is the width of a number inside attention, m' its mask (4 or 1), the last summand only with dropout or where the
softmax is narrowed, and n the tensors as wide as the feed-forward block: 2 (before and after the activation), more
where the activation is written out or gated. Under bfloat16 each of the three projections keeps a copy of the input,
and the graph holds copies of the layers' matrices. A fused attention kernel keeps no scores, only the padding mask (w);
on the CPU it runs without dropout alone. Where heads read the first token, the last layer has no feed-forward part. The
embedding block keeps H * (4 + m). Under gradient checkpointing a layer keeps its input, 4 H, and one at a time all.

Against what autograd saves on the CPU this was within 2 % for BERT and RoBERTa, and within a fifth for the others, at
32 to 384 tokens, both precisions; T5 without dropout in bfloat16 keeps up to 1.8 times as much. Masks of accelerators
are after PyTorch's kernels, not measured.

Not counted: heads (a vocabulary's logits among them), the data, libraries, models that a method loads for itself, and
what is needed for the length of one operation. Where a method draws its layer, the mean over its layers is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtrobust.data.sampler import TaskRows
from mtrobust.models.encoder import Encoder
from mtrobust.training.step import TrainStep

MIB = 2**20
OPTIMISER_STATES = 2  # tensors of a parameter's size: AdamW's and Adamax's two moments
_GATED = ("modernbert",)  # T5 says it in its configuration
_TIMES = {"deberta": 2.0}  # its norms are written out, and its position scores are T x 2T: 1.8 to 2.6 measured


@dataclass(frozen=True)
class Estimate:
    """Bytes at the peak. task, rows, length: the padded batch that takes most; passes: alive at once in its step."""

    weights: int
    gradients: int
    optimiser: int
    activations: int
    task: str
    rows: int
    length: int
    passes: float

    @property
    def total(self) -> int:
        """The sum of the four."""
        return self.weights + self.gradients + self.optimiser + self.activations

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {getattr(self, name) / MIB:.0f}" for name in list(vars(self))[:4])
        return (
            f"estimated peak memory {self.total / MIB:.0f} MiB ({parts}; largest batch: {self.task}, {self.rows} rows "
            f"of {self.length} tokens, {self.passes:.2f} passes at once)"
        )


def estimate(
    step: TrainStep, tasks: Mapping[str, TaskRows], device: torch.device, bf16: bool, max_tokens: int | None = None
) -> Estimate:
    """What one process will take at its peak. tasks: the rows of each task that is trained on."""
    tensors = [*step.parameters(), *step.buffers()]
    trained = sum(tensor.nbytes for tensor in step.parameters() if tensor.requires_grad)
    encoder, largest = step.model.encoder, Estimate(0, 0, 0, -1, "", 0, 0, 0.0)
    for task, rows in tasks.items():
        head: Any = step.model.heads[task]
        compose, top = step.methods[task], encoder.num_layers
        needs, passes = compose.needs, compose.cost(top).memory
        kept = Kept.of(encoder, device.type, bf16, fused=not needs.double_backward)
        first = head.reads == "first" and not needs.last_states and top not in needs.sites
        for count, length in largest_batches(rows, max_tokens):
            activations = round(passes * kept.bytes(count, length, first)) + kept.copies
            if activations > largest.activations:
                largest = Estimate(
                    sum(tensor.nbytes for tensor in tensors), trained, OPTIMISER_STATES * trained,
                    activations, task, count, length, passes,
                )  # fmt: skip
    return largest


def largest_batches(rows: TaskRows, max_tokens: int | None) -> Iterator[tuple[int, int]]:
    """Padded shapes [B, T] among which the largest micro-batch is: of the largest rows, or, where a token budget sets
    the number of texts, of the rows of each length that occurs."""
    lengths, sizes = rows.lengths, rows.sizes
    if max_tokens is None:
        number = min(rows.batch_size, len(lengths))
        largest = np.argpartition(lengths * sizes, -number)[-number:]
        yield int(sizes[largest].sum()), int(lengths[largest].max())
        return
    most = np.zeros(int(lengths.max()) + 1, dtype=np.int64)  # texts of a row, by its length
    np.maximum.at(most, lengths, sizes)
    total = int(sizes.sum())
    for length in np.flatnonzero(most).tolist():
        yield max(int(most[length]), min(total, max_tokens // max(length, 1))), length


@dataclass(frozen=True)
class Kept:
    """Bytes that one pass keeps for the backward pass; see the top of this file.

    attention, above: per token of a layer; pair: per pair of tokens of a layer; embedding, boundary: per token of the
    embedding block and of a layer's input; layers: those that keep anything; again: whether they are computed again;
    copies: of the matrices, once a step.
    """

    attention: float
    above: float
    pair: float
    embedding: float
    boundary: float
    layers: int
    again: bool
    copies: int

    @classmethod
    def of(cls, encoder: Encoder, device: str, bf16: bool, fused: bool = True) -> Kept:
        """fused: whether fused attention kernels may run. Layers below the lowest weight that learns keep nothing."""
        config, width, number, cpu = encoder.config, encoder.hidden_size, 2 if bf16 else 4, device == "cpu"
        drops = _setting(config, "hidden_dropout_prob", "dropout", "dropout_rate", "mlp_dropout")
        drops_scores = _setting(config, "attention_probs_dropout_prob", "attention_dropout", "dropout_rate")
        mask, score_mask = (number if cpu else 1) if drops else 0, (4 if cpu else 1) if drops_scores else 0
        sdpa = getattr(config, "_attn_implementation", "eager") == "sdpa"
        fused = fused and sdpa and not (cpu and drops_scores)
        inside = 4 if sdpa and not fused else number  # sdpa's unfused form widens
        scores = 4 + score_mask + (inside if score_mask or inside < 4 else 0)
        times, lowest = _TIMES.get(encoder.model_type, 1.0), _lowest_learning(encoder)
        return cls(
            attention=times * width * (4 + mask + number * ((3 if bf16 else 1) + 1) + 3 * inside),
            above=times * (width * (4 + mask + number) + _inner(config) * number),
            pair=number if fused else times * config.num_attention_heads * scores,
            embedding=0.0 if lowest else width * (4 + ((4 if cpu else 1) if drops else 0)),
            boundary=4.0 * width,
            layers=encoder.num_layers - max(lowest - 1, 0),
            again=bool(encoder.base.is_activation_checkpointing),
            copies=sum(2 * p.numel() for p in encoder.layer_list.parameters() if p.dim() > 1) if bf16 else 0,
        )

    def bytes(self, rows: int, length: int, first: bool = False) -> float:
        """Of a pass over [rows, length] tokens. first: whether the head reads the first token's last state only."""
        tokens, layers = rows * length, self.layers
        layer = tokens * (self.attention + self.above) + rows * length**2 * self.pair
        if self.again:
            return tokens * (self.embedding + layers * self.boundary) + layer
        saved = tokens * self.above if first and layers > 1 else 0
        return tokens * self.embedding + layers * layer - saved


def _lowest_learning(encoder: Encoder) -> int:
    """0: the embedding block learns; else the number (from 1) of the lowest layer that does."""
    if encoder.word_embeddings.weight.requires_grad:
        return 0
    learns = [any(p.requires_grad for p in layer.parameters()) for layer in encoder.layer_list]
    return learns.index(True) + 1 if True in learns else encoder.num_layers + 1


def _setting(config: Any, *names: str) -> Any:
    """The first of these settings that a family has."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), 0)


def _inner(config: Any) -> int:
    """Numbers per token that the feed-forward block keeps at its own width."""
    width = _setting(config, "intermediate_size", "hidden_dim", "d_ff")
    activation = _setting(config, "dense_act_fn", "hidden_activation", "hidden_act", "activation")
    gated = getattr(config, "is_gated_act", config.model_type in _GATED)
    dropped = _setting(config, "mlp_dropout", "dropout_rate")  # families that drop inside the block
    return width * ((5 if activation == "gelu_new" else 2) + 2 * bool(gated) + bool(dropped))


# --- measured -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peak:
    """The most memory so far. of: `process` (all that is resident, libraries too) or the device that holds tensors."""

    mib: float
    of: str

    def __str__(self) -> str:
        return f"{self.mib:.0f} MiB " + ("of the whole process" if self.of == "process" else f"allocated on {self.of}")


def peak(device: torch.device) -> Peak | None:
    """CUDA: of PyTorch's allocator, since `reset`; elsewhere: of the whole process since its start. None where the
    platform does not say."""
    if device.type == "cuda":
        return Peak(torch.cuda.max_memory_allocated(device) / MIB, str(device))
    resident = _resident()
    return None if resident is None else Peak(resident / MIB, "process")


def reset(device: torch.device) -> None:
    """Begins a new peak, where that can be done."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _resident() -> int | None:
    """Peak resident bytes of this process."""
    try:  # Linux. Its getrusage would give what the parent process had, if that was more.
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split("\n"):
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return None
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024
