"""BERT-Attack: the words that matter most are replaced by what a masked language model would write there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from mtrobust.evaluation.attacks.base import ATTACKS, Attack, AttackOptions, Change, Outcome
from mtrobust.evaluation.attacks.words import Word, is_stop_word, rewritten, words_of

if TYPE_CHECKING:
    import numpy as np

    from mtrobust.evaluation.attacks.victim import Victim

TOLERANCE = 1e-5  # probabilities nearer than this count as equal: rows of a batch are rounded otherwise than alone


class Options(AttackOptions):
    """Options of `bert_attack`."""

    mlm: str = Field(description="masked language model that proposes substitutes: folder or hub name")
    top_k: int = Field(48, ge=1, description="likeliest tokens looked at per place")
    threshold: float = Field(
        3.0, ge=0, description="least score (logit) of a token that replaces a word of one piece; 0: no limit"
    )
    combinations: int = Field(24, ge=0, description="candidates for a word of several pieces; 0: such words stay")
    max_changed: float = Field(0.4, gt=0, le=1, description="largest share of the words that is changed")
    vectors: Path | None = Field(
        None, description="text file of word vectors (counter-fitted); substitutes of another meaning are left out"
    )
    min_cosine: float = Field(0.7, ge=-1, le=1, description="with --vectors: least cosine of word and substitute")
    similarity_model: Path | None = Field(
        None, description="folder of an encoder; texts of another meaning are left out, before the model is asked"
    )
    min_similarity: float = Field(
        0.8, ge=-1, le=1, description="with --similarity_model: least cosine of the mean-pooled texts"
    )

    @model_validator(mode="after")
    def _in_use(self) -> Options:
        pairs = (("min_cosine", "vectors"), ("min_similarity", "similarity_model"))
        unused = [(a, b) for a, b in pairs if a in self.model_fields_set and getattr(self, b) is None]
        if unused:
            raise ValueError("; ".join(f"--{a}: without effect without --{b}" for a, b in unused))
        return self

    @classmethod
    def file_faults(cls, given: Mapping[str, str]) -> list[str]:
        """Files and folders that are not there."""
        found = []
        for flag, what in (("mlm", "the folder of a masked language model"), ("similarity_model", "a model folder")):
            name = given.get(flag)
            # what does not look like a path may be a name on the hub
            local = name and (flag != "mlm" or name.startswith((".", "/", "~")) or Path(name).exists())
            if name and local and not (Path(name).expanduser() / "config.json").is_file():
                found.append(f"--{flag}: {name}: no config.json there; expected {what}")
        if given.get("vectors") and not Path(given["vectors"]).is_file():
            found.append(f"--vectors: {given['vectors']}: no such file")
        return found

    def sources(self) -> dict[str, Path]:
        """The masked language model where it is a folder, and the filters' files."""
        given = {"mlm": Path(self.mlm), "vectors": self.vectors, "similarity_model": self.similarity_model}
        return {name: path for name, path in given.items() if path is not None and path.expanduser().exists()}

    def notes(self) -> list[str]:
        """Which filters were not in use."""
        if self.vectors is not None:
            return []
        return ["no counter-fitted vectors were given (--vectors): substitutes may mean the opposite of the word"]


