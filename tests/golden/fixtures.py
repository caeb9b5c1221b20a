"""The recorded model, heads, batch and raw noise, put behind mtrobust's own interfaces in float64."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, BertModel

from mtrobust.models.encoder import Encoder
from mtrobust.perturb import Compose, Passes, Perturbation
from mtrobust.perturb.layers import Site
from mtrobust.tasks.base import Batch
from mtrobust.tasks.taskdef import TaskDef

# Which test answers for which recorded fields of a file under encoder/: exactly one for each (see test_files.py).
PARTS = {
    "clean": {"clean": r"clean/"},
    "fdiv": {
        "rpt": r"(repo|repo_fp32|paper)/rpt\.|repo/clean/|paper/unit_noise$",
        "vat": r"(repo|repo_fp32|paper)/vat\.",
        "jacobian": r"(repo|repo_fp32|exact)/jacobian\.",
    },
    "rapt": {"rapt": r"rapt/"},
    "smart": {"smart": r"smart/"},
    "smart_paper": {"smart_paper": r"smart_paper/"},
    "swep": {"swep": r"swep/", "baselines": r"baselines/"},
    "vda": {"vda": r"vda/", "freelb": r"freelb/", "smart": r"smart_in_vda_repo/", "smix": r"smix/"},
}


def recorded(golden: Path, name: str, part: str | None = None) -> dict[str, np.ndarray]:
    """The recorded fields of a file under encoder/: those of one part of it, by default of its only one."""
    (pattern,) = PARTS[name].values() if part is None else (PARTS[name][part],)
    with np.load(golden / "encoder" / f"{name}.npz") as file:
        return {key: file[key] for key in file.files if re.match(pattern, key)}


def cases(arrays: dict[str, np.ndarray], pattern: str) -> list[re.Match[str]]:
    """The distinct prefixes of keys that match."""
    found = {match[0]: match for key in arrays if (match := re.match(pattern, key))}
    return list(found.values())


class RecordedNoise:
    """Hands out recorded draws instead of its own: one for all, or by the beginnings of the draws' names."""

    seed = 0

    def __init__(self, draw: Tensor | dict[str, Tensor]) -> None:
        self.recorded = draw if isinstance(draw, dict) else {"": draw}

    def draw(self, name: str, like: Tensor, mask: Tensor | None, *rest: Any) -> Tensor:
        (drawn,) = (value for start, value in self.recorded.items() if name.startswith(start))
        assert drawn.shape == like.shape
        drawn = drawn.to(like.dtype)
        return drawn if mask is None else drawn * mask.reshape(mask.shape + (1,) * (like.dim() - mask.dim()))


