"""A finished run as an analysis looks at it, and what a method does to a batch.

A method is asked to do what it does in training: its `forward` runs on a `Passes` that notes each edited pass where it
is made (`at`, `fork`). So nothing here knows any method, and a new one is seen by every analysis. Dropout is off, all
is in float32, and each method of a composition is looked at by itself, on top of the clean pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mtrobust.data.collator import Collator
from mtrobust.data.rows import find_split, read_rows
from mtrobust.errors import UserError
from mtrobust.evaluation.run_folder import CHECKPOINTS, Run, load_run, read_results, run_tasks
from mtrobust.models.encoder import Dropout
from mtrobust.perturb import METHODS, Passes, Perturbation, build_methods
from mtrobust.perturb.layers import Site
from mtrobust.perturb.noise import KeyedNoise
from mtrobust.perturb.passes import Needs
from mtrobust.tasks.base import Batch
from mtrobust.tasks.taskdef import TaskDef
from mtrobust.training import checkpoint as disk
from mtrobust.training.rows import Units
from mtrobust.training.state import load_module_tensors
from mtrobust.training.step import TrainStep

WEIGHTS = "step"  # file of a checkpoint that holds the weights of the step: model and what methods own
_DRAW = 1_000_003  # between the seeds of two draws of noise


class Edited(NamedTuple):
    """A pass that goes on from `site` with other states."""

    site: Site
    passes: Passes


@dataclass
class _Record:
    edits: list[Edited] = field(default_factory=list)
    inner: int = 0  # > 0 while a gradient is taken: passes of ascent steps are no perturbation yet


class Recorder(Passes):
    """The passes of a batch, and a note of every edited one that is not part of an inner gradient step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.record = _Record()  # one for all branches

    def at(
        self,
        site: Site,
        hidden: Tensor,
        dropout: Dropout = "independent",
        track: frozenset[Site] = frozenset(),
        final: bool = False,
    ) -> Passes:
        """As `Passes.at`; the branch keeps the states of all sites that the analysis reads."""
        branch = super().at(site, hidden, dropout, track | self.needs.sites, final)
        self._note(site, branch)
        return branch

    def fork(self, site: Site, edit: Callable[[Tensor], Tensor]) -> tuple[Passes, Passes]:
        """As `Passes.fork`."""
        before = len(self.record.edits)
        clean, edited = super().fork(site, edit)
        if len(self.record.edits) == before:  # not by way of `at`
            self._note(site, edited)
        return clean, edited

    def value_and_grad(self, fn: Callable[[Tensor], Tensor], wrt: Tensor) -> tuple[Tensor, Tensor]:
        """As `Passes.value_and_grad`; what is edited inside is not noted."""
        self.record.inner += 1
        try:
            return super().value_and_grad(fn, wrt)
        finally:
            self.record.inner -= 1

    def _note(self, site: Site, branch: Passes) -> None:
        if not self.record.inner:
            self.record.edits.append(Edited(site, branch))


@dataclass
class Seen:
    """What a method did to a batch. site: where its edit stands, None where it made none; clean, edited: both passes
    (the same one without an edit)."""

    site: Site | None
    clean: Passes
    edited: Passes

    def before(self, site: Site) -> Tensor:
        """States of the clean pass, [B, T, width], float32."""
        return self.clean.h(site).detach().float()

    def after(self, site: Site) -> Tensor:
        """States of the edited pass, [B, T, width], float32; below the edit they are those of the clean one."""
        below = self.site is None or height(site) < height(self.site)
        return self.before(site) if below else self.edited.h(site).detach().float()

    def delta(self, site: Site) -> Tensor:
        """What the edit changed there, [B, T, width], exactly 0 on padding."""
        mask = self.clean.batch.inputs["attention_mask"].bool().unsqueeze(-1)
        return torch.where(mask, self.after(site) - self.before(site), 0)


def height(site: Site) -> int:
    """Sites in their order: -1 for `words`, else the layer."""
    return -1 if site == "words" else int(site)


def site_name(site: Site) -> str:
    """How a site is called in tables and pictures."""
    return {"words": "words", 0: "embeddings"}.get(site, f"layer {site}")