@ATTACKS.register("bert_attack")
class BertAttack(Attack):
    """BERT-Attack (Li et al., EMNLP 2020, Algorithm 1), as Zhou et al. (EMNLP 2021, 5.1.3) used it to measure.

    1. A row that the model gets wrong is not attacked.
    2. Words are what stands between blanks, without punctuation at their ends. The importance of a word is by how much
       the gold label's probability falls when the word is replaced by the mask token.
    3. The masked language model reads the unmasked text once. A word of one piece may be replaced by its `top_k`
       likeliest tokens there, a word of several by `combinations` of the likeliest pieces, ranked by the model's
       perplexity. Stop words are neither replaced nor put in; nor put in are pieces within words and punctuation.
    4. Words are visited by falling importance. Substitutes are tried one after the other: the first that changes the
       predicted label ends the attack; otherwise the one stays that lowers the gold label's probability most, if any.
       At most `max_changed` of the words are changed (rounded down; one at least).

    `queries` counts the predictions that this takes one by one: the row, each of its words masked, each substitute
    tried. What is computed is less and in batches: words that cannot be replaced are not masked, substitutes of a
    word are scored together. Gaps below `TOLERANCE` count as none, so that rounding in batches decides nothing.

    Deviations from the released code (each in docs/attack.md): it masks with the unknown token, adds to the importance
    of a word whose masking changes the label the other label's gain, never visits the last word, changes one word more
    than the share allows, and takes the lexically first 24 combinations of pieces, words with blanks in them included.
    """

    name = "bert_attack"
    summary = "words replaced by what a masked language model would write there, the most important first"
    paper = "Li et al. 2020"
    Options = Options

    def __init__(self, options: AttackOptions, victim: Victim, field: str) -> None:
        assert isinstance(options, Options)
        super().__init__(options, victim, field)
        from mtrobust.evaluation.attacks.filters import SentenceSimilarity, WordVectors
        from mtrobust.evaluation.attacks.substitutes import SubstituteModel

        self.options = options
        self.vectors = WordVectors(options.vectors) if options.vectors is not None else None
        folder = options.similarity_model
        self.similarity = SentenceSimilarity(folder, victim.device) if folder is not None else None
        self.model = SubstituteModel(
            options.mlm, victim.device, top_k=options.top_k, threshold=options.threshold,
            combinations=options.combinations, accept=self.accept,
        )  # fmt: skip

    def run(self, row: Mapping[str, Any]) -> Outcome:
        """See the class."""
        gold, words = int(row["label"]), words_of(row[self.field])
        first = self.victim.features([row])
        probabilities = self.victim.probabilities(first)[0]
        prediction = int(probabilities.argmax())
        if prediction != gold:
            return Outcome(prediction, None, 1, len(words))
        current, queries = float(probabilities[gold]), 1 + len(words)
        changes: dict[int, str] = {}
        limit = max(1, int(self.options.max_changed * len(words) + 1e-9))
        found = self.model.of(words)
        for index in self.order(row, words, found.possible(), first[0]["input_ids"], current):
            if len(changes) == limit:
                break
            texts = self.texts(row, words, changes, index, found.at(index))
            tried, best, label, lowest = self.first_or_best(row, list(texts.values()), gold, current)
            queries += tried
            if best is not None:
                changes[index], current = list(texts)[best], lowest
            if best is not None and label != gold:
                done = [Change(i, words[i].text, changes[i]) for i in sorted(changes)]
                return Outcome(prediction, True, queries, len(words), list(texts.values())[best], label, done)
        return Outcome(prediction, False, queries, len(words))

    def accept(self, word: str, substitute: str) -> bool:
        """Whether a substitute may stand for a word, wherever it stands."""
        if is_stop_word(substitute) or substitute.lower() == word.lower():
            return False
        cosine = self.vectors.cosine(word, substitute) if self.vectors is not None else None
        return cosine is None or cosine >= self.options.min_cosine

    def order(
        self, row: Mapping[str, Any], words: Sequence[Word], possible: Sequence[int], ids: np.ndarray, whole: float
    ) -> list[int]:
        """Words by falling importance, of those that may be replaced and that the model sees.

        ids: the row's tokens as the model reads them, whole: the gold label's probability. A word whose mask leaves the
        tokens as they are stands behind the cut. Words of equal importance stay in the order of the text.
        """
        if not possible:
            return []
        text, gold = row[self.field], int(row["label"])
        masked = [{**row, self.field: rewritten(text, words, {i: self.victim.mask})} for i in possible]
        features = self.victim.features(masked)
        seen = [at for at, feature in enumerate(features) if list(feature["input_ids"]) != list(ids)]
        if not seen:
            return []
        left = self.victim.probabilities([features[at] for at in seen])[:, gold]
        falling = sorted((float(p) - whole, possible[at]) for at, p in zip(seen, left, strict=True))
        group, grouped = 0, []
        for number, (drop, index) in enumerate(falling):
            group += number > 0 and drop - falling[number - 1][0] > TOLERANCE
            grouped.append((group, index))
        return [index for _, index in sorted(grouped)]

    def texts(
        self,
        row: Mapping[str, Any],
        words: Sequence[Word],
        changes: Mapping[int, str],
        index: int,
        substitutes: Sequence[str],
    ) -> dict[str, str]:
        """The changed text by substitute, of those that keep the meaning of the text where that is asked."""
        text = row[self.field]
        made = {one: rewritten(text, words, {**changes, index: one}) for one in substitutes}
        if self.similarity is None or not made:
            return made
        cosines = self.similarity.cosines(text, list(made.values()))
        least = self.options.min_similarity
        return {one: made[one] for one, cosine in zip(made, cosines, strict=True) if cosine >= least}

    def first_or_best(
        self, row: Mapping[str, Any], texts: Sequence[str], gold: int, current: float
    ) -> tuple[int, int | None, int, float]:
        """(texts tried until the label changes, which text is taken if any, its label, its gold probability).

        The first that changes the label, else the one with the lowest gold probability, if that is below `current`.
        """
        best: tuple[int | None, int, float] = (None, gold, current)
        for start in range(0, len(texts), self.victim.batch_size):
            part = texts[start : start + self.victim.batch_size]
            features = self.victim.features([{**row, self.field: text} for text in part])
            for at, probabilities in enumerate(self.victim.probabilities(features), start):
                label, left = int(probabilities.argmax()), float(probabilities[gold])
                if label != gold:
                    return at + 1, at, label, left
                if left < best[2] - TOLERANCE:
                    best = (at, gold, left)
        return len(texts), *best
