"""Optional filters on substitutes: by the meaning of the word, by the meaning of the whole text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mtrobust.errors import UserError
from mtrobust.evaluation.run_folder import one_line
from mtrobust.models.loading import no_progress_bars


class WordVectors:
    """Word vectors of a text file: a word and its numbers a line, separated by blanks, words in lower case.

    Meant for the counter-fitted vectors of Mrksic et al. (2016), in which antonyms are far apart. A first line with
    two numbers, as word2vec writes it, is passed over. Raises `UserError` for a line that is anything else.
    """

    def __init__(self, path: Path) -> None:
        self._place: dict[str, int] = {}
        rows: list[np.ndarray] = []
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                word, *values = line.split() or [b""]
                if number == 1 and len(values) == 1:
                    continue
                try:
                    vector, name = np.array(values, dtype=np.float32), word.decode("utf-8")
                except ValueError:
                    raise UserError(f"--vectors: {path}:{number}: must be a word and numbers") from None
                length = float(np.linalg.norm(vector))
                if not np.isfinite(length) or not length or (rows and len(vector) != len(rows[0])):
                    expected = f"{len(rows[0])} finite numbers" if rows else "finite numbers"
                    raise UserError(f"--vectors: {path}:{number}: must be a word and {expected}, not all zero")
                self._place.setdefault(name, len(rows))
                rows.append(vector / length)
        if not rows:
            raise UserError(f"--vectors: {path}: has no vectors")
        self._rows = np.stack(rows)

    def cosine(self, one: str, other: str) -> float | None:
        """Cosine of two words, in any case; None where a word has no vector."""
        first, second = (self._place.get(word.lower()) for word in (one, other))
        return None if first is None or second is None else float(self._rows[first] @ self._rows[second])


class SentenceSimilarity:
    """Cosine of the mean last hidden states (over the real tokens) of a local encoder."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import AutoModel, AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
            with no_progress_bars():
                self.model = AutoModel.from_pretrained(str(folder), dtype=torch.float32).to(device).eval()
        except Exception as error:  # whatever a damaged file makes the libraries raise, the folder is at fault
            raise UserError(f"--similarity_model: {folder}: cannot be loaded ({one_line(error)})") from error
        self.device = device
        self._max_len = min(self.tokenizer.model_max_length, 128)

    @torch.no_grad()
    def cosines(self, text: str, others: Sequence[str]) -> list[float]:
        """Of a text with each of the others."""
        inputs = self.tokenizer(
            [text, *others], padding=True, truncation=True, max_length=self._max_len, return_tensors="pt"
        ).to(self.device)
        states = self.model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
        return (means[1:] @ means[0]).tolist()
