"""The figures of each analysis against a short computation of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtrobust.analysis import ANALYSES
from mtrobust.errors import UserError
from mtrobust.perturb.noise import KeyedNoise

TEXT = "the doctor met a warm cat near the river."


def look(name: str, subjects, task: str = "mood", **options):
    kind = ANALYSES[name]
    analysis = kind(kind.Options(**options))
    return analysis, analysis.look(subjects, task)


def table_of(subject) -> np.ndarray:
    return subject.run.model.encoder.word_embeddings.weight.detach().double().numpy()


def one_batch(subject, text: str = TEXT, task: str = "mood"):
    from mtrobust.analysis.base import TextOptions
    from mtrobust.analysis.texts import read_text

    feature = read_text(subject, task, TextOptions(text=text)).feature
    (_, batch), *_ = subject.batches(task, [feature], 1)
    return batch


def swep_delta(subject, batch, draw: int = 0) -> np.ndarray:
    """e * (z - 1) by the formula, from the noise network and the keyed draws."""
    encoder, net = subject.run.model.encoder, subject.step.methods["mood"].methods["swep"].net
    with torch.no_grad():
        tape = encoder.record(batch.inputs, ["words"])
        mu, log_var = net(tape.last).chunk(2, dim=-1)
        noise = KeyedNoise(subject.run.config.seed + draw * 1_000_003)
        drawn = noise.draw("swep/words", mu, batch.inputs["attention_mask"], batch.row_ids, 0)
        return (tape.h["words"] * (mu + (log_var / 2).exp() * drawn - 1))[0].double().numpy()


# --- neighbours -------------------------------------------------------------------------------------------------------


def test_neighbours_are_those_of_numpy(subject, runs):
    standard, swep = subject("standard"), subject("swep")
    _, found = look("neighbours", [standard, swep], word="cat", text=TEXT, top=4)
    assert [run["run"] for run in found.data["runs"]] == ["standard", "swep"]
    assert found.data["runs"][0]["after"] == [] and found.notes == [
        "standard: standard edits no states: nothing changes there"
    ]
    batch = one_batch(swep)
    ids = batch.inputs["input_ids"][0].tolist()
    tokenizer = swep.run.tokenizer
    cat = tokenizer.convert_tokens_to_ids("cat")
    table, place = table_of(swep), ids.index(cat)
    words = {line["text"] for line in map(dict, ({"text": w} for w in _train_words(runs)))}
    for state, vector in (("before", table[cat]), ("after", table[cat] + swep_delta(swep, batch)[place])):
        cosines = {}
        for word in words - {"cat"}:
            pieces = tokenizer.tokenize(word)
            if len(pieces) == 1:
                other = table[tokenizer.convert_tokens_to_ids(word)]
                cosines[word] = other @ vector / np.linalg.norm(other) / np.linalg.norm(vector)
        expected = sorted(cosines.items(), key=lambda item: -item[1])[:4]
        got = found.data["runs"][1][state]
        assert [word for word, _ in got] == [word for word, _ in expected]
        np.testing.assert_allclose([c for _, c in got], [c for _, c in expected], atol=1e-5)
    known = {word for word, _ in found.data["runs"][0]["before"]}
    marks = {(line["run"], line["state"], line["word"]): line["shared"] for line in found.table}
    assert all(shared == (word in known) for (_, _, word), shared in marks.items())


def _train_words(runs) -> set[str]:
    import json

    with open(runs / "data" / "mood" / "train.jsonl", encoding="utf-8") as file:
        return {word.strip(".") for line in file for word in json.loads(line)["text"].split(" ")}


def test_neighbours_at_a_layer_are_means_over_occurrences(subject):
    from mtrobust.analysis.neighbours import candidates

    run = subject("standard")
    kind = ANALYSES["neighbours"].Options
    names, vectors = candidates(run, "mood", 2, kind(word="cat", words_rows=6))
    features = run.features("mood", run.rows("mood", "train", None, 6))
    states = []
    for feature in features:
        (_, batch), *_ = run.batches("mood", [feature], 1)
        with torch.no_grad():
            h = run.run.model.encoder.record(batch.inputs, [2]).h[2][0]
        cat = run.run.tokenizer.convert_tokens_to_ids(names[0])
        states += [h[at] for at, one in enumerate(batch.inputs["input_ids"][0].tolist()) if one == cat]
    assert len(states) > 1
    np.testing.assert_allclose(vectors[0], torch.stack(states).mean(0).numpy(), atol=1e-5)


# --- drift ------------------------------------------------------------------------------------------------------------


def test_mapping_back_is_the_brute_force_one():
    from mtrobust.analysis.drift import mapped_back

    table, vectors = torch.randn(60, 7), torch.randn(700, 7)
    found = mapped_back(vectors, table)
    for at, vector in enumerate(vectors.double().numpy()):
        distances = [np.sqrt(((vector - row) ** 2).sum()) for row in table.double().numpy()]
        products = [float((vector * row).sum()) for row in table.double().numpy()]
        assert found["distance"][at] == int(np.argmin(distances))
        assert found["product"][at] == int(np.argmax(products))


def test_drift_counts_tokens_at_every_checkpoint(subject):
    swep, standard = subject("swep"), subject("standard")
    _, found = look("drift", [swep], rows=3, batch_size=1)
    assert [line["step"] for line in found.table] == [2, 4]
    assert found.scalars[0][0] == "drift/swep/product" and [s for *_, s in found.scalars] == [2, 2, 4, 4]
    last = found.table[-1]
    swep.load_weights(swep.path / "checkpoints" / "step-4")
    changed = total = 0
    special = set(swep.run.tokenizer.all_special_ids)
    features = swep.features("mood", swep.rows("mood", "train", None, 3))
    for places, batch in swep.batches("mood", features, 1):
        assert batch.row_ids.tolist() == places
        delta, table = swep_delta(swep, batch), table_of(swep)
        for at, token in enumerate(batch.inputs["input_ids"][0].tolist()):
            if token not in special:
                moved = table[token] + delta[at]
                changed += int(np.argmin(((table - moved) ** 2).sum(1)) != token)
                total += 1
    assert last["tokens"] == total and last["distance"] == pytest.approx(changed / total)
    assert 0 < last["distance"] < 1
    with pytest.raises(UserError, match="no such"):
        standard.task("nothing")


# --- heatmap ----------------------------------------------------------------------------------------------------------


def test_sizes_are_means_over_draws(subject):
    swep = subject("swep")
    _, found = look("heatmap", [swep, subject("standard")], text=TEXT, draws=3)
    batch = one_batch(swep)
    sizes = np.mean([np.linalg.norm(swep_delta(swep, batch, draw), axis=1) for draw in range(3)], axis=0)
    from mtrobust.analysis.texts import words_of

    words = words_of(swep.run.tokenizer, batch.inputs["input_ids"][0].tolist())
    expected = [sizes[word.places].mean() for word in words]
    got = [line["size"] for line in found.table if line["run"] == "swep"]
    np.testing.assert_allclose(got, expected, atol=2e-6)
    assert {line["size"] for line in found.table if line["run"] == "standard"} == {0.0}
    assert found.notes == ["standard: standard moves no states: all sizes are 0"]
    assert found.html is not None and found.html.count("<span") == 2 * len(words)


def test_a_question_stands_beside_its_passage(subject):
    _, found = look("heatmap", [subject("rapt")], "squad", text="Who met the cat?", text_pair="The doctor met the cat.")
    words = [line["word"] for line in found.table]
    assert words.count("[SEP]") == 2 and words.count("met") == 2
    assert {line["layer"] for line in found.table} == {"layer 2"}


# --- frequency --------------------------------------------------------------------------------------------------------


def test_bands_distances_and_factors(subject, monkeypatch):
    from mtrobust.analysis import frequency

    monkeypatch.setattr(frequency, "BANDS", ((1, 5), (6, None)))
    run = subject("mu")  # no epsilon: the perturbed embedding is e * mu
    _, found = look("frequency", [run], rows=4, k=2, draws=2, batch_size=1)
    features = run.features("mood", run.rows("mood", "train", None))
    special = set(run.run.tokenizer.all_special_ids)
    every = [int(i) for feature in features for i in feature["input_ids"] if int(i) not in special]
    ranked = sorted(set(every), key=lambda i: (-every.count(i), i))
    table = table_of(run)[ranked]
    near = [np.sort(np.sqrt(((table - row) ** 2).sum(1)))[1:3].mean() for row in table]
    assert [line["ranks"] for line in found.table] == ["1-5", f"6-{len(ranked)}"]
    np.testing.assert_allclose([line["knn"] for line in found.table], [np.mean(near[:5]), np.mean(near[5:])], rtol=1e-5)
    assert found.table[0]["occurrences"] == sum(every.count(i) for i in ranked[:5])

    net, sums = run.step.methods["mood"].methods["swep"].net, {0: [], 1: []}
    for _, batch in run.batches("mood", run.features("mood", run.rows("mood", "train", None, 4)), 1):
        with torch.no_grad():
            tape = run.run.model.encoder.record(batch.inputs, ["words"])
            mu = net(tape.last).chunk(2, dim=-1)[0][0].numpy()
        for at, token in enumerate(batch.inputs["input_ids"][0].tolist()):
            if token not in special:
                e = tape.h["words"][0, at].numpy()
                moved, factor = np.linalg.norm(e * (mu[at] - 1)), (e**2 * mu[at]).sum() / (e**2).sum()
                sums[int(ranked.index(token) >= 5)].append((moved, factor))
    for band in (0, 1):
        moved, factor = np.mean(sums[band], axis=0)
        assert found.table[band]["moved"] == pytest.approx(moved, rel=1e-4)
        assert found.table[band]["factor"] == pytest.approx(factor, rel=1e-4)


# --- space ------------------------------------------------------------------------------------------------------------


def test_space_has_both_states_of_every_token(subject):
    from sklearn.manifold import TSNE

    swep = subject("swep")
    _, found = look("space", [swep], text=TEXT, perplexity=4, seed=5)
    batch = one_batch(swep)
    delta, length = swep_delta(swep, batch), batch.inputs["input_ids"].shape[1]
    lines = [line for line in found.table if line["layer"] == "words"]
    np.testing.assert_allclose([line["distance"] for line in lines], np.linalg.norm(delta, axis=1), atol=1e-5)
    assert {line["layer"] for line in found.table} == {"words", "layer 3"}
    before = table_of(swep)[batch.inputs["input_ids"][0].numpy()].astype(np.float32)
    (tag, vectors, names), _ = found.points
    np.testing.assert_allclose(vectors, np.concatenate([before, before + delta]), atol=1e-5)
    assert tag == "space/swep/words" and len(names) == 2 * length and names[length].endswith(" (after)")
    plane = TSNE(perplexity=4, init="pca", random_state=5, method="exact").fit_transform(vectors)
    np.testing.assert_allclose([line["x_after"] for line in lines], plane[length:, 0], rtol=1e-3, atol=1e-3)


# --- layers -----------------------------------------------------------------------------------------------------------


def test_divergence_is_that_of_direct_passes(subject):
    run = subject("standard")
    _, found = look("layers", [run], rows=3, sizes="1,4", batch_size=2)
    features = run.features("mood", run.rows("mood", "dev", None, 3))
    encoder, head = run.run.model.encoder, run.run.model.heads["mood"]
    from mtrobust.tasks.base import HeadInput

    for site, name in (("words", "words"), (2, "layer 2"), (3, "layer 3")):
        total = changed = 0.0
        for _, batch in run.batches("mood", features, 2):
            with torch.no_grad():
                tape = encoder.record(batch.inputs, [site])
                mask = batch.inputs["attention_mask"]
                noise = KeyedNoise(run.run.config.seed).draw(f"rapt/{site}", tape.h[site], mask, batch.row_ids, 0)
                noise = 4 * noise / noise.abs().amax((1, 2), keepdim=True)
                noisy = encoder.replay(tape, site, tape.h[site] + noise)
                p, q = (
                    head(HeadInput(one.last, one.pooled), batch)["logits"].double().softmax(-1).numpy()
                    for one in (tape, noisy)
                )
            total += (p * np.log(p / q)).sum()
            changed += (p.argmax(1) != q.argmax(1)).sum()
        (line,) = [line for line in found.table if line["layer"] == name and line["size"] == 4]
        assert line["divergence"] == pytest.approx(total / 3, rel=1e-3)
        assert line["changed"] == pytest.approx(changed / 3)
    assert [line["layer"] for line in found.table[::2]] == ["words", "embeddings", "layer 1", "layer 2", "layer 3"]


def test_runs_of_a_sweep_have_their_dev_figures(subject):
    analysis, found = look("layers", [subject("standard"), subject("rapt")], rows=2, sizes=[1])
    points = {point["run"]: point for point in found.data["runs"]}
    assert points["rapt"]["layers"] == [1, 2, 3] and points["rapt"]["size"] == 2 and points["rapt"]["dev"] == 40.0
    assert points["standard"]["layers"] is None and not found.notes
    from mtrobust.evaluation.pictures import style

    with style():
        figure = analysis.draw(found)
    assert [axes.get_ylabel() for axes in figure.findobj(lambda x: hasattr(x, "get_ylabel"))] == [
        "divergence (kl)", "predictions that change (%)", "dev acc (%)",
    ]  # fmt: skip


def test_layers_of_a_question_task(subject):
    _, found = look("layers", [subject("standard")], "squad", rows=2, sizes=[8], divergence="jsd")
    assert all(line["divergence"] > 0 and 0 <= line["changed"] <= 1 for line in found.table)


# --- smoothness -------------------------------------------------------------------------------------------------------


def jacobian_of(subject, batch, site, task: str = "mood") -> torch.Tensor:
    """d posteriors / d states of one row by torch's own function, [outputs, T * width]."""
    from mtrobust.analysis.smoothness import posteriors
    from mtrobust.perturb.passes import Needs

    passes = subject.passes(batch, Needs(frozenset({site})))
    hidden = passes.h(site).detach()
    f = lambda h: torch.cat([posteriors(view).flatten() for view in passes.at(site, h).views()])  # noqa: E731
    return torch.autograd.functional.jacobian(f, hidden).flatten(1)


