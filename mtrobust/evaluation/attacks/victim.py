"""The model under attack: from rows to label probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mtrobust.data.collator import Collator
from mtrobust.errors import RunError, UserError
from mtrobust.evaluation.evaluator import evaluating, run_features
from mtrobust.evaluation.run_folder import load_run, one_line
from mtrobust.models.loading import no_progress_bars
from mtrobust.tasks.taskdef import TaskDef

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Features = Sequence[Mapping[str, Any]]


@dataclass
class Victim:
    """A classifier as an attack sees it.

    forward: features to logits, [n, C]; max_len: tokens that the model sees of a row; batch_size: rows that one call of
    the model takes well.
    """

    task: TaskDef
    tokenizer: PreTrainedTokenizerBase
    max_len: int
    batch_size: int
    device: torch.device
    forward: Callable[[Features], np.ndarray]

    @property
    def mask(self) -> str:
        """What stands for a word that is hidden: the tokenizer's mask, or its unknown token where it has none."""
        found = self.tokenizer.mask_token or self.tokenizer.unk_token
        if not found:
            raise UserError(f"{self.task.name}: the model's tokenizer has neither a mask nor an unknown token")
        return str(found)

    def features(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Rows as the model reads them, tokenised and cut as in its evaluation."""
        return self.task.type.featurize([dict(row) for row in rows], self.tokenizer, self.max_len, training=False)

    def probabilities(self, features: Features) -> np.ndarray:
        """[n, C] in float64; each row of the model's float32 logits, softmax."""
        logits = np.asarray(self.forward(features), dtype=np.float64)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)


def device_of(use_cpu: bool, number: int = 0) -> torch.device:
    """The accelerator of a process (one of several, in turn), or the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() and not use_cpu else None
    if found is None:
        return torch.device("cpu")
    return torch.device(found.type, number % torch.accelerator.device_count())


def of_run(folder: Path, task: TaskDef, device: torch.device, batch_size: int) -> Victim:
    """A task of a finished run, in float32."""
    run = load_run(folder, device=str(device))
    collate = Collator(task, run.tokenizer.pad_token_id)

    def forward(features: Features) -> np.ndarray:
        outputs = run_features(run.model, task, features, collate, batch_size=batch_size, device=device)
        return np.stack([output["logits"] for output in outputs])

    return Victim(task, run.tokenizer, task.max_len or run.config.max_seq_length, batch_size, device, forward)


def of_folder(folder: Path, task: TaskDef, device: torch.device, batch_size: int) -> Victim:
    """A Hugging Face folder with a sequence classifier, in float32. Raises `UserError` if it cannot be loaded."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        with no_progress_bars():
            model = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=torch.float32)
    except Exception as error:  # whatever a damaged file makes the libraries raise, the folder is at fault
        raise UserError(f"--model: {folder}: cannot be loaded ({one_line(error)})") from error
    model.to(device).eval()
    positions = int(getattr(model.config, "max_position_embeddings", 0) or 512)
    collate = Collator(task, tokenizer.pad_token_id)

    def forward(features: Features) -> np.ndarray:
        order = np.argsort([-len(feature["input_ids"]) for feature in features], kind="stable")
        logits = np.empty((len(features), len(task.labels)), dtype=np.float32)
        with evaluating(model, device):
            for start in range(0, len(order), batch_size):
                part = order[start : start + batch_size]
                batch = collate([features[i] for i in part]).to(device)
                logits[part] = model(**batch.inputs).logits.float().cpu().numpy()
        if np.isnan(logits).any():
            raise RunError(f"{folder}: the model's logits are not numbers (NaN)")
        return logits

    return Victim(task, tokenizer, min(tokenizer.model_max_length, positions), batch_size, device, forward)
