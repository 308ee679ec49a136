from __future__ import annotations

import pytest
import torch
from torch import nn

from defectgen.errors import WeightsError
from defectgen.weights import build_strict, load_strict, unclaimed


@pytest.fixture
def module():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def named(module, prefix="g"):
    return {f"{prefix}.{k}": torch.ones_like(v) for k, v in module.state_dict().items()}


def snapshot(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("prefix", ["g", "g.inner"])
def test_takes_what_is_under_the_prefix_and_leaves_the_rest(module, prefix):
    others = {"gg.0.weight": torch.zeros(9), "d.x": torch.zeros(1)}
    load_strict(module, {**named(module, prefix), **others}, prefix, "here")
    assert all(bool((value == 1).all()) for value in module.state_dict().values())


def test_an_empty_prefix_takes_everything(module):
    load_strict(module, {k: torch.ones_like(v) for k, v in snapshot(module).items()}, "", "here")
    assert bool((module[0].weight == 1).all())


def test_half_is_cast_and_the_modules_own_types_stay(module):
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in named(module).items()}
    load_strict(module, tensors, "g", "here")
    assert module[0].weight.dtype == torch.float32
    assert bool((module[0].weight == 1).all())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"g.0.weight": None}, "1 difference.*g.0.weight is missing"),
        ({"g.extra": torch.ones(1)}, "1 difference.*g.extra is not expected"),
        ({"g.0.weight": torch.ones(2, 4)}, r"g.0.weight has shape \(2, 4\), not \(2, 3\)"),
        ({"g.1.num_batches_tracked": torch.tensor(1.5)}, "float32, not torch.int64"),
        ({"g.0.bias": torch.tensor([1, 2])}, "int64, not torch.float32"),
    ],
)
def test_any_difference_is_refused_and_nothing_loaded(module, change, words):
    before = snapshot(module)
    tensors = {k: v for k, v in {**named(module), **change}.items() if v is not None}
    with pytest.raises(WeightsError, match=f"folder x: .*Sequential.*{words}"):
        load_strict(module, tensors, "g", "folder x")
    assert same(before, snapshot(module))


def test_all_differences_are_in_one_message_five_of_them_by_name(module):
    tensors = {"g.0.weight": torch.ones(1), **{f"g.new{i}": torch.ones(1) for i in range(2)}}
    with pytest.raises(WeightsError) as caught:
        load_strict(module, tensors, "g", "here")
    text = str(caught.value)
    # Six of seven missing, two unknown, one of another shape.
    assert "9 difference(s)" in text
    assert text.count(" is missing") == 5
    assert "and 4 more" in text


def test_unclaimed_names_what_nobody_loads():
    tensors = {"g.a": torch.ones(1), "d.a": torch.ones(1), "gx.a": torch.ones(1)}
    unclaimed(tensors, ("g", "d", "gx", "not there"))
    with pytest.raises(WeightsError, match=r"one of g\., d\.; got gx\.a;"):
        unclaimed(tensors, ("g", "d"))
    with pytest.raises(WeightsError, match=r"here: .*got d\.a, g\.a, gx\.a"):
        unclaimed(tensors, (), "here")


def test_a_module_is_built_only_if_its_shapes_are_those_of_the_tensors(module):
    tensors = named(module)
    built = build_strict(
        lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), tensors, "g", "x"
    )
    assert bool((built[0].weight == 1).all())
    calls = []

    def huge():
        calls.append(1)
        return nn.Sequential(nn.Linear(10**7, 10**6), nn.BatchNorm1d(2))  # 40 TB

    with pytest.raises(WeightsError, match=r"^x: .*g\.0\.weight has shape"):
        build_strict(huge, tensors, "g", "x")
    assert calls == [1]


@pytest.mark.parametrize("size", [-3, 2**62])
def test_a_size_that_is_none_is_one_sentence(module, size):
    with pytest.raises(WeightsError, match="^x: must have a configuration of a network; got "):
        build_strict(lambda: nn.Linear(size, 2**10), named(module), "g", "x")