@dataclass
class Subject:
    """A run to look at. step: model and methods as they were trained, in evaluation mode; label: what it is called."""

    label: str
    path: Path
    run: Run
    step: TrainStep

    @classmethod
    def open(cls, path: Path, label: str, use_cpu: bool = False) -> Subject:
        """The finished run in a folder. Raises `UserError` where it cannot be read or a method's own weights are gone.
        """
        run = load_run(path, "cpu" if use_cpu else None)
        config = run.config
        trained = run_tasks(path, trained=True)
        methods = build_methods(config.perturb, {name: run.tasks[name] for name in trained}, run.model.encoder)
        device = next(run.model.parameters()).device
        step = TrainStep(run.model, methods, config.seed, config.task_weighting).to(device).eval()
        subject = cls(label, path, run, step)
        if len(step.owned):
            subject._load_owned()
        return subject

    def _load_owned(self) -> None:
        """What methods trained of their own stands in checkpoints alone."""
        number = read_results(self.path).get("train", {}).get("model_step")
        place = self.path / CHECKPOINTS / f"step-{number}"
        why = disk.fault(place)
        if why is not None:
            names = ", ".join(self.step.owned)
            raise UserError(f"{place}: needed for the weights that the method trained of its own ({names}): {why}")
        self.load_weights(place)

    def load_weights(self, checkpoint: Path) -> None:
        """Takes over all weights of a checkpoint of this run."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            saved = load_file(checkpoint / f"{WEIGHTS}.safetensors")
        except (OSError, SafetensorError) as error:
            raise UserError(f"{checkpoint}: cannot be read ({error})") from error
        load_module_tensors(self.step, saved, str(checkpoint))

    @property
    def num_layers(self) -> int:
        """Layers of the encoder."""
        return self.run.model.encoder.num_layers

    def task(self, name: str) -> TaskDef:
        """The definition of one of the tasks that the run was trained on."""
        return self.run.task(name)

    def methods(self, task: str) -> dict[str, Perturbation]:
        """The methods that the task was trained with, by what tables call them; those of weight 0 are left out, and
        `standard` stands for none."""
        found = {name: method for name, method in self.step.methods[task].methods.items() if method.active}
        if not found:
            plain = METHODS["standard"]
            return {self.label: plain(plain.Options(), self.run.model.encoder)}
        if len(found) == 1:
            return {self.label: next(iter(found.values()))}
        return {f"{self.label} ({name})": method for name, method in found.items()}

    # --- data -------------------------------------------------------------------------------------------------------

    def rows(self, task: str, split: str, data_dir: Path | None, count: int | None = None) -> list[dict[str, Any]]:
        """Rows of a split, `count` evenly from the whole of it."""
        definition = self.task(task)
        found = read_rows(definition, find_split(definition, data_dir or self.run.config.data_dir, split))
        take = min(len(found), count or len(found))
        return [found[i] for i in np.arange(take) * len(found) // take]

    def features(self, task: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Features as in training; a row with a long passage has several."""
        definition = self.task(task)
        return definition.type.featurize(list(rows), self.run.tokenizer, self.max_len(task), training=True)

    def max_len(self, task: str) -> int:
        """Tokens of a feature."""
        return self.task(task).max_len or self.run.config.max_seq_length

    def batches(
        self, task: str, features: Sequence[dict[str, Any]], size: int
    ) -> Iterator[tuple[list[int], Batch]]:
        """(places of the features, their batch), features of similar lengths together, the longest first.

        size: features of a batch; of candidates, whose lists stay whole, lists.
        """
        definition, device = self.task(task), next(self.step.parameters()).device
        collate = Collator(definition, self.run.tokenizer.pad_token_id)
        units = Units(np.array([feature["row"] for feature in features]), definition.type.together)
        lengths = np.array([len(feature["input_ids"]) for feature in features])
        order = np.argsort(-np.maximum.reduceat(lengths, units.bounds[:-1]), kind="stable")
        for start in range(0, len(order), size):
            places = units.places(order[start : start + size]).tolist()
            batch = collate([features[i] for i in places], np.array(places))
            yield places, definition.type.drawn(batch, self.run.tokenizer).to(device)

    # --- passes -----------------------------------------------------------------------------------------------------

    def passes(self, batch: Batch, needs: Needs, draw: int = 0) -> Recorder:
        """The passes over a batch. draw: which noise."""
        noise = KeyedNoise(self.run.config.seed + draw * _DRAW)
        head: Any = self.run.model.heads[batch.task]
        return Recorder(self.run.model.encoder, head, batch, noise, needs)

    def clean(self, batch: Batch, site: Site) -> Tensor:
        """States of the clean pass at a site, [B, T, width], float32; nothing above it runs."""
        with torch.no_grad():
            return self.run.model.encoder.prefix(batch.inputs, site).h[site].float()

    def see(
        self, method: Perturbation, batch: Batch, site: Site | None = None, read: Iterable[Site] = (), draw: int = 0
    ) -> Seen:
        """What a method does to a batch, its edit at `site` (None: it makes none).

        read: further sites whose states are asked for. A method that edits several times in a step (samples, ascent
        steps that train) is represented by its last edit.
        """
        with _only(method, site):
            needs = method.needs | Needs(frozenset([*([] if site is None else [site]), *read]))
            passes = self.passes(batch, needs, draw)
            with torch.enable_grad():
                method.forward(passes)
        made = passes.record.edits[-1] if passes.record.edits else None
        return Seen(None if made is None else made.site, passes, passes if made is None else made.passes)


@contextmanager
def _only(method: Perturbation, site: Site | None) -> Iterator[None]:
    """The method acts at one of its sites inside."""
    own = method.sites
    if site is not None:
        method.sites = [site]
    try:
        yield
    finally:
        method.sites = own


def act_site(method: Perturbation, site: Site | None) -> Site | None:
    """Where a method is to act so that something is to be seen at `site`: there, else at the highest of its sites
    below it; None where it has none. site None: the middle one of its own."""
    if site is None:
        return method.sites[len(method.sites) // 2] if method.sites else None
    below = [own for own in method.sites if height(own) <= height(site)]
    return below[-1] if below else None


def special_ids(subject: Subject) -> np.ndarray:
    """Numbers of the tokens that are no words, int64."""
    return np.array(sorted(subject.run.tokenizer.all_special_ids), dtype=np.int64)


def real_words(subject: Subject, batch: Batch) -> Tensor:
    """Tokens that are neither padding nor special, bool [B, T]."""
    ids = batch.inputs["input_ids"]
    special = torch.from_numpy(special_ids(subject)).to(ids.device)
    return batch.inputs["attention_mask"].bool() & ~torch.isin(ids, special)
