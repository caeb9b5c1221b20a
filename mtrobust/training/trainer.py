"""The training loop. One optimisation step: collate, count, forward and backward of each micro-batch, clip, update.

Interruption is part of the design: every step is a function of its number and of what a checkpoint holds, so a run that
was killed and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from mtrobust.config import TrainConfig
from mtrobust.data.sampler import MultiTaskSampler, SampledStep
from mtrobust.errors import RunError, UserError
from mtrobust.tasks.base import Batch
from mtrobust.training import checkpoint as disk
from mtrobust.training import state as states
from mtrobust.training.gather import Collected, Figures, gather
from mtrobust.training.monitor import Monitor
from mtrobust.training.optim import build_optimizer, lr_factor
from mtrobust.training.profile import Profile
from mtrobust.training.signals import StopSignals

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mtrobust.training.step import TrainStep

Metrics = Mapping[str, Mapping[str, float]]  # task -> metric -> value
CHECKPOINTS = "checkpoints"


class Interrupted(RunError):
    """A signal ended the run after a whole step and a checkpoint."""

    exit_code = 130


@dataclass
class RunState:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0  # optimisation steps done
    examples: int = 0
    skipped: int = 0  # steps left out because of a non-finite loss
    stopped_early: bool = False
    best_step: int | None = None
    best_score: float | None = None
    best_metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    bad_evaluations: int = 0  # in a row
    evaluated_step: int = 0
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)  # of the last evaluation


class Trainer:
    """Runs `step` over the sampler's steps.

    step: a `TrainStep` (loss of a batch as its share of the whole step's loss, `counts`, `model`); fetch: makes the
    batch of a task from row positions and the step's number; evaluate: metrics of the model, called on every rank, must
    not touch the training mode or generators; main_metrics: the metric that stands for each task; on_event: called with
    what happened (`step`, `log`, `evaluated`, `saving`, `saved`) and the number of steps done.
    """

    def __init__(
        self,
        config: TrainConfig,
        step: TrainStep,
        sampler: MultiTaskSampler,
        fetch: Callable[[str, np.ndarray, int], Batch],
        accelerator: Accelerator,
        evaluate: Callable[[nn.Module], Metrics] | None = None,
        main_metrics: Mapping[str, str] | None = None,
        on_event: Callable[[str, int], None] | None = None,
        data: Mapping[str, str] | None = None,
    ) -> None:
        self.config, self.sampler, self.fetch, self.accelerator = config, sampler, fetch, accelerator
        self.evaluate, self.main_metrics = evaluate, dict(main_metrics or {})
        self.on_event = on_event or (lambda kind, step: None)
        self.data = dict(data or {})
        self.world, self.device = accelerator.num_processes, accelerator.device
        self.main, self.total = accelerator.is_main_process, sampler.total_steps
        self.checkpoints = Path(config.output_dir) / CHECKPOINTS
        self.step = step
        self.wrapped = accelerator.prepare(step)  # moves it to the device; DDP, autocast
        self.parameters = [parameter for parameter in step.parameters() if parameter.requires_grad]
        self.optimizer = build_optimizer(step, step.model, config)
        self.monitor = Monitor(Path(config.output_dir), config, self.total, self.main, self.world)
        timed = config.profile if self.main else 0
        self.profile = Profile(timed, Path(config.output_dir), self.device, self.monitor, self.world)
        self.clock = step.clock = self.profile.clock
        self.state = RunState()
        self.signals = StopSignals()
        self.first_step = 0  # where this process took the run up

    # --- the run --------------------------------------------------------------------------------------------------

    def train(self) -> RunState:
        """Trains to the end, from the last complete checkpoint if the configuration says `resume`.

        Raises `Interrupted` after a signal, `RunError` for a non-finite loss or a full disk.
        """
        # Each rank has its own dropout masks; what ranks share is keyed by seed and step, not drawn from here.
        states.seed_all(self.config.seed + self.accelerator.process_index)
        seen = self._restore() if self.config.resume else None
        self.first_step = self.state.step
        self.monitor.start(self.first_step, seen)
        finished = False
        try:
            with self.signals:
                self.step.train()
                while self.state.step < self.total and not self.state.stopped_early:
                    self._one()
            finished = True
        finally:
            self.profile.close()
            self.monitor.close(finished)
        return self.state

    def _one(self) -> None:
        """One optimisation step and what is due after it."""
        self.profile.begin()
        with self.clock.part("data"):
            sampled = self.sampler.at(self.state.step)
        rate = self._set_rate(sampled.number)
        figures, grad_norm, stop = self._optimise(sampled)
        self.profile.end(self.state.step + 1, sampled.task)
        self.state.step += 1
        self.state.examples += len(sampled.rows)
        done, ends, last = self.state.step, self.sampler.ends_epoch(sampled.number), self.state.step == self.total
        epoch = sampled.epoch + (sampled.position + 1) / self.sampler.steps_in_epoch(sampled.epoch)
        self.monitor.add(done, sampled.task, figures, len(sampled.rows))
        self.on_event("step", done)
        if done % self.config.logging_steps == 0 or last:
            self.monitor.log(done, epoch, rate, grad_norm)
            self.on_event("log", done)
        improved = False
        if self.evaluate and (last or (done % self.config.eval_steps == 0 if self.config.eval_steps else ends)):
            improved = self._evaluate(epoch)
            self.on_event("evaluated", done)
        save = done % self.config.save_steps == 0 if self.config.save_steps else ends
        if save or improved or last or stop or self.state.stopped_early:
            self._save()
        if stop and not last and not self.state.stopped_early:
            config = Path(self.config.output_dir) / "config.yml"
            name = self.signals.received.name if self.signals.received else "a signal to another process"
            raise Interrupted(
                f"stopped by {name} after step {done} of {self.total}; go on with: mtrobust train {config} --resume"
            )

    def _optimise(self, sampled: SampledStep) -> tuple[Figures, float, bool]:
        """(figures, gradient norm before clipping, whether any process was told to stop)."""
        with self.clock.part("data"):
            batches = [self.fetch(sampled.task, micro.rows, sampled.number) for micro in sampled.micro]
        norms = self._norms(batches, [micro.ghost for micro in sampled.micro])
        collected: list[Collected] = []
        for position, (batch, micro) in enumerate(zip(batches, sampled.micro, strict=True)):
            batch.step, batch.norms = sampled.number, norms
            last = position + 1 == len(batches)
            self.profile.batch(batch)
            with self.clock.part("data"):
                batch = batch.to(self.device)
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                out = self.wrapped(batch)
                # A ghost runs forward and backward as the others do, so that all ranks exchange the same gradients.
                with self.clock.part("backward"):
                    self.accelerator.backward(out.loss * 0 if micro.ghost else out.loss)
            collected.append(Collected(micro.ghost, {"loss": out.loss.detach(), **out.terms}, out.stats))
        figures, stop = gather(collected, self.world, self.device, self.signals.received is not None)
        self.monitor.name_terms(sampled.task, collected[0].shares)
        with self.clock.part("optimiser"):
            grad_norm, worst = self._update(figures)
        if worst is not None:
            self._non_finite(sampled, worst)
            figures = {}
        return figures, grad_norm, stop

    def _update(self, figures: Figures) -> tuple[float, str | None]:
        """Clips and updates. (gradient norm before clipping, what is not finite: then nothing is updated)."""
        numbers = {name: x for name, x in figures.items() if isinstance(x, float)}
        worst = next((name for name in [*list(numbers)[1:], "loss"] if not math.isfinite(numbers[name])), None)
        grad_norm = math.nan
        if math.isfinite(figures["loss"]):
            limit = self.config.max_grad_norm or math.inf
            grad_norm = float(self.accelerator.clip_grad_norm_(self.parameters, limit))
            worst = None if math.isfinite(grad_norm) else "gradient norm"
        if worst is None:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return grad_norm, worst

    def _norms(self, batches: list[Batch], ghosts: list[bool]) -> dict[str, float]:
        """What the losses of this step are divided by: counts over all micro-batches and ranks, by kind, divided by
        the number of ranks because DDP takes the mean of their gradients."""
        sums: dict[str, float] = {}
        for batch, ghost in zip(batches, ghosts, strict=True):
            for kind, count in self.step.counts(batch).items():
                sums[kind] = sums.get(kind, 0.0) + (0.0 if ghost else float(count))
        if self.world > 1:
            vector = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.device)
            torch.distributed.all_reduce(vector)
            sums = dict(zip(sums, (vector / self.world).tolist(), strict=True))
        return sums

    def _non_finite(self, sampled: SampledStep, what: str) -> None:
        """Stops the run, or counts the step as skipped."""
        place = f"step {sampled.number + 1}, task '{sampled.task}': {what} is not finite"
        if self.config.on_nonfinite == "stop":
            rows = ", ".join(map(str, sorted(sampled.rows.tolist())[:8]))
            raise RunError(
                f"{place} (rows {rows}{', …' if len(sampled.rows) > 8 else ''} of the training split); "
                "try a lower learning_rate, or on_nonfinite: skip"
            )
        self.state.skipped += 1
        self.monitor.say(f"{place}: skipped ({self.state.skipped} so far)")

    def _set_rate(self, number: int) -> float:
        """Sets the learning rates of a step; returns that of `learning_rate` itself."""
        factor = lr_factor(self.config, number, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        return self.config.learning_rate * factor

    # --- evaluation -----------------------------------------------------------------------------------------------

    def _evaluate(self, epoch: float) -> bool:
        """Evaluates; returns whether the model is the best so far. Sets `stopped_early` when patience is at its end."""
        generators = states.rng_state(self.device)
        with self.monitor.pause("evaluating"):
            metrics = self.evaluate(self.step.model) if self.evaluate else {}
        states.set_rng_state(generators, self.device)
        self.step.train()
        state = self.state
        state.metrics = {task: dict(found) for task, found in metrics.items()}
        state.evaluated_step = state.step
        self.monitor.evaluated(state.step, epoch, metrics)
        score = self.score(metrics)
        if math.isfinite(score) and (state.best_score is None or score > state.best_score):
            state.best_step, state.best_score, state.best_metrics = state.step, score, state.metrics
            state.bad_evaluations = 0
            self.monitor.best(state.step, score)
            return True
        state.bad_evaluations += 1
        patience = self.config.early_stopping_patience
        if patience and state.bad_evaluations >= patience:
            state.stopped_early = True
            self.monitor.say(f"stopped early: no better {self.config.metric_for_best_model} in {patience} evaluations")
        return False

    def score(self, metrics: Metrics) -> float:
        """The value that checkpoints are compared by; NaN without any metric. An undefined metric (the correlation of
        constant predictions) counts as 0, so that one task at its start does not hide the others."""
        wanted = self.config.metric_for_best_model
        if wanted == "mean":
            named = [(found, self.main_metrics[task]) for task, found in metrics.items()]
            mains = [_or_zero(found[name]) for found, name in named if name in found]
            return sum(mains) / len(mains) if mains else math.nan
        task, _, name = wanted.partition(".")
        if name not in metrics.get(task, {}):
            have = ", ".join(f"{t}.{m}" for t, found in metrics.items() for m in found)
            raise RunError(f"metric_for_best_model: {wanted}: the evaluation gives no such metric (it gives: {have})")
        return _or_zero(metrics[task][name])

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Writes a checkpoint; only the first process writes, and the others wait until it is whole."""
        self.on_event("saving", self.state.step)
        generators = [states.rng_state(self.device)]
        if self.world > 1:
            generators = [{}] * self.world
            torch.distributed.all_gather_object(generators, states.rng_state(self.device))
        failure: list[str | None] = [None]
        if self.main:
            with self.monitor.pause("saving"):
                try:
                    self._write(generators)
                except RunError as error:
                    failure = [str(error)]
        if self.world > 1:
            torch.distributed.broadcast_object_list(failure, src=0)
        if failure[0]:
            raise RunError(failure[0])
        self.on_event("saved", self.state.step)

    def _write(self, generators: list[dict[str, Any]]) -> None:
        tensors = {"step": states.module_tensors(self.step), "optimizer": states.optimizer_tensors(self.optimizer)}
        content = {
            "run": asdict(self.state),
            "monitor": self.monitor.state(),
            "generators": generators,
            "total": self.total,
            "data": self.data,
        }
        path = disk.save_checkpoint(self.checkpoints, self.state.step, tensors, content)
        best = None if self.state.best_step is None else f"step-{self.state.best_step}"
        if best == path.name:
            disk.point(self.checkpoints, "best", path)
        disk.prune(self.checkpoints, self.config.save_total_limit, [best] if best else [])

    def _restore(self) -> dict[str, Any] | None:
        """Loads the last complete checkpoint; returns the monitor's part, None when the run has to start anew."""
        path = disk.last_complete(self.checkpoints, quiet=not self.main)
        if path is None:
            return None
        tensors, content = disk.load_checkpoint(path, ("run", "monitor", "generators", "total"))
        generators = content["generators"]
        if len(generators) != self.world:
            raise UserError(f"{path}: was made by {len(generators)} processes; go on with as many, not {self.world}")
        if content["total"] != self.total:
            raise UserError(
                f"{path}: belongs to a run of {content['total']} steps, this one has {self.total} "
                "(other data, batch size or epochs?); resume with the run's own settings and data"
            )
        # checkpoints of earlier versions do not say of which rows they are
        others = [name for name, digest in content.get("data", {}).items() if self.data.get(name) != digest]
        if others:
            raise UserError(
                f"{path}: belongs to a run on other data: the training rows of {', '.join(others)} have changed; "
                "resume with the run's own settings and data"
            )
        states.load_module_tensors(self.step, tensors["step"], str(path))
        states.load_optimizer_tensors(self.optimizer, tensors["optimizer"])
        states.set_rng_state(generators[self.accelerator.process_index], self.device)
        self.state = RunState(**content["run"])
        return content["monitor"]

    def load_best(self) -> bool:
        """Puts the weights of the best checkpoint into the model; False when it is not there (any more)."""
        path = self.checkpoints / f"step-{self.state.best_step}"
        if self.state.best_step is None or disk.fault(path):
            return False
        states.load_module_tensors(self.step, disk.load_checkpoint(path)[0]["step"], str(path))
        return True


def _or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0