@pytest.mark.parametrize("site", ["words", 1])
def test_the_exact_norm_and_the_lipschitz_estimate(subject, site):
    run = subject("standard")
    run.step.double()
    features = run.features("mood", run.rows("mood", "dev", None, 3))
    from mtrobust.analysis.smoothness import jacobian_norms, lipschitz
    from mtrobust.perturb.passes import Needs

    for _, batch in run.batches("mood", features, 1):
        exact = jacobian_of(run, batch, site)
        passes = run.passes(batch, Needs(frozenset({site})))
        assert jacobian_norms(passes, site, 8, 1, 1).item() == pytest.approx(exact.norm().item(), rel=1e-4)
        spectral = torch.linalg.matrix_norm(exact, 2).item()
        assert lipschitz(passes, site, 1e-5, 20, 1).item() == pytest.approx(spectral, rel=0.02)
        assert lipschitz(passes, site, 1e-5, 0, 1).item() < spectral * 1.001  # a random direction is no better


def test_the_estimate_is_unbiased_on_spans(subject):
    run = subject("standard")
    from mtrobust.analysis.smoothness import jacobian_norms
    from mtrobust.perturb.passes import Needs

    features = run.features("squad", run.rows("squad", "dev", None, 1))[:1]
    (_, batch), *_ = run.batches("squad", features, 1)
    passes = run.passes(batch, Needs(frozenset({"words"})))
    exact = jacobian_of(run, batch, "words").norm() / 2**0.5  # the mean over start and end, of squares
    assert jacobian_norms(passes, "words", 0, 400, 1).item() == pytest.approx(exact.item(), rel=0.1)
    assert jacobian_norms(passes, "words", 1000, 1, 1).item() == pytest.approx(exact.item(), rel=1e-3)


def test_smoothness_has_a_line_for_each_row_in_their_order(subject):
    run = subject("standard")
    _, found = look("smoothness", [run], rows=5, batch_size=2)
    assert [line["id"] for line in found.table] == [row["id"] for row in run.rows("mood", "dev", None, 5)]
    summary = found.data["runs"][0]
    values = [line["jacobian"] for line in found.table]
    assert summary["jacobian_median"] == pytest.approx(np.median(values)) and summary["dev"] == 40.0
