"""What must hold of every method, and closed forms of each."""

from __future__ import annotations

import pytest
import torch

from mtrobust.errors import UserError
from mtrobust.models.encoder import Encoder
from mtrobust.models.multitask import enable_checkpointing
from mtrobust.perturb import METHODS, Passes
from mtrobust.perturb.divergence import get_divergence
from mtrobust.perturb.noise import unit_l2
from tests.models.tiny import LAYERS
from tests.perturb.cells import TASKS, batch_of, family_for, gradients, spec, step_of

EDITING = [name for name, method in METHODS.items() if "layers" in method.Options.model_fields]
SITES = ["words", 0, 1, LAYERS]
NO_NOISE = {"rpt": {"c": 0.0}, "rapt": {"eta": 0.0}, "r3f": {"eps": 0.0}}
# How a method is weighed down to nothing. SWEP has 0 < lambda < 1 and no such setting.
NOTHING = {"freelb": {"steps": 1, "init": 0.0}} | {
    name: {key: value}
    for key, value in (("alpha", 0.0), ("clean", 1.0))
    for name in EDITING
    if key in METHODS[name].Options.model_fields and name != "swep"
}
# Methods that need a labelled row, and of which every row counts for itself.
UNLABELLED = [name for name in EDITING if METHODS[name].uses_unlabelled]
ROW_BY_ROW = [name for name in EDITING if name != "smix"]  # SMix mixes a row with another of its batch


def at(method: str, layer: str | int) -> str | int:
    """A site for tests that ask for several at once: SWEP belongs to one."""
    return (
        "words"
        if method == "swep" and layer == "all"
        else "words,1-2"
        if method == "rdrop" and layer == "all"
        else layer
    )


def types_of(method: str) -> list[str]:
    return ["Classification", "Regression"] if method == "smix" else list(TASKS)


EDITED = [(method, task_type) for method in EDITING for task_type in types_of(method)]


def passes_of(step, batch, needs=None) -> Passes:
    compose = step.methods[batch.task]
    return Passes(step.model.encoder, step.model.heads[batch.task], batch, step.noise, needs or compose.needs)


@pytest.mark.parametrize(("method", "task_type"), [cell for cell in EDITED if cell[0] in NOTHING])
def test_weight_zero_is_standard_bit_for_bit(method, task_type):
    family = family_for(task_type)
    batch, specs = batch_of(family, task_type), [spec(method, **NOTHING[method], layers=1)]
    plain, expected = gradients(step_of(family, task_type, [], dropout=0.0), batch)
    loss, got = gradients(step_of(family, task_type, specs, dropout=0.0), batch)
    assert torch.equal(loss, plain)
    assert got.keys() == expected.keys()
    # What encoder and decoder share gets its gradient in parts, which a driver adds up in another order.
    same = torch.allclose if (family, method) == ("t5", "freelb") else torch.equal
    assert all(same(got[name], grad) for name, grad in expected.items())


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("method", NO_NOISE)
def test_zero_noise_gives_the_clean_logits(method, site):
    batch = batch_of("bert", "Classification")
    step = step_of("bert", "Classification", [spec(method, layers=site, **NO_NOISE[method])], dropout=0.0)
    passes = passes_of(step, batch)
    clean, noisy = passes.fork(site, lambda hidden: hidden)
    assert torch.allclose(noisy.out["logits"], clean.out["logits"], atol=1e-6)
    fresh = passes_of(step, batch)
    recorded = fresh.out["logits"]  # the plain path: a recorded pass, then a branch from it
    assert torch.equal(fresh.at(site, fresh.h(site) + 0).out["logits"], recorded)
    # Through the fork the two halves of the doubled batch may differ by float error, no more.
    assert 0 <= float(step(batch).terms[f"{method}/reg"]) < 1e-9


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(("method", "task_type"), [cell for cell in EDITED if cell[0] not in ("jacobian", "rdrop")])
def test_padding_has_no_noise(monkeypatch, method, site, task_type):
    edits = []
    original = Encoder.replay

    def watch(self, tape, at, hidden, *args, **kwargs):
        clean = tape.h[at]
        edits.append((hidden[-len(clean) :] - clean).detach())
        return original(self, tape, at, hidden, *args, **kwargs)

    monkeypatch.setattr(Encoder, "replay", watch)
    batch = batch_of(family_for(task_type), task_type)
    often = {"p": 0.5} if method == "word_dropout" else {}  # at .1 a small batch may lose no token
    step_of(family_for(task_type), task_type, [spec(method, layers=site, **often)])(batch)
    padding = batch.inputs["attention_mask"] == 0
    assert edits and padding.any()
    assert all(torch.count_nonzero(delta[padding]) == 0 for delta in edits)
    # (an adversarial method gives none to tokens that no output reads, such as the last layer's but the first; the
    # ascent of adv_aug starts at none)
    assert (edits[-1][~padding].abs().sum(-1) > 0).any()


