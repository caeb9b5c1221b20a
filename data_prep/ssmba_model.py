"""The model part of SSMBA: corrupts token sequences, draws tokens anew, writes the changed words into the text."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import logging

from mtrobust.errors import UserError

from .common import Row

LONGEST = 512  # tokens, where neither the tokenizer nor the model says less
MASKED, RANDOM = 0.8, 0.1  # of the chosen tokens; the others stay as they are


@dataclass
class Word:
    """A word of a text as its tokenizer cuts it: characters [start, end), and the positions of its tokens."""

    start: int
    end: int
    tokens: list[int] = field(default_factory=list)


@dataclass
class Encoded:
    """A row as the model reads it. words: by the field they stand in; choosable: positions that may change."""

    ids: list[int]
    types: list[int]
    texts: dict[str, str]
    words: dict[str, list[Word]]
    choosable: list[int]


@dataclass
class Draft:
    """One try for a row: its corrupted ids, the positions drawn anew, and the generator of this try."""

    row: int
    ids: list[int]
    chosen: list[int]
    generator: torch.Generator


def load(name: str) -> tuple[Any, Any]:
    """The masked language model in float32 and its tokenizer.

    Raises `UserError` for what is none, whose head was never trained, or has no fast tokenizer with a mask token.
    """
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # missing weights are refused below, in one line
    logging.disable_progress_bar()
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
        loaded: Any = AutoModelForMaskedLM.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError, KeyError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(f"--mlm: {name}: cannot be loaded as a masked language model ({first})") from error
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"--mlm: {name}: {len(missing)} weights of a masked language model are not in it (first: {missing[0]}): "
            "its head was not trained; scripts/make_mlm.sh trains one"
        )
    if not tokenizer.is_fast or tokenizer.mask_token_id is None:
        raise UserError(f"--mlm: {name}: needs a fast tokenizer (tokenizer.json) with a mask token")
    return model.eval(), tokenizer


class Reconstructor:
    """Masks and fills in. The same seed and row ids give the same texts, on one kind of machine.

    beyond: how many rows went by with more than `max_len` tokens.
    """

    def __init__(
        self, name: str, mask: float, top_k: int | None, max_len: int | None, batch_size: int, seed: int
    ) -> None:
        """Loads the model, see `load`; options as those of the command."""
        self.model, self.tokenizer = load(name)
        longest = min(self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", LONGEST))
        if max_len is not None and max_len > longest:
            raise UserError(f"--max_len: {max_len}: the model reads at most {longest} tokens")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device)
        self.mask, self.top_k, self.batch_size, self.seed = mask, top_k, batch_size, seed
        self.max_len = min(longest, LONGEST) if max_len is None else max_len
        self.beyond = 0
        allowed = torch.ones(self.model.config.vocab_size, dtype=torch.bool)
        allowed[len(self.tokenizer) :] = False
        allowed[self.tokenizer.all_special_ids] = False
        self.allowed = allowed  # bool [V]: tokens that a text may hold
        self.ordinary = allowed.nonzero().flatten()  # int64: their ids

    def samples(
        self, rows: list[Row], fields: list[tuple[str, ...]], wanted: int, tries: int
    ) -> list[list[dict[str, str]]]:
        """New texts of every row, as `{field: text}`, at most `wanted`, each different from the row's and the others.

        fields: which texts of each row change. tries: rounds in which what is missing is drawn.
        """
        encoded = self._encode(rows, fields)
        found: list[dict[tuple[str, ...], dict[str, str]]] = [{} for _ in rows]
        attempts = [0] * len(rows)
        for _ in range(tries):
            drafts = []
            for i, item in enumerate(encoded):
                for _ in range(wanted - len(found[i]) if item.choosable else 0):
                    drafts.append(self._corrupt(i, item, str(rows[i]["id"]), attempts[i]))
                    attempts[i] += 1
            if not drafts:
                break
            for draft, ids in zip(drafts, self._fill(drafts, encoded), strict=True):
                item = encoded[draft.row]
                texts = {name: self._written(item, name, ids) for name in fields[draft.row]}
                if any(texts[name] != item.texts[name] for name in texts) and all(t.strip() for t in texts.values()):
                    found[draft.row].setdefault(tuple(texts.values()), texts)
        return [list(texts.values()) for texts in found]

    def _encode(self, rows: list[Row], fields: list[tuple[str, ...]]) -> list[Encoded]:
        result = []
        for row, changing in zip(rows, fields, strict=True):
            kinds = ("text", "text_pair") if row.get("text") is not None else ("question",)
            names: list[str] = [name for name in kinds if row.get(name) is not None]
            batch = self.tokenizer(*(row[name] for name in names), truncation=True, max_length=self.max_len)
            inner = batch.encodings[0]
            self.beyond += bool(inner.overflowing)
            words: dict[tuple[str, int], Word] = {}
            choosable = []
            places = zip(inner.sequence_ids, inner.word_ids, inner.offsets, strict=True)
            for position, (sequence, number, (start, end)) in enumerate(places):
                if sequence is None or number is None or names[sequence] not in changing or start == end:
                    continue
                word = words.setdefault((names[sequence], number), Word(start, end))
                word.start, word.end = min(word.start, start), max(word.end, end)
                word.tokens.append(position)
                choosable.append(position)
            by_field = {name: [word for key, word in words.items() if key[0] == name] for name in changing}
            texts: dict[str, str] = {name: row[name] for name in names}
            result.append(Encoded(list(inner.ids), list(inner.type_ids), texts, by_field, choosable))
        return result

    def _corrupt(self, i: int, item: Encoded, name: str, attempt: int) -> Draft:
        digest = hashlib.sha256(f"{self.seed}/{attempt}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        count = max(1, int(self.mask * len(item.choosable) + 0.5))
        order = torch.randperm(len(item.choosable), generator=generator)[:count]
        chosen = sorted(item.choosable[k] for k in order.tolist())
        ids, fates = list(item.ids), torch.rand(count, generator=generator).tolist()
        others = self.ordinary[torch.randint(len(self.ordinary), (count,), generator=generator)].tolist()
        for position, fate, other in zip(chosen, fates, others, strict=True):
            if fate < MASKED + RANDOM:
                ids[position] = self.tokenizer.mask_token_id if fate < MASKED else other
        return Draft(i, ids, chosen, generator)

    @torch.inference_mode()
    def _fill(self, drafts: list[Draft], encoded: list[Encoded]) -> list[list[int]]:
        """The ids of every draft with the chosen positions drawn from the model's distribution."""
        result: list[list[int]] = [[] for _ in drafts]
        order = sorted(range(len(drafts)), key=lambda k: len(drafts[k].ids))
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            features = [{"input_ids": drafts[k].ids, "token_type_ids": encoded[drafts[k].row].types} for k in part]
            taken = {name: [feature[name] for feature in features] for name in features[0]}
            if "token_type_ids" not in self.tokenizer.model_input_names:
                del taken["token_type_ids"]
            batch = self.tokenizer.pad(taken, return_tensors="pt").to(self.device)
            logits = self.model(**batch).logits
            for row, k in enumerate(part):
                drawn = self._draw(logits[row, drafts[k].chosen].float().cpu(), drafts[k].generator)
                ids = list(encoded[drafts[k].row].ids)
                for position, token in zip(drafts[k].chosen, drawn.tolist(), strict=True):
                    ids[position] = token
                result[k] = ids
        return result

    def _draw(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        """int64 [n]: a token each from float32 [n, V] logits, without special tokens (Gumbel-max)."""
        logits = logits.masked_fill(~self.allowed, -torch.inf)
        if self.top_k is not None:
            least = logits.topk(min(self.top_k, len(self.ordinary)), dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        return (logits - torch.empty_like(logits).exponential_(generator=generator).log()).argmax(-1)

    def _written(self, item: Encoded, name: str, ids: list[int]) -> str:
        """The text with the words whose tokens changed written anew; everything else stays to the letter."""
        text, written, at = item.texts[name], "", 0
        for word in item.words[name]:
            if all(ids[position] == item.ids[position] for position in word.tokens):
                continue
            old = text[word.start : word.end]
            new = self.tokenizer.decode([ids[p] for p in word.tokens], clean_up_tokenization_spaces=False)
            start = word.start + len(old) - len(old.lstrip())  # some tokenizers count the space before to the word
            written = apart(written, text[at:start]) if at else text[:start]
            written, at = apart(written, new.strip().removeprefix("##")), word.end
        return apart(written, text[at:]) if at else text


def apart(left: str, right: str) -> str:
    """Both, with a space where a letter would meet a letter: a word in the place of a quotation mark stays a word."""
    return f"{left} {right}" if left[-1:].isalnum() and right[:1].isalnum() else left + right
