"""What a method does is seen by running the method itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mtrobust.analysis.probe import Subject, act_site
from mtrobust.errors import UserError
from mtrobust.perturb import METHODS
from mtrobust.tasks.taskdef import TaskDef
from tests.perturb.cells import batch_of, spec, step_of

STILL = ("rdrop",)  # forks without changing the states
NO_EDIT = ("standard", "jacobian")


def watched(name: str, **options: Any) -> tuple[Subject, Any, Any]:
    """(subject, method, batch) around a tiny random encoder."""
    step = step_of("bert", "Classification", [spec(name, **options)] if name != "standard" else []).eval()
    run: Any = SimpleNamespace(config=SimpleNamespace(seed=3), model=step.model)
    methods = step.methods["classification"].methods
    method = methods[name] if methods else METHODS["standard"](METHODS["standard"].Options(), step.model.encoder)
    return Subject("run", None, run, step), method, batch_of("bert", "Classification")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_is_seen(name: str):
    subject, method, batch = watched(name)
    site = act_site(method, None)
    seen = subject.see(method, batch, site, [2])
    if name in NO_EDIT:
        assert seen.site is None and seen.edited is seen.clean
        return
    assert seen.site == site
    delta, padding = seen.delta(site), ~batch.inputs["attention_mask"].bool()
    assert not delta[padding].any()
    assert bool(delta.any()) == (name not in STILL)
    assert seen.after(2).shape == seen.before(2).shape
    own = subject.run.model.encoder.record(batch.inputs, [site]).h[site]
    torch.testing.assert_close(seen.before(site), own.detach())
    assert method.sites != [] and act_site(method, None) == site  # the method is as it was


@pytest.mark.parametrize("site", ["words", 0, 1, 3])
def test_the_edit_is_the_methods_own(site):
    subject, method, batch = watched("rapt", layers=site, eta=0.5)
    seen = subject.see(method, batch, site)
    passes = subject.passes(batch, method.needs)
    torch.testing.assert_close(seen.delta(site), method.delta(passes, site, passes.h(site)).detach())
    assert seen.delta(site).abs().amax().item() == pytest.approx(0.5, rel=1e-4)
    other = subject.see(method, batch, site, draw=1)
    assert not torch.equal(other.delta(site), seen.delta(site))


def test_ascent_steps_are_no_edits():
    """SMART's inner pass has noise of 1e-3, the one that is seen has its radius."""
    subject, method, batch = watched("smart", layers="embeddings", steps=3)
    with_noise = subject.see(method, batch, 0).delta(0)
    real = batch.inputs["attention_mask"].bool()
    torch.testing.assert_close(with_noise.abs().amax(-1)[real], torch.ones(int(real.sum())), atol=1e-4, rtol=0)


def test_states_above_an_edit_are_those_of_the_edited_pass():
    subject, method, batch = watched("rapt", layers="1-2")
    assert act_site(method, 3) == 2 and act_site(method, 1) == 1 and act_site(method, "words") is None
    seen = subject.see(method, batch, 2, [3])
    encoder = subject.run.model.encoder
    tape = encoder.record(batch.inputs, [2])
    torch.testing.assert_close(seen.after(3), encoder.replay(tape, 2, seen.after(2), track=[3]).h[3].detach())
    assert seen.delta(3).any()


def test_own_weights_come_from_the_checkpoint(subject, runs):
    from safetensors.torch import load_file

    saved = load_file(runs / "swep" / "checkpoints" / "step-4" / "step.safetensors")
    net = subject("swep").step.owned
    torch.testing.assert_close(dict(net.named_parameters())["mood_swep.2.weight"], saved["owned.mood_swep.2.weight"])
    assert saved["owned.mood_swep.2.weight"].any()


def test_a_lost_checkpoint_is_named(runs, tmp_path):
    from tests.evaluation.runs import copy_run

    copy = copy_run(runs / "swep", tmp_path / "swep")
    (copy / "checkpoints" / "step-4" / "COMPLETE").unlink()
    with pytest.raises(UserError, match=r"step-4: needed for the weights .* \(mood_swep\): COMPLETE is missing"):
        Subject.open(copy, "swep", use_cpu=True)


def test_methods_of_a_composition_are_looked_at_one_by_one():
    step = step_of("bert", "Classification", [spec("rapt"), spec("swep"), spec("vat", alpha=0)]).eval()
    run: Any = SimpleNamespace(config=SimpleNamespace(seed=3), model=step.model)
    subject = Subject("run", None, run, step)  # type: ignore[arg-type]
    methods, batch = subject.methods("classification"), batch_of("bert", "Classification")
    assert list(methods) == ["run (rapt)", "run (swep)"]  # a method of weight 0 does nothing
    sites = {label: subject.see(method, batch, act_site(method, None)).site for label, method in methods.items()}
    assert sites == {"run (rapt)": 2, "run (swep)": "words"}


def test_lists_of_candidates_stay_whole():
    task = TaskDef(name="lists", task_type="Ranking", data_format="PremiseAndMultiHypothesis")
    lengths = [[3, 9], [5, 4, 5], [7, 2]]
    features = [
        {"input_ids": np.arange(length), "row": row, "place": place, "gains": 0.0, "labelled": True, "second": 0}
        for row, own in enumerate(lengths)
        for place, length in enumerate(own)
    ]
    run: Any = SimpleNamespace(task=lambda name: task, tokenizer=SimpleNamespace(pad_token_id=0))
    subject = Subject("run", None, run, torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    made = list(subject.batches("lists", features, 2))
    assert [places for places, _ in made] == [[0, 1, 5, 6], [2, 3, 4]]
    assert [batch.targets["place"].tolist() for _, batch in made] == [[0, 1, 0, 1], [0, 1, 2]]