@pytest.mark.parametrize("method", ROW_BY_ROW)
def test_same_seed_same_loss_whatever_the_batch_and_padding(method):
    """A row's noise depends on the row, not on its neighbours: the sum over two halves is the whole."""
    specs = [spec(method, layers=at(method, "all"))]
    step = step_of("bert", "Classification", specs, dropout=0.0, dtype=torch.float64)
    whole = batch_of("bert", "Classification", step=5)
    counts = step.counts(whole)
    reference = step(whole).loss
    assert torch.equal(step(whole).loss, reference)

    def part(rows: slice, length: int):
        from mtrobust.tasks.base import Batch

        inputs = {k: v[rows, :length] for k, v in whole.inputs.items()}
        targets = {k: v[rows] for k, v in whole.targets.items()}
        return Batch(whole.task, inputs, targets, whole.row_ids[rows], whole.step, counts)

    halves = step(part(slice(0, 3), 12)).loss + step(part(slice(3, 4), 6)).loss
    # vda's masked language model computes in float32, where padding changes the last digits
    assert torch.allclose(halves, reference, rtol=1e-5 if method == "vda" else 1e-12)
    grads = [gradients(step, batch)[1] for batch in (whole, part(slice(0, 3), 12), part(slice(3, 4), 6))]
    for name, grad in grads[0].items():
        assert torch.allclose(grad, grads[1][name] + grads[2][name], rtol=1e-5 if method == "vda" else 1e-9, atol=1e-7)
    if method not in ("rdrop", "adv_aug"):  # their noise is dropout, or found from the same start
        other = batch_of("bert", "Classification", step=6)
        assert step(other).loss != reference, "another step draws other noise"


@pytest.mark.parametrize("method", [name for name in UNLABELLED if name != "rdrop"])
def test_unlabelled_rows_take_part_in_the_regulariser_only(method):
    step = step_of("bert", "Classification", [spec(method, layers=1)], dropout=0.0, dtype=torch.float64)
    all_known = step(batch_of("bert", "Classification"))
    some = step(batch_of("bert", "Classification", labelled=[True, False, False, True]))
    none = step(batch_of("bert", "Classification", labelled=[False] * 4))
    assert torch.equal(some.terms[f"{method}/reg"], all_known.terms[f"{method}/reg"])
    assert not torch.allclose(some.terms["task"], all_known.terms["task"])
    alpha = METHODS[method].Options.model_fields["alpha"].default
    assert none.terms["task"] == 0 and torch.allclose(none.loss.detach(), alpha * none.terms[f"{method}/reg"])


def test_methods_that_use_unlabelled_rows_are_these():
    assert set(UNLABELLED) == {"rapt", "smart", "rpt", "vat", "jacobian", "vda", "rdrop", "r3f"}


@pytest.mark.parametrize("method", [name for name in EDITING if name not in UNLABELLED])
def test_methods_that_need_labels_add_nothing_on_unlabelled_rows(method):
    step = step_of("bert", "Classification", [spec(method, layers="words")], dropout=0.0)
    out = step(batch_of("bert", "Classification", labelled=[False] * 4))
    out.loss.backward()
    assert all(term == 0 for name, term in out.terms.items() if name != "swep/kl")


