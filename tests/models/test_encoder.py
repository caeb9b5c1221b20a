"""Capture and resume-from-layer: exact for every family, attention kernel, dropout mode, and as a doubled batch."""

from __future__ import annotations

import pytest
import torch
from transformers import XLNetConfig

from mtrobust.errors import UserError
from mtrobust.models.families import family_of
from mtrobust.models.multitask import enable_checkpointing
from tests.models.tiny import FAMILIES, LAYERS, WITHOUT_SDPA, tiny_encoder, tiny_inputs

SITES = ["words", *range(LAYERS + 1)]
KERNELS = [(f, a) for f in FAMILIES for a in ("eager", "sdpa") if a == "eager" or f not in WITHOUT_SDPA]
CHECKPOINTING = [family for family in FAMILIES if family_of(family).checkpointing]


def project(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A scalar whose gradient is not trivial (a plain sum of squares after a layer norm is constant)."""
    weight = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(9), dtype=hidden.dtype)
    return (hidden * weight * mask.unsqueeze(-1)).sum()


def gradients(encoder, scalar) -> dict[str, torch.Tensor]:
    encoder.zero_grad()
    scalar.backward()
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


def injected(encoder, inputs, site, delta):
    """The whole forward with `delta` added at a site by plain hooks: what a resumed pass must equal."""
    handles = []
    if site == "words":
        handles.append(encoder.word_embeddings.register_forward_hook(lambda m, a, out: out + delta))
    elif site == 0 and encoder.family.block:
        block = encoder.base.get_submodule(encoder.family.block)
        handles.append(block.register_forward_hook(lambda m, a, out: out + delta))
    else:
        state = {"call": 0}

        def before(module, args, kwargs):
            state["call"] += 1
            if state["call"] == site + 1:
                if args:
                    return (args[0] + delta, *args[1:]), kwargs
                return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + delta}
            return None

        def after(module, args, out):
            if site == LAYERS and state["call"] == LAYERS:
                return (out[0] + delta, *out[1:]) if isinstance(out, tuple) else out + delta
            return None

        for layer in encoder.layer_list:
            handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(layer.register_forward_hook(after))
    try:
        return encoder.base(**inputs).last_hidden_state
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(("family", "kernel"), KERNELS)
def test_recording_and_a_no_op_edit_change_nothing(family, kernel):
    encoder, inputs = tiny_encoder(family, attention=kernel).eval(), tiny_inputs(family)
    plain = encoder.base(**inputs).last_hidden_state
    tape = encoder.record(inputs, SITES)
    assert torch.equal(tape.last, plain)
    for site in SITES:
        assert tape.h[site].shape == (4, 12, encoder.width(site))
        assert torch.equal(encoder.replay(tape, site, tape.h[site]).last, plain), site
        assert torch.equal(encoder.prefix(inputs, site).h[site], tape.h[site]), site


@pytest.mark.parametrize(("family", "kernel"), KERNELS)
@pytest.mark.parametrize("site", SITES)
def test_resume_equals_injection_with_equal_gradients(family, kernel, site):
    encoder, inputs = tiny_encoder(family, dropout=0.0, attention=kernel).double(), tiny_inputs(family)
    delta = torch.randn(4, 12, encoder.width(site), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = injected(encoder, inputs, site, delta)
    expected = gradients(encoder, project(whole, inputs["attention_mask"]))
    tape = encoder.record(inputs, [site])
    resumed = encoder.replay(tape, site, tape.h[site] + delta).last
    got = gradients(encoder, project(resumed, inputs["attention_mask"]))
    assert torch.allclose(resumed, whole, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(whole, encoder.base(**inputs).last_hidden_state, atol=1e-3)
    assert {n for n, g in got.items() if g.abs().sum() > 0} == {n for n, g in expected.items() if g.abs().sum() > 0}
    for name, grad in expected.items():
        assert torch.allclose(got.get(name, torch.zeros_like(grad)), grad, rtol=1e-9, atol=1e-10), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("site", SITES)
def test_doubled_batch_is_the_clean_and_the_edited_pass(family, site):
    encoder, inputs = tiny_encoder(family, dropout=0.0).double(), tiny_inputs(family)
    delta = torch.randn(4, 12, encoder.width(site), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mask = inputs["attention_mask"]
    tape = encoder.record(inputs, [site])
    apart = encoder.replay(tape, site, tape.h[site] + delta)
    expected = gradients(encoder, project(tape.last, mask) + 2 * project(apart.last, mask))

    below = encoder.prefix(inputs, site)
    hidden = below.h[site]
    both = encoder.replay(below, site, torch.cat((hidden, hidden + delta)), copies=2, track=SITES)
    clean, edited = both.part(0, 2), both.part(1, 2)
    got = gradients(encoder, project(clean.last, mask) + 2 * project(edited.last, mask))
    assert torch.allclose(clean.last, tape.last, rtol=1e-12, atol=1e-12)
    assert torch.allclose(edited.last, apart.last, rtol=1e-12, atol=1e-12)
    for name, grad in expected.items():
        assert torch.allclose(got[name], grad, rtol=1e-8, atol=1e-9), name
    # A half of a doubled pass can be resumed from again.
    again = encoder.replay(edited, LAYERS, edited.h[LAYERS])
    assert torch.allclose(again.last, edited.last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("family", "kernel"), KERNELS)
def test_dropout_modes(family, kernel):
    encoder, inputs = tiny_encoder(family, dropout=0.3, attention=kernel), tiny_inputs(family)
    torch.manual_seed(5)
    tape = encoder.record(inputs, SITES)
    off = encoder.eval().record(inputs).last
    encoder.train()
    for site in SITES:
        before = torch.get_rng_state()
        assert torch.equal(encoder.replay(tape, site, tape.h[site], dropout="shared").last, tape.last), site
        assert torch.equal(torch.get_rng_state(), before), "shared masks leave no trace in the generator"
        if site != LAYERS:  # nothing is dropped above the last layer but T5's final dropout
            independent = encoder.replay(tape, site, tape.h[site]).last
            assert not torch.allclose(independent, tape.last, atol=1e-4), site
    assert torch.equal(encoder.replay(tape, "words", tape.h["words"], dropout="off").last, off)
    assert encoder.base.training


@pytest.mark.parametrize("family", CHECKPOINTING)
@pytest.mark.parametrize("site", ["words", 0, 2])
def test_activation_checkpointing_changes_no_gradient(family, site):
    def run(checkpointing: bool):
        encoder, inputs = tiny_encoder(family, dropout=0.3).double(), tiny_inputs(family)
        if checkpointing:
            enable_checkpointing(encoder)
        torch.manual_seed(3)
        tape = encoder.record(inputs, [site])
        edited = encoder.replay(tape, site, tape.h[site] * 1.5, dropout="shared")
        below = encoder.prefix(inputs, site)
        both = encoder.replay(below, site, torch.cat((below.h[site], below.h[site] + 1)), copies=2)
        mask = inputs["attention_mask"]
        scalar = project(tape.last, mask) + 2 * project(edited.last, mask) + project(both.last, mask.repeat(2, 1))
        return scalar.detach(), gradients(encoder, scalar)

    plain, expected = run(False)
    value, got = run(True)
    assert torch.equal(value, plain)
    assert expected.keys() == got.keys()
    for name, grad in expected.items():
        assert torch.allclose(got[name], grad, rtol=1e-9, atol=1e-10), name


def test_nothing_above_a_prefix_runs_and_nothing_below_a_replay():
    encoder, inputs = tiny_encoder("bert"), tiny_inputs("bert")
    ran: list[int] = []
    for index, layer in enumerate(encoder.layer_list):
        layer.register_forward_hook(lambda m, a, out, index=index: ran.append(index))
    tape = encoder.prefix(inputs, 2)
    assert ran == [0, 1] and tape.last is None
    ran.clear()
    encoder.replay(tape, 2, tape.h[2])
    assert ran == [2]


def test_layers_are_back_after_an_error():
    encoder, inputs = tiny_encoder("bert"), tiny_inputs("bert")
    layers = list(encoder.layer_list)
    with pytest.raises(RuntimeError):
        encoder.replay(encoder.record(inputs, [1]), 1, torch.zeros(3, 5, 7))
    assert list(encoder.layer_list) == layers
    assert not encoder.word_embeddings._forward_hooks


def test_shared_masks_need_a_tracked_site_and_one_copy():
    encoder, inputs = tiny_encoder("bert"), tiny_inputs("bert")
    tape = encoder.record(inputs, [1])
    with pytest.raises(ValueError, match="tracked site 2"):
        encoder.replay(tape, 2, tape.h[1], dropout="shared")
    with pytest.raises(ValueError, match="single copy"):
        encoder.replay(tape, 1, torch.cat((tape.h[1], tape.h[1])), copies=2, dropout="shared")


def test_unsupported_families_are_refused_by_name():
    with pytest.raises(UserError, match="'xlnet' is not supported .*supported: albert, bert"):
        family_of(XLNetConfig().model_type)
    with pytest.raises(UserError, match="'gpt2' is not supported; supported: albert"):
        family_of("gpt2")
