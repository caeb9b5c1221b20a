"""The last layer computed for the first token alone: the same numbers as for all tokens."""

from __future__ import annotations

import pytest
import torch

from mtrobust.models.families import FAMILIES
from mtrobust.models.multitask import enable_checkpointing
from tests.models.tiny import LAYERS, WITHOUT_SDPA, tiny_encoder, tiny_inputs

NARROW = sorted(name for name, family in FAMILIES.items() if family.narrow)


KERNELS = [(f, a) for f in NARROW for a in ("eager", "sdpa") if a == "eager" or f not in WITHOUT_SDPA]


@pytest.mark.parametrize(("name", "attention"), KERNELS)
def test_the_first_token_has_the_same_state_and_gradient(name, attention):
    encoder = tiny_encoder(name, attention=attention).double().eval()
    inputs = tiny_inputs(encoder.model_type)
    found = []
    for rows in ("all", "first"):
        tape = encoder.record(inputs, rows=rows)
        read = tape.last[:, 0] if tape.pooled is None else tape.pooled
        found.append((read, *torch.autograd.grad(read.square().sum(), encoder.parameters(), allow_unused=True)))
        assert tape.last.shape[1] == (1 if rows == "first" else inputs["input_ids"].shape[1])
    for whole, narrow in zip(*found, strict=True):
        if whole is None or narrow is None:
            assert whole is None and narrow is None
        else:
            torch.testing.assert_close(narrow, whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("site", ["words", 0, 1, LAYERS - 1, LAYERS])
def test_a_replay_has_the_same_first_state(name, site):
    encoder = tiny_encoder(name).double().eval()
    inputs = tiny_inputs(encoder.model_type)
    tape = encoder.record(inputs, track=[site])
    torch.manual_seed(3)
    hidden = tape.h[site] + torch.randn_like(tape.h[site])
    whole = encoder.replay(tape, site, hidden)
    narrow = encoder.replay(tape, site, hidden, rows="first")
    torch.testing.assert_close(narrow.last[:, 0], whole.last[:, 0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(NARROW)))
def test_families_whose_heads_read_more_compute_all_tokens(name):
    encoder = tiny_encoder(name).eval()
    assert encoder.family_head("sequence", 2, None).first_only is False
    inputs = tiny_inputs(encoder.model_type)
    assert torch.equal(encoder.record(inputs, rows="first").last, encoder.record(inputs).last)


def test_all_tokens_are_computed_where_the_last_site_is_read_or_layers_are_recomputed():
    encoder = tiny_encoder("bert").train()
    inputs = tiny_inputs(encoder.model_type)
    width = inputs["input_ids"].shape[1]
    assert encoder.record(inputs, track=[LAYERS], rows="first").h[LAYERS].shape[1] == width
    assert encoder.record(inputs, rows="first").last.shape[1] == 1
    enable_checkpointing(encoder)
    assert encoder.record(inputs, rows="first").last.shape[1] == width


def test_shared_masks_repeat_those_of_the_narrow_pass():
    encoder = tiny_encoder("bert", dropout=0.3).train()
    inputs = tiny_inputs(encoder.model_type)
    tape = encoder.record(inputs, track=[1], rows="first")
    again = encoder.replay(tape, 1, tape.h[1], dropout="shared", rows="first")
    assert torch.equal(again.last, tape.last)
    assert not torch.equal(encoder.replay(tape, 1, tape.h[1], rows="first").last, tape.last)