@pytest.mark.parametrize("method", ["gaussian_dropout", "bernoulli_dropout", "word_dropout"])
@pytest.mark.parametrize("clean", [0.0, 0.5])
def test_dropout_of_probability_zero_gives_the_clean_loss(method, clean):
    batch = batch_of("bert", "SpanClassification")
    plain = step_of("bert", "SpanClassification", [], dropout=0.0)(batch).loss
    loss = step_of("bert", "SpanClassification", [spec(method, p=0.0, clean=clean)], dropout=0.0)(batch).loss
    assert torch.equal(loss, plain) if clean == 0 else torch.allclose(loss, plain, rtol=1e-6)


def test_rpt_equals_its_formula():
    step = step_of("bert", "Classification", [spec("rpt", alpha=0.5, divergence="jsd", c=0.2)], dropout=0.0)
    batch = batch_of("bert", "Classification")
    passes = passes_of(step, batch)
    draw = step.noise.draw("rpt/0", passes.h(0), batch.inputs["attention_mask"], batch.row_ids, 0)
    delta = 0.2 * draw / draw.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    noisy = passes.at(0, passes.h(0) + delta)
    expected = get_divergence("jsd")(passes.out["logits"], noisy.out["logits"]).mean()
    out = step(batch)
    assert torch.allclose(out.terms["rpt/reg"], expected, rtol=1e-4)
    assert torch.allclose(out.loss, out.terms["task"] + 0.5 * out.terms["rpt/reg"])
    assert float(out.stats["rpt/delta_norm"]) == pytest.approx(0.2, rel=1e-5)


@pytest.mark.parametrize(("norm", "size"), [("example", 2.0), ("token", 2.0)])
def test_rapt_noise_has_the_size_it_names(norm, size):
    step = step_of("bert", "Regression", [spec("rapt", layers=2, eta=size, norm=norm)])
    batch = batch_of("bert", "Regression")
    passes = passes_of(step, batch)
    delta = step.methods[batch.task].methods["rapt"].delta(passes, 2, passes.h(2))
    largest = delta.abs().amax(dim=(1, 2) if norm == "example" else 2)
    mask = batch.inputs["attention_mask"].bool()
    assert torch.allclose(largest if norm == "example" else largest[mask], torch.tensor(size))


def test_rapt_draws_every_layer_equally_often():
    step = step_of("bert", "Classification", [spec("rapt", layers="1-3")])
    drawn = [passes_of(step, batch_of("bert", "Classification", step=i)).pick("rapt", [1, 2, 3]) for i in range(600)]
    assert all(160 < drawn.count(layer) < 240 for layer in (1, 2, 3))


@pytest.mark.parametrize("task_type", TASKS)
@pytest.mark.parametrize("site", [0, 1])
def test_smart_ascends_further_than_random_noise_of_its_size(task_type, site):
    """Enough steps of enough size, in float64 with shared masks: the divergence beats a random direction's."""
    gains = []
    for seed in range(5):
        options = {"layers": site, "steps": 3, "step_size": 1.0, "noise_std": 1e-3, "norm": "l2"}
        family = family_for(task_type)
        step = step_of(family, task_type, [spec("smart", **options)], dropout=0.1, dtype=torch.float64)
        batch = batch_of(family, task_type, step=seed)
        passes = passes_of(step, batch)
        method = step.methods[batch.task].methods["smart"]
        hidden = passes.h(site).detach()
        delta = 1e-3 * passes.draw("start", hidden)
        for _ in range(3):
            delta = method.ascend(passes, site, delta)
        other = passes.draw("other", hidden)
        other = other * delta.norm(dim=-1, keepdim=True) / other.norm(dim=-1, keepdim=True).clamp_min(1e-30)

        def difference(noise, passes=passes, hidden=hidden, method=method):
            return float(method.inner(passes, passes.at(site, hidden + 1e-2 * noise, dropout="shared")).detach())

        gains.append(difference(delta) / difference(other))
    # Where many items of many classes count, no direction stands out as far: ten steps gain no more than three.
    assert sorted(gains)[2] > (3 if task_type == "MaskLM" else 5), gains


