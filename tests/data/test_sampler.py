"""The sampler: each row once per pass, one task per step, the same steps however ranks and accumulation split them."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtrobust.data.sampler import POLICIES, MultiTaskSampler, TaskRows
from mtrobust.errors import UserError


def rows(n: int, batch: int = 4, seed: int = 0, longest: int = 60) -> TaskRows:
    lengths = np.random.default_rng(seed).integers(3, longest, size=n).astype(np.int32)
    return TaskRows(lengths, batch)


def test_rows_of_several_texts_stay_whole_and_within_the_budget():
    rng = np.random.default_rng(3)
    lengths, sizes = rng.integers(3, 60, size=200).astype(np.int32), rng.integers(1, 9, size=200)
    for world, accumulation in ((1, 1), (2, 2)):
        tasks = {"a": TaskRows(lengths, 4, sizes)}
        sampler = MultiTaskSampler(tasks, max_tokens=300, world_size=world, accumulation=accumulation, num_epochs=1)
        seen, padded, real = Counter(), 0, 0
        for number in epoch_steps(sampler, 0):
            seen.update(sampler.at(number).rows)
            for micro in sampler.at(number).micro:
                cost = int(sizes[micro.rows].sum() * lengths[micro.rows].max())
                assert cost <= 300 or len(micro.rows) == 1, "a list that is larger stands alone"
                padded, real = padded + cost, real + int((sizes * lengths)[micro.rows].sum())
        assert seen == Counter(range(200)) and padded < 1.35 * real, "lists of similar length stand together"
    ones = [MultiTaskSampler({"a": TaskRows(lengths, 4, given)}, max_tokens=300) for given in (None, np.ones(200, int))]
    assert all(np.array_equal(*(sampler.at(number).rows for sampler in ones)) for number in range(20))


def epoch_steps(sampler: MultiTaskSampler, epoch: int) -> range:
    start = sum(sampler.steps_in_epoch(e) for e in range(epoch))
    return range(start, start + sampler.steps_in_epoch(epoch))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=3),
    world=st.integers(1, 3),
    accumulation=st.integers(1, 3),
    batch=st.integers(1, 6),
    seed=st.integers(0, 3),
    max_tokens=st.sampled_from([None, 64, 200]),
    by_length=st.booleans(),
)
def test_an_epoch_has_every_row_once_over_all_ranks(sizes, world, accumulation, batch, seed, max_tokens, by_length):
    tasks = {f"t{i}": rows(size, batch, seed=i) for i, size in enumerate(sizes)}
    samplers = [
        MultiTaskSampler(
            tasks, seed=seed, rank=rank, world_size=world, accumulation=accumulation,
            max_tokens=max_tokens, group_by_length=by_length,
        )
        for rank in range(world)
    ]  # fmt: skip
    for epoch in (0, 1):
        seen: dict[str, Counter[int]] = {name: Counter() for name in tasks}
        for number in epoch_steps(samplers[0], epoch):
            shares = [sampler.at(number) for sampler in samplers]
            assert len({share.task for share in shares}) == 1
            assert len({len(share.micro) for share in shares}) == 1, "ranks would fall out of step"
            assert (
                len(shares[0].micro) <= accumulation or max_tokens or len(shares[0].rows) < batch * world * accumulation
            )
            own = [row for share in shares for micro in share.micro if not micro.ghost for row in micro.rows]
            assert sorted(own) == sorted(shares[0].rows)
            seen[shares[0].task].update(own)
            for share in shares:
                for micro in share.micro:
                    assert len(micro.rows) > 0
                    longest = tasks[share.task].lengths[micro.rows].max()
                    if max_tokens is None:
                        assert len(micro.rows) <= batch
                    else:
                        assert len(micro.rows) == 1 or len(micro.rows) * longest <= max_tokens
        for name, task in tasks.items():
            assert seen[name] == Counter(range(len(task.lengths)))


@settings(max_examples=40, deadline=None)
@given(
    sampling=st.sampled_from(list(POLICIES)),
    sizes=st.lists(st.integers(1, 120), min_size=2, max_size=4),
    max_tokens=st.sampled_from([None, 128]),
)
def test_under_every_policy_no_row_comes_again_before_all_were_seen(sampling, sizes, max_tokens):
    tasks = {f"t{i}": rows(size, 3, seed=i) for i, size in enumerate(sizes)}
    sampler = MultiTaskSampler(tasks, sampling=sampling, max_tokens=max_tokens, main_task="t1", num_epochs=3)
    seen: dict[str, Counter[int]] = {name: Counter() for name in tasks}
    for number in range(sampler.total_steps):
        step = sampler.at(number)
        seen[step.task].update(step.rows.tolist())
        counts = [seen[step.task][row] for row in range(len(tasks[step.task].lengths))]
        assert max(counts) - min(counts) <= 1


@settings(max_examples=30, deadline=None)
@given(sampling=st.sampled_from(list(POLICIES)), start=st.integers(0, 40), max_tokens=st.sampled_from([None, 100]))
def test_any_step_is_found_without_the_ones_before_it(sampling, start, max_tokens):
    tasks = {"a": rows(70), "b": rows(23, seed=1), "c": rows(9, seed=2)}
    make = lambda: MultiTaskSampler(tasks, sampling=sampling, seed=5, max_tokens=max_tokens, main_task="a")  # noqa: E731
    walked, fresh = make(), make()
    for number in range(start):
        walked.at(number)
    a, b = walked.at(start), fresh.at(start)
    assert (a.task, a.epoch, a.position) == (b.task, b.epoch, b.position)
    assert a.rows.tolist() == b.rows.tolist()
    assert [m.rows.tolist() for m in a.micro] == [m.rows.tolist() for m in b.micro]


@pytest.mark.parametrize("by_length", [True, False])
def test_steps_depend_on_their_total_size_only(by_length):
    """2 ranks x 4, accumulation 2 x 4 and one batch of 8 train on the same rows, step by step."""
    shapes = [(8, 1, 1), (4, 2, 1), (4, 1, 2), (2, 2, 2), (1, 4, 2)]
    samplers = [
        MultiTaskSampler(
            {"a": rows(45, batch), "b": rows(19, batch, seed=1)}, world_size=world, accumulation=accumulation,
            group_by_length=by_length,
        )
        for batch, world, accumulation in shapes
    ]  # fmt: skip
    assert len({sampler.total_steps for sampler in samplers}) == 1
    for number in range(samplers[0].total_steps):
        steps = [sampler.at(number) for sampler in samplers]
        assert len({(step.task, *sorted(step.rows.tolist())) for step in steps}) == 1


def test_the_order_follows_seed_and_epoch():
    orders = {}
    for seed in (0, 1):
        sampler = MultiTaskSampler({"a": rows(64)}, seed=seed)
        for epoch in (0, 1):
            orders[seed, epoch] = tuple(tuple(sampler.at(n).rows) for n in epoch_steps(sampler, epoch))
    assert len(set(orders.values())) == 4
    # rows meet other rows in another epoch, not only in another order of the batches
    assert {frozenset(step) for step in orders[0, 0]} != {frozenset(step) for step in orders[0, 1]}


def test_batches_of_similar_lengths_waste_little():
    tasks = {"a": rows(3000, 16, longest=128)}

    def padding(sampler: MultiTaskSampler) -> float:
        lengths, padded, real = tasks["a"].lengths, 0, 0
        for number in range(sampler.steps_in_epoch(0)):
            for micro in sampler.at(number).micro:
                padded += int(lengths[micro.rows].max()) * len(micro.rows)
                real += int(lengths[micro.rows].sum())
        return padded / real

    assert padding(MultiTaskSampler(tasks)) < 1.05
    assert padding(MultiTaskSampler(tasks, group_by_length=False)) > 1.5
    assert padding(MultiTaskSampler(tasks, max_tokens=1024)) < 1.05


# --- policies -----------------------------------------------------------------------------------------------------

SIZES = {"big": rows(1600), "mid": rows(400), "small": rows(100)}  # 400, 100 and 25 steps a pass


def shares(sampling: str, epoch: int = 0, **options) -> dict[str, float]:
    quotas = MultiTaskSampler(SIZES, sampling=sampling, **options).quotas(epoch)
    assert sum(quotas.values()) == 525 or sampling == "main_ratio"
    return {name: count / sum(quotas.values()) for name, count in quotas.items()}


def powered(exponent: float) -> dict[str, float]:
    weights = {"big": 400**exponent, "mid": 100**exponent, "small": 25**exponent}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


@pytest.mark.parametrize(
    ("sampling", "exponent"),
    [("proportional", 1.0), ("sqrt", 0.5), ("uniform", 0.0), ("temperature", 0.25)],
)
def test_shares_of_the_power_policies(sampling, exponent):
    assert shares(sampling, temperature=4.0) == pytest.approx(powered(exponent), abs=0.003)


def test_annealed_goes_from_proportional_to_nearly_uniform():
    assert shares("annealed", 0, num_epochs=5) == pytest.approx(powered(1.0), abs=0.003)
    assert shares("annealed", 2, num_epochs=5) == pytest.approx(powered(0.6), abs=0.003)
    assert shares("annealed", 4, num_epochs=5) == pytest.approx(powered(0.2), abs=0.003)
    assert shares("annealed", 0, num_epochs=1) == pytest.approx(powered(1.0), abs=0.003)


def test_main_ratio_takes_the_main_task_whole_and_a_share_of_the_others():
    sampler = MultiTaskSampler(SIZES, sampling="main_ratio", main_task="mid", main_task_ratio=0.4)
    for epoch in range(4):
        quotas = sampler.quotas(epoch)
        assert quotas["mid"] == 100
        assert quotas["big"] + quotas["small"] == 40
    drawn = {tuple(sampler.quotas(epoch).values()) for epoch in range(4)}
    assert len(drawn) > 1, "others are drawn anew in every epoch"
    capped = MultiTaskSampler(SIZES, sampling="main_ratio", main_task="big", main_task_ratio=5)
    assert capped.quotas(0) == {"big": 400, "mid": 100, "small": 25}


def test_tasks_are_mixed_within_an_epoch():
    sampler = MultiTaskSampler(SIZES)
    first = Counter(sampler.at(number).task for number in range(150))
    assert set(first) == set(SIZES)


@pytest.mark.parametrize("sampling", ["proportional", "main_ratio"])
def test_the_main_task_ends_an_epoch_where_asked_for(sampling):
    options = {"sampling": sampling, "main_task": "mid"}
    mixed, last = MultiTaskSampler(SIZES, **options), MultiTaskSampler(SIZES, main_last=True, **options)
    for epoch in (0, 1):
        steps = epoch_steps(last, epoch)
        assert steps == epoch_steps(mixed, epoch)
        tasks = [last.at(number).task for number in steps]
        assert tasks == [t for t in tasks if t != "mid"] + ["mid"] * last.quotas(epoch)["mid"]
        others = tasks[: -last.quotas(epoch)["mid"]]
        assert others != sorted(others), "the others are shuffled"
        seen = [sorted((s.task, *map(int, s.rows)) for s in map(made.at, steps)) for made in (mixed, last)]
        assert seen[0] == seen[1], "the same steps in another order"


def test_an_unknown_policy_is_refused_by_name():
    with pytest.raises(UserError, match="proportional"):
        MultiTaskSampler(SIZES, sampling="proportionate")


# --- lengths of runs ----------------------------------------------------------------------------------------------


def test_number_of_steps():
    make = lambda **options: MultiTaskSampler({"a": rows(42)}, **options)  # noqa: E731
    assert make().steps_in_epoch(0) == 11
    assert make(num_epochs=3).total_steps == 33
    assert make(num_epochs=2.5).total_steps == 22 + math.ceil(5.5)
    assert make(num_epochs=0.01).total_steps == 1
    assert make(max_steps=7).total_steps == 7
    sampler = make(max_steps=25)
    assert [sampler.locate(n) for n in (0, 10, 11, 24)] == [(0, 0), (0, 10), (1, 0), (2, 2)]
    assert [n for n in range(25) if sampler.ends_epoch(n)] == [10, 21]


def test_a_task_without_rows_is_refused():
    with pytest.raises(ValueError, match="b"):
        MultiTaskSampler({"a": rows(3), "b": rows(0)})


def test_a_row_longer_than_the_budget_stands_alone():
    sampler = MultiTaskSampler({"a": TaskRows(np.array([500, 20, 30, 10], dtype=np.int32), 8)}, max_tokens=64)
    sizes = sorted(len(sampler.at(n).rows) for n in range(sampler.steps_in_epoch(0)))
    assert sum(sizes) == 4
    assert any(sampler.at(n).rows.tolist() == [0] for n in range(sampler.steps_in_epoch(0)))


def test_fewer_rows_than_ranks_leave_ghosts():
    tasks = {"a": rows(1)}
    micro = [MultiTaskSampler(tasks, rank=rank, world_size=3).at(0).micro for rank in range(3)]
    assert [[m.ghost for m in share] for share in micro] == [[False], [True], [True]]
    assert all(share[0].rows.tolist() == [0] for share in micro)


def test_a_million_rows_are_planned_quickly():
    import time

    lengths = np.random.default_rng(0).integers(8, 128, size=1_000_000).astype(np.int32)
    start = time.perf_counter()
    MultiTaskSampler({"a": TaskRows(lengths, 32)}).at(0)
    fixed = time.perf_counter() - start
    start = time.perf_counter()
    MultiTaskSampler({"a": TaskRows(lengths, 32)}, max_tokens=4096, num_epochs=1).at(0)
    tokens = time.perf_counter() - start
    assert fixed < 3 and tokens < 6, (fixed, tokens)
