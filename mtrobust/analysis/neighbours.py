"""`neighbours`: the closest words to a word of a sentence, before and after the perturbation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mtrobust.analysis.base import ANALYSES, Analysis, Found, SiteOptions, TextOptions

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from rich.table import Table

    from mtrobust.analysis.probe import Subject
    from mtrobust.analysis.texts import Text, Word
    from mtrobust.perturb import Perturbation
    from mtrobust.perturb.layers import Site

SIDE_BY_SIDE = 3  # runs in one row of the picture: six columns of words can be read at 800 px


class Options(TextOptions, SiteOptions):
    """Options of `neighbours`."""

    word: str = Field(description="the word of the text whose neighbours are looked for")
    top: int = Field(10, ge=1, le=50, description="words shown")
    words_of: str = Field("train", description="split whose words are candidates")
    words_rows: int = Field(2000, ge=1, description="rows of it that are read, evenly from the whole split")


@ANALYSES.register("neighbours")
class Neighbours(Analysis):
    """The closest words to a word of a sentence at the word embeddings or a layer, for several runs side by side.

    Every candidate is a word that occurs in `words_rows` rows of the split `words_of` and that the tokenizer has as one
    token; its vector is the mean of its clean states at the place looked at, over all its occurrences. The word looked
    up is the mean over its tokens, once in the clean pass and once in the one that the method edits. Closeness is the
    cosine. A mark stands at words that are not among the closest, before any perturbation, of the reference: the first
    run without an edit (`standard`), else the first run. Source: Pereira et al., Tables 4 to 6.
    """

    name = "neighbours"
    summary = "closest words to a word of a sentence, before and after the perturbation"
    paper = "RAPT, Tables 4 to 6"
    Options = Options

    def look(self, subjects: Sequence[Subject], task: str) -> Found:
        """See the class."""
        from mtrobust.analysis.texts import find_word, read_text

        text = read_text(subjects[0], task, self.options)
        find_word(text, self.options.word)  # first of all, since the candidates take a while
        columns: list[dict[str, Any]] = []
        notes: list[str] = []
        for subject in subjects:
            own = read_text(subject, task, self.options)
            word = find_word(own, self.options.word)
            for label, method in subject.methods(task).items():
                columns.append(self._column(subject, task, label, method, own, word, notes))
        reference = next((column for column in columns if not column["edited"]), columns[0])
        known = {word for word, _ in reference["before"]}
        for column in columns:
            column["shared"] = {
                state: [word in known for word, _ in column[state]] for state in ("before", "after") if column[state]
            }
        data = {"text": text.title, "word": self.options.word, "reference": reference["run"], "runs": columns}
        return Found(_lines(columns), data, _table(data), notes=notes)

    def _column(
        self, subject: Subject, task: str, label: str, method: Perturbation, text: Text, word: Word, notes: list[str]
    ) -> dict[str, Any]:
        """The neighbours for one method of one run; `after` is empty without an edit."""
        from mtrobust.analysis.probe import act_site, site_name

        wanted = self.options.layer.resolve(subject.num_layers, "--layer")[0] if self.options.layer else None
        act = act_site(method, wanted)
        site: Site = wanted if wanted is not None else "words" if act is None else act
        (_, batch), *_ = subject.batches(task, [text.feature], 1)
        seen = subject.see(method, batch, act, [site])
        names, vectors = candidates(subject, task, site, self.options)
        before = subject.clean(batch, site)[0, word.places].mean(0).cpu().numpy()
        after = seen.after(site)[0, word.places].mean(0).cpu().numpy()
        if seen.site is None:
            above = method.sites and act is None
            why = f"acts at no place up to {site_name(site)}" if above else "edits no states"
            notes.append(f"{label}: {method.name} {why}: nothing changes there")
        return {
            "run": label,
            "method": method.name,
            "layer": site_name(site),
            "edited": seen.site is not None,
            "candidates": len(names),
            "before": closest(before, names, vectors, self.options.top, word.text),
            "after": closest(after, names, vectors, self.options.top, word.text) if seen.site is not None else [],
        }

    def draw(self, found: Found) -> Figure:
        """A table of words: two columns for each run."""
        from mtrobust.evaluation.pictures import BASE, GREY, OTHERS, new_figure

        runs, top = found.data["runs"], self.options.top
        beside = min(SIDE_BY_SIDE, len(runs))
        blocks = [runs[at : at + SIDE_BY_SIDE] for at in range(0, len(runs), SIDE_BY_SIDE)]
        figure = new_figure(len(blocks) * (0.75 + 0.22 * top) + 0.3)
        panels = figure.subplots(len(blocks), 1, squeeze=False)[:, 0]
        for panel, block in zip(panels, blocks, strict=True):
            panel.set_axis_off()
            panel.set_xlim(0, 2 * beside)
            panel.set_ylim(top + 0.6, -2)
            for at, run in enumerate(block):
                panel.text(2 * at, -1.5, f"{run['run']}, {run['layer']}", fontsize=10, fontweight="bold", va="center")
                for state, x in (("before", 2 * at), ("after", 2 * at + 1)):
                    if not run[state]:
                        panel.text(x, 0.1, "no edit", fontsize=9, color=GREY, va="center", style="italic")
                        continue
                    panel.text(x, -0.65, state, fontsize=9, color=GREY, va="center")
                    for line, (word, cosine) in enumerate(run[state]):
                        shared = run["shared"][state][line]
                        kind = {"color": BASE} if shared else {"color": OTHERS[1], "fontweight": "bold"}
                        name, y = (word if len(word) < 13 else word[:11] + "…") + ("" if shared else "*"), line + 0.1
                        panel.text(x, y, name, fontsize=9, va="center", **kind)
                        panel.text(x + 0.93, y, f"{cosine:.2f}", fontsize=8, color=GREY, va="center", ha="right")
        return figure

    def caption(self, found: Found) -> str:
        """What the mark means."""
        data = found.data
        return (
            f"Closest words to '{data['word']}' by cosine; * and colour: not among the {self.options.top} closest of "
            f"{data['reference']} before the perturbation."
        )


def candidates(subject: Subject, task: str, site: Site, options: Options) -> tuple[list[str], np.ndarray]:
    """(words, their mean clean states at a site [n, width] float32), in the order of the vocabulary."""
    import numpy as np
    import torch

    from mtrobust.analysis.texts import is_word, words_of

    features = subject.features(task, subject.rows(task, options.words_of, options.data_dir, options.words_rows))
    encoder = subject.run.model.encoder
    sums = counts = None
    for _, batch in subject.batches(task, features, options.batch_size):
        states = subject.clean(batch, site)
        if sums is None or counts is None:
            sums = torch.zeros(encoder.word_embeddings.num_embeddings, states.shape[-1], device=states.device)
            counts = torch.zeros(len(sums), device=states.device)
        mask = batch.inputs["attention_mask"].bool()
        ids = batch.inputs["input_ids"][mask]
        sums.index_add_(0, ids, states[mask])
        counts.index_add_(0, ids, torch.ones(len(ids), device=ids.device))
    assert sums is not None and counts is not None
    whole: set[int] = set()
    for feature in features:
        ids = feature["input_ids"].tolist()
        whole |= {ids[w.places[0]] for w in words_of(subject.run.tokenizer, ids) if len(w.places) == 1 and is_word(w)}
    kept = np.array(sorted(whole), dtype=np.int64)
    tokens = subject.run.tokenizer.convert_ids_to_tokens(kept.tolist())
    names = [word.text for token_id, _ in zip(kept, tokens, strict=True)
             for word in words_of(subject.run.tokenizer, [int(token_id)])]  # fmt: skip
    return names, (sums[kept] / counts[kept, None]).cpu().numpy()


def closest(
    vector: np.ndarray, names: Sequence[str], vectors: np.ndarray, top: int, but: str
) -> list[tuple[str, float]]:
    """The `top` names whose vectors have the largest cosine to `vector`, the word `but` itself left out."""
    import numpy as np

    cosine = vectors @ vector / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector) + 1e-30)
    found: list[tuple[str, float]] = []
    for at in np.argsort(-cosine, kind="stable"):
        if names[at].lower() != but.lower() and names[at] not in [name for name, _ in found]:
            found.append((names[at], float(cosine[at])))
        if len(found) == top:
            break
    return found


def _lines(columns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "run": column["run"], "method": column["method"], "layer": column["layer"], "state": state,
            "rank": rank + 1, "word": word, "cosine": round(cosine, 6), "shared": column["shared"][state][rank],
        }
        for column in columns
        for state in ("before", "after")
        for rank, (word, cosine) in enumerate(column[state])
    ]  # fmt: skip


def _table(data: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(title=f"closest to '{data['word']}' (*: not with {data['reference']})", title_justify="left")
    cells: list[list[str]] = []
    for run in data["runs"]:
        for state in ("before", "after"):
            if run[state]:
                table.add_column(f"{run['run']}\n{run['layer']}\n{state}", no_wrap=True)
                found = zip(run[state], run["shared"][state], strict=True)
                cells.append([f"{word}{'' if same else '*'} {cosine:.2f}" for (word, cosine), same in found])
    for line in range(max(map(len, cells))):
        table.add_row(*(column[line] if line < len(column) else "" for column in cells))
    return table