@pytest.mark.parametrize("task_type", TASKS)
def test_vat_beats_random_noise_of_its_size(task_type):
    gains = []
    for seed in range(5):
        family = family_for(task_type)
        step = step_of(family, task_type, [spec("vat", steps=3)], dtype=torch.float64)
        batch = batch_of(family, task_type, step=seed)
        passes = passes_of(step, batch)
        method = step.methods[batch.task].methods["vat"]
        start = 1e-3 * unit_l2(passes.draw("start", passes.h(0)), passes.noise_mask)
        delta = start
        for _ in range(3):
            delta = 1e-3 * unit_l2(method.gradient(passes, 0, delta), passes.noise_mask)

        def difference(noise, passes=passes, method=method):
            return float(method.inner(passes, passes.at(0, passes.h(0).detach() + noise, dropout="shared")).detach())

        gains.append(difference(delta) / difference(start))
    assert sorted(gains)[2] > 5, gains


def test_smart_project_stays_in_its_radius():
    step = step_of("bert", "Classification", [spec("smart", radius="project", epsilon=1e-3, step_size=0.1)])
    batch = batch_of("bert", "Classification")
    passes = passes_of(step, batch)
    delta = step.methods[batch.task].methods["smart"].ascend(passes, 0, 1e-3 * passes.h(0).detach())
    assert float(delta.abs().max()) == pytest.approx(1e-3)


CALLS = {  # layer calls of one step on 3 layers: (forward, backward); a doubled call counts as two
    ("standard", None): (3, 3),
    ("rapt", 2): (3 + 1, 3 + 1),
    ("rapt", 0): (6, 6),
    ("rpt", 0): (6, 6),
    ("r3f", "words"): (6, 6),
    ("rdrop", "words"): (6, 6),
    ("rdrop", 1): (3 + 2, 3 + 2),
    ("smart", 0): (3 + 3 + 3, 3 + 3 + 3),
    ("smart", 2): (3 + 1 + 1, 3 + 1 + 1),
    ("vat", 0): (3 + 3 + 3, 3 + 3 + 3),
    ("jacobian", 0): (3, 3 + 3),  # the gradient; then one backward pass through it and through the clean pass
    ("swep", "words"): (3 + 1 + 3, 3 + 3),  # the last layer once more without gradients, for the other tokens
    ("prior_aug", "words"): (3 + 3, 3 + 3),
    ("gaussian_dropout", "words"): (3, 3),
    ("bernoulli_dropout", "words"): (3, 3),
    ("word_dropout", "words"): (3, 3),
    ("word_dropout", 2): (3, 3),
    ("adv_aug", "words"): (3 + 5 * 3 + 3, 3 + 5 * 3 + 3),
    ("freelb", "words"): (3 * 3, 3 * 3),
    ("freelb", 2): (2 + 3 * 1, 2 + 3 * 1),
    ("smix", 2): (3 + 1, 3 + 1),
    ("vda", "words"): (3 + 3, 3 + 3),  # beside one pass of the masked language model without gradients
}


def test_the_table_of_calls_has_every_method():
    assert {name for name, _ in CALLS} == set(METHODS)


@pytest.mark.parametrize(("method", "site"), CALLS)
def test_a_step_costs_exactly_its_documented_layer_calls(method, site):
    step = step_of("bert", "Classification", [spec(method, **({} if site is None else {"layers": site}))])
    counted = {"forward": 0, "backward": 0}
    for layer in step.model.encoder.layer_list:

        def forward(module, args, out):
            counted["forward"] += len(args[0]) // 4
            return None

        def watch_backward(module, args, out):
            rows = len(out)

            def count(grad):
                counted["backward"] += rows // 4

            if out.requires_grad:
                out.register_hook(count)

        layer.register_forward_hook(forward)
        layer.register_forward_hook(watch_backward)
    step(batch_of("bert", "Classification")).loss.backward()
    assert (counted["forward"], counted["backward"]) == CALLS[method, site]


