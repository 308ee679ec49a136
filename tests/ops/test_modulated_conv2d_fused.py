"""modulated_conv2d: with native kernels for its scaling and filtering, against the reference."""

from __future__ import annotations

import pytest
import torch

from defectgen.ops import modulated_conv2d

#: Features, output channels, size of the kernel.
SHAPES = [
    ((1, 3, 1, 1), 1, 3),
    ((2, 3, 5, 7), 16, 3),
    ((2, 17, 7, 3), 3, 1),
    ((1, 64, 3, 17), 17, 3),
    ((0, 3, 5, 5), 4, 3),
]


@pytest.fixture
def inputs(normal):
    """inputs(shape, outputs, kernel, dtype): x in this dtype, the others in that of parameters."""

    def build(shape, outputs, kernel, dtype):
        small = torch.promote_types(dtype, torch.float32)
        n, c, _, _ = shape
        return {
            "x": normal(*shape, dtype=dtype),
            "weight": normal(outputs, c, kernel, kernel, dtype=small),
            "styles": normal(n, c, dtype=small),
        }

    return build


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("up", "demodulate"), [(1, True), (2, True), (2, False)])
@pytest.mark.parametrize(("shape", "outputs", "kernel"), SHAPES, ids=str)
def test_equals_the_reference(inputs, agree, lay, dtype, up, demodulate, shape, outputs, kernel):
    given = inputs(shape, outputs, kernel, dtype)
    given["x"] = lay(given["x"])
    agree(lambda **given: modulated_conv2d(**given, up=up, demodulate=demodulate), given, terms=9)


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_two_bytes_it_is_close_to_the_reference(inputs, agree, lay, dtype, up):
    given = inputs((2, 17, 7, 5), 16, 3, dtype)
    given["x"] = lay(given["x"])
    # Scaled features, sums, filtered and scaled results are each rounded.
    call, fixed = lambda **given: modulated_conv2d(**given, up=up), set(given)
    assert agree(call, given, fixed, terms=5)["value"].dtype == dtype