class WatchedPasses(Passes):
    """Remembers every edit (site, edit - clean states) and the branch that came of it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.edits: list[tuple[Site, Tensor, Passes]] = []

    def at(self, site: Site, hidden: Tensor, *args: Any, **kwargs: Any) -> Passes:
        branch = super().at(site, hidden, *args, **kwargs)
        self.edits.append((site, (hidden - self.h(site)).detach(), branch))
        return branch

    def fork(self, site: Site, edit: Any) -> tuple[Passes, Passes]:
        clean, edited = super().fork(site, edit)
        if not self.edits or self.edits[-1][2] is not edited:
            self.edits.append((site, (edited.tape.h[site] - clean.tape.h[site]).detach(), edited))
        return clean, edited


@dataclass
class Fixture:
    """Everything of one golden folder, in one dtype, with dropout off."""

    encoder: Encoder
    heads: dict[str, torch.nn.Module]  # cls, reg, span
    batches: dict[str, Batch]
    noise: dict[str, Tensor]

    @classmethod
    def load(cls, golden: Path, dtype: torch.dtype = torch.float64) -> Fixture:
        folder = golden / "fixtures"
        base = BertModel(BertConfig.from_json_file(folder / "bert_config.json"))
        base.load_state_dict(load_file(folder / "bert_model.safetensors"), strict=True)
        encoder = Encoder(base.to(dtype)).eval()
        arrays = {k: torch.from_numpy(v) for k, v in np.load(folder / "batch.npz").items()}
        weights = {k: torch.from_numpy(v).to(dtype) for k, v in np.load(folder / "heads.npz").items()}
        classes = [str(i) for i in range(len(weights["cls_bias"]))]
        tasks = {
            "cls": TaskDef(name="cls", task_type="Classification", data_format="PremiseOnly", labels=classes),
            "reg": TaskDef(name="reg", task_type="Regression", data_format="PremiseOnly"),
            "span": TaskDef(name="span", task_type="SpanClassification", data_format="MRC", span_positions="all"),
        }
        heads = {}
        for name, task in tasks.items():
            head = task.type.build_head(encoder).to(dtype).eval()
            linear = head.net.model.qa_outputs if name == "span" else head.net.model.classifier
            linear.load_state_dict({"weight": weights[f"{name}_weight"], "bias": weights[f"{name}_bias"]})
            heads[name] = head
        inputs = {k: arrays[k] for k in ("input_ids", "attention_mask", "token_type_ids")}
        labelled = torch.ones(len(arrays["labels"]), dtype=torch.bool)
        targets = {
            "cls": {"labels": arrays["labels"], "labelled": labelled},
            "reg": {"labels": arrays["reg_targets"].to(dtype), "labelled": labelled},
            "span": {
                "start_positions": arrays["start_positions"],
                "end_positions": arrays["end_positions"],
                "passage_mask": arrays["attention_mask"].bool(),
                "labelled": labelled,
            },
        }
        batches = {name: Batch(name, inputs, targets[name], torch.arange(len(labelled))) for name in tasks}
        noise = {k: torch.from_numpy(v).to(dtype) for k, v in np.load(folder / "noise.npz").items()}
        return cls(encoder, heads, batches, noise)

    def passes(
        self,
        task: str,
        draw: Tensor | dict[str, Tensor],
        method: Perturbation | Compose | None = None,
        padding: bool = True,
    ) -> WatchedPasses:
        """Passes of one task with a recorded draw; `padding`: the released codes let padding have noise."""
        batch = self.batches[task]
        mask = batch.inputs["attention_mask"]
        needs = (method if isinstance(method, Compose) else Compose({"m": method} if method else {})).needs
        noise = RecordedNoise(draw)
        return WatchedPasses(
            self.encoder, self.heads[task], batch, noise, needs, torch.ones_like(mask) if padding else mask
        )

    def gradients(self, task: str, scalar: Tensor) -> dict[str, Tensor]:
        """Every kind of recorded gradient field of a scalar."""
        parameters = dict(self.encoder.base.named_parameters())
        head = self.heads[task]
        linear = head.net.model.qa_outputs if task == "span" else head.net.model.classifier
        wanted = [*parameters.values(), linear.weight, linear.bias]
        grads = torch.autograd.grad(scalar, wanted, allow_unused=True, retain_graph=True)
        full = [torch.zeros_like(p) if g is None else g for p, g in zip(wanted, grads, strict=True)]
        named = dict(zip(parameters, full, strict=False))
        words = named["embeddings.word_embeddings.weight"]
        out = {
            "gradnorm_encoder": torch.stack([g.square().sum() for g in named.values()]).sum().sqrt(),
            "gradnorm_word_embeddings": words.norm(),
            "grad_word_embeddings": words,
            "grad_head_weight": full[-2],
            "grad_head_bias": full[-1],
        }
        out.update({f"gradnorm_{name}": grad.norm() for name, grad in named.items()})
        return out


def method_of(cls: type[Perturbation], fixture: Fixture, form: Any = None, **options: Any) -> Perturbation:
    """A method with options; `form`: a divergence that an option could not name."""
    method = cls(cls.Options(**options), fixture.encoder)
    if form is not None:
        method.options = method.options.model_copy(update={"divergence": form})
    return method


def as_divergence(form: Any) -> Any:
    """A plain function of two logits as `Passes.diff` calls a divergence."""
    return lambda a, b, support=None, detach_clean=None: form(a, b)


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """The largest difference over the largest recorded entry; None where there is nothing but rounding around 0."""
    if not theirs.size or np.shape(ours) != np.shape(theirs) or not np.abs(theirs).max() > 1e-12:
        return None
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


class Comparison:
    """Collects what differs, so that one test names every wrong field."""

    def __init__(self, ledger: Any, recorded: dict[str, np.ndarray]) -> None:
        # An empty array stands for a field that was not stored.
        self.ledger, self.recorded = ledger, {key: value for key, value in recorded.items() if value.size}
        self.wrong: list[str] = []
        ledger.see(self.recorded)

    def check(
        self, key: str, ours: Tensor | float, rtol: float, atol: float = 1e-12, where=None, wide: str | None = None
    ) -> None:
        """Compares one field when it is recorded and not exempt.

        where: a mask of the entries that count; wide: of a field in float32, its twin in float64. Where rounding moved
        the recorded float32 further than ours may be from it, ours may agree with the twin in its place.
        """
        if key not in self.recorded or self.ledger.exempt(key):
            return
        theirs = self.recorded[key].astype(np.float64)
        values = np.asarray(ours.detach().double() if isinstance(ours, Tensor) else ours, dtype=np.float64)
        if where is not None:
            values, theirs = values[where], theirs[where]
        if wide in self.recorded and not np.allclose(values, theirs, rtol=rtol, atol=atol):
            twin = self.recorded[wide].astype(np.float64)
            theirs = twin if np.allclose(values, twin, rtol=rtol, atol=atol) else theirs
        # Arrays of more than 600 elements are recorded in float32: below its resolution nothing can be compared.
        rounded = self.recorded[key].dtype == np.float32 and self.recorded[key].size > 600
        if rounded:
            rtol, atol = max(rtol, 2e-7), max(atol, 2e-7 * float(np.abs(theirs).max()))
        self.ledger.done(key, relative_error(values, theirs), rounded)
        if values.shape != theirs.shape or not np.allclose(values, theirs, rtol=rtol, atol=atol):
            gap = np.abs(values - theirs).max() if values.shape == theirs.shape else f"shape {values.shape}"
            self.wrong.append(f"{key}: off by {gap} (recorded up to {np.abs(theirs).max():.3e})")

    def close(self) -> None:
        """Fails with every difference, and for every field that was neither compared nor exempt."""
        assert not self.wrong, "\n".join(self.wrong[:40])
        self.ledger.close()