@pytest.mark.parametrize("method", list(METHODS))
def test_activation_checkpointing_changes_nothing(method):
    """Second derivatives and gradients that are formed inside the step included."""
    found = []
    for checkpointing in (False, True):
        step = step_of("bert", "Classification", [spec(method)], dropout=0.0, dtype=torch.float64)
        if checkpointing:
            enable_checkpointing(step.model.encoder)
        found.append(gradients(step, batch_of("bert", "Classification")))
    (loss, grads), (again, others) = found
    assert torch.isclose(loss, again, rtol=1e-12) and grads.keys() == others.keys()
    assert all(torch.allclose(others[name], grad, rtol=1e-6, atol=1e-12) for name, grad in grads.items())


def test_a_composition_shares_the_clean_pass():
    specs = [spec("rapt", layers=2), spec("smart", layers=0), spec("rpt", layers=1)]
    step = step_of("bert", "Classification", specs, dropout=0.0)
    batch = batch_of("bert", "Classification")
    rows = []
    for layer in step.model.encoder.layer_list:
        layer.register_forward_hook(lambda m, a, out: rows.append(len(a[0])))
    out = step(batch)
    # clean 3; rapt above layer 2: 1; smart inner and outer: 3 + 3; rpt above layer 1: 2
    assert sum(rows) // 4 == 3 + 1 + 6 + 2
    assert set(out.terms) == {"task", "rapt/reg", "smart/reg", "rpt/reg"}
    for each in specs:
        alone = step_of("bert", "Classification", [each], dropout=0.0)(batch)
        assert torch.allclose(alone.terms[f"{each.name}/reg"], out.terms[f"{each.name}/reg"], rtol=1e-3), each
        assert torch.allclose(alone.terms["task"], out.terms["task"], rtol=1e-5)


@pytest.mark.parametrize("other", ["smart", "smix"])
def test_vda_beside_what_its_paper_ran_it_on(other):
    """Each term is what the method gives alone; the clean pass is shared."""
    batch, double = batch_of("bert", "Classification"), {"dropout": 0.0, "dtype": torch.float64}
    both = step_of("bert", "Classification", [spec("vda", alpha=0.5), spec(other)], **double)(batch)
    apart = [step_of("bert", "Classification", [spec(name)], **double)(batch) for name in ("vda", other)]
    for out in apart:
        assert all(torch.isclose(both.terms[name], term, rtol=1e-5) for name, term in out.terms.items())
    parts = (
        both.terms["task"]
        + 0.5 * both.terms["vda/reg"]
        + sum(term for name, term in both.terms.items() if name.startswith(other))
    )
    assert torch.isclose(both.loss.detach(), parts)


def test_faults_are_named_all_at_once():
    specs = [spec("rapt", layers="1-9", etaa=1), spec("smrt"), spec("rpt", c=-1.0, divergence="kll")]
    with pytest.raises(UserError) as caught:
        step_of("bert", "Classification", specs)
    text = "\n".join(caught.value.faults)
    assert "perturb.rapt.etaa: unknown option; did you mean 'eta'?" in text
    assert "smrt: unknown method; did you mean 'smart'?" in text
    assert "perturb.rpt.c: -1.0" in text and "divergence" in text and "did you mean 'kl'?" in text
    with pytest.raises(UserError, match="standard: stands alone"):
        step_of("bert", "Classification", [spec("standard"), spec("rpt")])
    with pytest.raises(UserError, match="rpt: named twice"):
        step_of("bert", "Classification", [spec("rpt"), spec("rpt")])


def test_a_task_may_have_its_own_methods():
    own = step_of("bert", "Classification", [spec("rapt")], perturb=[{"name": "rpt", "options": {"c": 0.1}}])
    assert set(own(batch_of("bert", "Classification")).terms) == {"task", "rpt/reg"}
    none = step_of("bert", "Classification", [spec("rapt")], perturb=[])
    assert set(none(batch_of("bert", "Classification")).terms) == {"task"}


@pytest.mark.parametrize("method", EDITING)
def test_bfloat16_stays_finite(method):
    for kind in types_of(method)[-2:]:
        step = step_of(family_for(kind), kind, [spec(method, layers=at(method, "all"))])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = step(batch_of(family_for(kind), kind))
        out.loss.backward()
        assert all(torch.isfinite(term) for term in out.terms.values())
        assert all(torch.isfinite(p.grad).all() for p in step.parameters() if p.grad is not None)
