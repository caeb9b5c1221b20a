"""A `TrainStep` small enough that hundreds of runs take seconds, with all that a real one has: shared layers, heads
per task, dropout, keyed noise, unlabelled rows, parts that are not used in every step.

Run as a module it trains once: `python -m tests.training.fake OUTPUT_DIR key=value …`, under torchrun too.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mtrobust.config import TrainConfig
from mtrobust.data.sampler import MultiTaskSampler, TaskRows
from mtrobust.perturb.passes import Choice
from mtrobust.perturb.spread import spread
from mtrobust.tasks.base import Batch
from mtrobust.training.engine import make_accelerator
from mtrobust.training.trainer import Trainer

WORDS, WIDTH, LAYERS = 40, 12, 3
SIZES = {"a": 37, "b": 22}
CLASSES = {"a": 2, "b": 3}


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(WORDS, WIDTH)
        self.layer = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
        self.final_norm = nn.LayerNorm(WIDTH)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))


class Model(nn.Module):
    def __init__(self, heads: dict[str, int]) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.base = Base()
        self.encoder.num_layers = LAYERS
        self.encoder.layer_list = self.encoder.base.layer
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, n) for name, n in heads.items()})


@dataclass
class Output:
    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)


def drawn(step: int) -> Choice:
    """What `Step` draws in a step: -1 to 2."""
    return Choice(random.Random(step).randint(-1, 2))


class Step(nn.Module):
    """Cross-entropy over labelled rows plus the squared change of the logits under keyed noise over all rows."""

    def __init__(self, dropout: float = 0.1, noise: float = 0.1, seed: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.model = Model(CLASSES)
        self.dropout, self.noise, self.seed = dropout, noise, seed
        self.hook: Callable[[Batch, Tensor], Tensor] = lambda batch, loss: loss

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"labels": float(batch.targets["labelled"].sum()), "items": float(len(batch.row_ids))}

    def forward(self, batch: Batch) -> Output:
        base, mask = self.model.encoder.base, batch.inputs["attention_mask"].unsqueeze(-1)
        hidden = base.embeddings(batch.inputs["input_ids"])
        clean = self._above(hidden, mask, batch.task)
        noise = torch.stack([self._draw(batch.step, int(row), hidden[0]) for row in batch.row_ids])
        noisy = self._above(hidden + self.noise * noise * mask, mask, batch.task)
        labels, labelled = batch.targets["labels"], batch.targets["labelled"]
        task = functional.cross_entropy(clean, labels, reduction="none").where(labelled, 0).sum()
        change = (clean - noisy).square().sum()
        norms = batch.norms or self.counts(batch)
        terms = {"task": task / (norms["labels"] or 1.0), "fake/change": change / norms["items"]}
        loss = self.hook(batch, terms["task"] + 0.5 * terms["fake/change"])
        stats = {"fake/delta_norm": self.noise * noise.norm(), "fake/site": drawn(batch.step)}
        stats["fake/delta_norm_by_token"] = spread(self.noise * noise.norm(dim=-1), mask.squeeze(-1))
        return Output(loss, {k: v.detach() for k, v in terms.items()}, stats)

    def _above(self, hidden: Tensor, mask: Tensor, task: str) -> Tensor:
        base = self.model.encoder.base
        state = (hidden * mask).sum(1) / mask.sum(1)
        for layer in base.layer:
            state = functional.dropout(torch.tanh(layer(state)), self.dropout, self.training) + state
        return self.model.heads[task](base.final_norm(state))

    def _draw(self, step: int, row: int, like: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * step + 7919 * row)
        drawn = torch.randn(64, like.shape[1], generator=generator)[: len(like)]
        return drawn


class Data:
    """Random token rows with some labels missing; records what was fetched."""

    def __init__(self, unlabelled: float = 0.3, sizes: dict[str, int] | None = None) -> None:
        rng = np.random.default_rng(11)
        self.sizes = sizes or SIZES
        self.rows = {
            task: [rng.integers(1, WORDS, size=rng.integers(2, 20)) for _ in range(n)] for task, n in self.sizes.items()
        }
        self.labels = {task: rng.integers(0, CLASSES[task], size=n) for task, n in self.sizes.items()}
        self.labelled = {task: rng.random(n) >= unlabelled for task, n in self.sizes.items()}

    def lengths(self, task: str) -> np.ndarray:
        return np.array([len(row) for row in self.rows[task]], dtype=np.int32)

    def __call__(self, task: str, rows: np.ndarray, step: int = 0) -> Batch:
        tokens = [torch.from_numpy(self.rows[task][i]) for i in rows]
        ids = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        inputs = {"input_ids": ids, "attention_mask": (ids > 0).long()}
        targets = {
            "labels": torch.from_numpy(self.labels[task][rows]),
            "labelled": torch.from_numpy(self.labelled[task][rows]),
        }
        return Batch(task, inputs, targets, torch.from_numpy(np.asarray(rows, dtype=np.int64)))


def config(output_dir: Path, **values: Any) -> TrainConfig:
    plain = {
        "task_def": ["t.yml"], "data_dir": ".", "model_name_or_path": "m", "learning_rate": 0.01, "num_train_epochs": 2,
        "per_device_train_batch_size": 4, "logging_steps": 3, "progress": "off", "use_cpu": True, "weight_decay": 0.01,
    }  # fmt: skip
    return TrainConfig(output_dir=output_dir, **(plain | values))


def evaluate(data: Data, step: Step) -> Callable[[nn.Module], dict[str, dict[str, float]]]:
    """Accuracy on the training rows."""

    @torch.no_grad()
    def run(model: nn.Module) -> dict[str, dict[str, float]]:
        step.eval()
        found = {}
        for task, size in data.sizes.items():
            batch = data(task, np.arange(size))
            hidden, mask = model.encoder.base.embeddings(batch.inputs["input_ids"]), batch.inputs["attention_mask"]
            right = step._above(hidden, mask.unsqueeze(-1), task).argmax(-1) == batch.targets["labels"]
            found[task] = {"acc": 100 * float(right.double().mean())}
        return found

    return run


def trainer(
    output_dir: Path,
    on_event: Any = None,
    data: Data | None = None,
    evaluation: Any = None,
    step: Any = None,
    dropout: float = 0.1,
    noise: float = 0.1,
    **values: Any,
) -> Trainer:
    settings, data, step = config(output_dir, **values), data or Data(), step or Step(dropout, noise)
    accelerator = make_accelerator(settings)
    sampler = MultiTaskSampler(
        {task: TaskRows(data.lengths(task), settings.per_device_train_batch_size) for task in data.sizes},
        seed=settings.seed, rank=accelerator.process_index, world_size=accelerator.num_processes,
        accumulation=settings.gradient_accumulation_steps, num_epochs=settings.num_train_epochs,
        max_steps=settings.max_steps, max_tokens=settings.max_tokens_per_batch,
    )  # fmt: skip
    return Trainer(
        settings,
        step,
        sampler,
        data,
        accelerator,
        evaluation or evaluate(data, step),
        {"a": "acc", "b": "acc"},
        on_event,
    )


def weights(trained: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trained.step.state_dict().items()}


def main() -> None:
    """Trains, and writes weights (of each rank), losses of each step and fetched rows beside the run folder."""
    output, pairs = Path(sys.argv[1]), [pair.split("=") for pair in sys.argv[2:]]
    values = {key: json.loads(value) for key, value in pairs}
    sizes, slow = values.pop("sizes", None), values.pop("slow", 0)
    data, fetched, losses = Data(sizes=sizes), [], []

    def fetch(task: str, rows: np.ndarray, step: int) -> Batch:
        fetched.append([task, rows.tolist()])
        return data(task, rows)

    made = trainer(output, data=data, **values)
    made.fetch = fetch
    rank = made.accelerator.process_index
    original = made.monitor.add
    made.monitor.add = lambda step, task, figures, n: (
        losses.append([step, task, figures]),
        original(step, task, figures, n),
    )
    if slow:
        import time

        made.on_event = lambda kind, step: (time.sleep(slow), print(kind, step, flush=True))
    state = made.train()
    output.parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights(made), output.parent / f"{output.name}.rank{rank}.pt")
    record = {"losses": losses, "fetched": fetched, "state": asdict(state)}
    (output.parent / f"{output.name}.rank{rank}.json").write_text(json.dumps(record), encoding="utf-8")


if __name__ == "__main__":
    main()
