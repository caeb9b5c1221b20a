"""Dropout masks drawn four to a random number: rate, scale, independence, and the same maths as PyTorch's own."""

import math
from unittest import mock

import pytest
import torch
from torch.nn import functional as F

from mtrobust.models import dropout as own
from tests.models.tiny import FAMILIES, tiny_encoder, tiny_inputs

N = 400_000


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_rate_and_scale(p):
    torch.manual_seed(1)
    made = own.mask(torch.empty(N + 3), p)
    values = made.unique()
    assert len(values) == 2 and values[0] == 0
    assert values[1].item() == pytest.approx(1 / (1 - p), rel=2**-16 / (1 - p))
    assert (made == 0).double().mean().item() == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / N))


def test_each_of_the_four_parts_of_a_number_has_the_rate_and_none_knows_another():
    torch.manual_seed(2)
    zero = (own.mask(torch.empty(N, 4), 0.25) == 0).double()
    bound = 5 * math.sqrt(0.25 * 0.75 / N)
    assert (zero.mean(0) - 0.25).abs().max() < bound
    correlation = torch.corrcoef(zero.T) - torch.eye(4, dtype=torch.float64)
    assert correlation.abs().max() < 5 / math.sqrt(N)


def test_setting_the_generator_repeats_a_mask():
    state = torch.get_rng_state()
    first = own.mask(torch.empty(3, 5, 7), 0.3)
    assert not torch.equal(first, own.mask(torch.empty(3, 5, 7), 0.3)), "a new mask each time"
    torch.set_rng_state(state)
    assert torch.equal(first, own.mask(torch.empty(3, 5, 7), 0.3))


def test_gradient_is_the_mask_and_a_second_derivative_exists():
    x = torch.ones(4, 33, dtype=torch.float64, requires_grad=True)
    out = own.dropout(x, 0.4)
    (grad,) = torch.autograd.grad((out * out).sum() / 2, x, create_graph=True)
    assert torch.equal(grad, out * out.detach()), "out = mask at x = 1, so the gradient is mask squared"
    assert torch.autograd.grad(grad.sum(), x)[0].count_nonzero() == out.count_nonzero()


def test_all_and_nothing_dropped():
    x = torch.randn(3, 5)
    assert torch.equal(own.dropout(x, 0.0), x)
    assert torch.equal(own.dropout(x, 0.5, training=False), x)
    assert own.dropout(x, 1.0).count_nonzero() == 0


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_is_pytorchs_own_but_for_the_mask(kind, scale):
    q, k, v = torch.randn(3, 2, 4, 7, 8, dtype=torch.float64)
    keep = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    keep[1, ..., 4:] = False
    given = {"none": None, "bool": keep, "float": torch.zeros(2, 1, 1, 7).double().masked_fill(~keep, -1e300)}[kind]
    with mock.patch.object(own, "mask", lambda like, p: torch.ones_like(like)):
        ours = own.attention(q, k, v, given, dropout_p=0.1, scale=scale)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, given, scale=scale))
    assert not torch.equal(ours, own.attention(q, k, v, given, dropout_p=0.5, scale=scale))


def test_masked_keys_get_nothing_whatever_is_dropped():
    q, k, v = torch.randn(3, 1, 1, 5, 4)
    keep = torch.tensor([True, True, False, True, False])
    torch.manual_seed(3)
    first = own.attention(q, k, v, keep, dropout_p=0.3)
    v[..., 2, :] = 1e4
    torch.manual_seed(3)
    assert torch.equal(first, own.attention(q, k, v, keep, dropout_p=0.3))


@pytest.mark.parametrize("family", FAMILIES)
def test_passes_of_every_family_draw_cheap_masks_and_no_others(family):
    """Attention too: its masks are the larger half on long texts."""
    encoder, inputs = tiny_encoder(family, dropout=0.3), tiny_inputs(family)
    assert "aten::random_" in drawn(encoder, inputs) and "aten::bernoulli_" not in drawn(encoder, inputs)
    assert not {"aten::random_", "aten::bernoulli_"} & drawn(encoder.eval(), inputs)


def test_layers_computed_again_by_others_keep_the_native_masks():
    """Checkpointing that the model was given directly repeats a layer outside of the pass: other masks there, and the
    gradient would be wrong."""
    encoder, inputs = tiny_encoder("bert", dropout=0.3), tiny_inputs("bert")
    encoder.base.activation_checkpointing_enable()
    assert "aten::random_" not in drawn(encoder, inputs)


def drawn(encoder, inputs) -> set[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        encoder.record(inputs)
    return {event.name for event in seen.events()}
