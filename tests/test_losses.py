from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import grad, gradcheck

from defectgen import losses
from defectgen.config import BackboneConfig
from defectgen.networks.discriminator import Discriminator
from defectgen.networks.synthesis import Generator
from defectgen.rng import SampleNoise


@pytest.fixture
def normal():
    """normal(*shape): standard normal float64 numbers, the same in every run of a test."""
    source = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=source, dtype=torch.float64)

    return draw


# -- logistic ---


def test_logistic_losses_are_their_equations(normal):
    fake, real = normal(5, 1), normal(5, 1)
    f, r = fake.numpy(), real.numpy()
    generator = -np.log(1 / (1 + np.exp(-f))).mean()
    both = -np.log(1 - 1 / (1 + np.exp(-f))).mean() - np.log(1 / (1 + np.exp(-r))).mean()
    assert float(losses.generator_logistic(fake)) == pytest.approx(generator)
    assert float(losses.discriminator_logistic(fake, real)) == pytest.approx(both)


def test_logistic_losses_of_an_undecided_judge():
    zero = torch.zeros(3, 1)
    assert float(losses.generator_logistic(zero)) == pytest.approx(math.log(2))
    assert float(losses.discriminator_logistic(zero, zero)) == pytest.approx(2 * math.log(2))


def test_logistic_losses_do_not_overflow_and_do_not_saturate():
    logits = torch.tensor([[-1000.0], [1000.0]], requires_grad=True)
    loss = losses.generator_logistic(logits)
    assert float(loss.detach()) == 500.0
    assert grad(loss, logits)[0].flatten().tolist() == [-0.5, 0.0]  # most where the judge is sure
    loss = losses.discriminator_logistic(logits, torch.tensor([[1000.0], [-1000.0]]))
    assert float(loss.detach()) == 1000.0


# -- R1 ---


def test_r1_of_a_quadratic_judge(normal):
    """D(x) = sum(a x + b x^2 / 2), so the gradient is a + b x."""
    a, b, x = normal(3, 4, 4), normal(3, 4, 4), normal(2, 3, 4, 4).requires_grad_()
    logits = (a * x + b * x * x / 2).sum(dim=(1, 2, 3))[:, None]
    norms = [((a + b * one) ** 2).sum() for one in x.detach()]
    penalty = losses.r1_penalty(logits, x, 0.7)
    assert float(penalty.detach()) == pytest.approx(0.7 / 2 * float(sum(norms)) / 2)


@pytest.fixture
def judge():
    # Groups of one: in larger ones a finite difference would see the other samples, too.
    network = Discriminator(8, 1, channel_base=64, channel_max=6, minibatch_group=1)
    network.reset(torch.Generator().manual_seed(0))
    return network.double()


def test_r1_agrees_with_finite_differences(judge, normal):
    x, step = normal(2, 1, 8, 8), 1e-5
    shifts = step * torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
    norms = []
    with torch.no_grad():
        for one in x:
            slopes = (judge(one + shifts) - judge(one - shifts)) / (2 * step)
            norms.append(float(slopes.square().sum()))
    x.requires_grad_()
    penalty = losses.r1_penalty(judge(x), x, 3.0)
    assert float(penalty.detach()) == pytest.approx(3.0 / 2 * sum(norms) / 2, rel=1e-5)


def test_r1_gradient_to_the_weights_agrees_with_finite_differences(judge, normal):
    x, weight = normal(2, 1, 8, 8).requires_grad_(), judge.blocks["8"].conv0.weight

    def penalty():
        return losses.r1_penalty(judge(x), x, 3.0)

    slope = grad(penalty(), weight)[0].flatten()
    direction = normal(*weight.shape)
    assert_slope(penalty, weight, direction, float(slope @ direction.flatten()))


def assert_slope(function, weight, direction, slope, step=1e-6):
    """The derivative of function() along ``direction`` of the weight is ``slope``."""
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(direction, alpha=sign * step)
        values.append(float(function().detach()))
        with torch.no_grad():
            weight.sub_(direction, alpha=sign * step)
    assert abs(slope) > 1e-3
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=1e-4)


# -- path length ---


def test_path_length_of_a_linear_generator(normal):
    """image = sum_l A_l w_l, so J_l = A_l."""
    maps, ws = normal(3, 12, 5), normal(2, 3, 5).requires_grad_()  # 3 slots, 12 pixels
    images = torch.einsum("lpw,nlw->np", maps, ws).reshape(2, 1, 3, 4)
    y = normal(2, 1, 3, 4)
    wanted = []
    for direction in y.reshape(2, 12) / math.sqrt(3 * 4):
        energy = [float((maps[slot].T @ direction).square().sum()) for slot in range(3)]
        wanted.append(math.sqrt(sum(energy) / 3))
    lengths = losses.path_lengths(images, ws, y)
    assert lengths.tolist() == pytest.approx(wanted)


def test_path_length_gradient_agrees_with_finite_differences(normal):
    config = BackboneConfig(resolution=8, z_dim=4, w_dim=4, channel_base=64, channel_max=4)
    generator = Generator(config)
    generator.reset(torch.Generator().manual_seed(0))
    synthesis = generator.double().synthesis
    ws, y, noise = normal(2, 4, 4), normal(2, 3, 8, 8), SampleNoise([0, 1])
    step, wanted = 1e-5, torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for place in range(16):
            shift = step * torch.eye(16, dtype=torch.float64)[place].reshape(1, 4, 4)
            change = synthesis(ws + shift, noise) - synthesis(ws - shift, noise)
            wanted += ((change * y).sum(dim=(1, 2, 3)) / (2 * step) / 8).square() / 4
    ws.requires_grad_()
    weight, mean = synthesis.blocks["8"].conv0.weight, torch.tensor(0.3, dtype=torch.float64)

    def lengths():
        return losses.path_lengths(synthesis(ws, noise), ws, y)

    torch.testing.assert_close(lengths().detach(), wanted.sqrt(), rtol=1e-5, atol=0)

    def penalty():
        return (lengths() - mean).square().mean()

    with_mean = losses.path_penalty(lengths(), mean, 0.0)[0]  # decay 0: the mean stays
    slope = grad(with_mean, weight)[0].flatten()
    direction = normal(*weight.shape)
    assert_slope(penalty, weight, direction, float(slope @ direction.flatten()))


def test_path_length_of_a_constant_generator_has_a_finite_gradient():
    ws = torch.zeros(2, 3, 4, requires_grad=True)
    factor = torch.zeros((), requires_grad=True)
    images = (ws.sum(dim=(1, 2)) * factor).reshape(2, 1, 1, 1)
    lengths = losses.path_lengths(images, ws, torch.ones(2, 1, 1, 1))
    assert float(lengths.detach().max()) < 1e-5
    assert torch.isfinite(grad(lengths.sum(), factor)[0])


def test_path_penalty_moves_its_mean_and_measures_from_there():
    lengths = torch.tensor([1.0, 3.0], requires_grad=True)
    penalty, mean = losses.path_penalty(lengths, torch.tensor(1.0), 0.1)
    assert float(mean) == pytest.approx(1.1)  # 0.9 * 1 + 0.1 * 2
    assert float(penalty.detach()) == pytest.approx((0.1**2 + 1.9**2) / 2)
    assert not mean.requires_grad
    assert grad(penalty, lengths)[0].tolist() == pytest.approx([-0.1, 1.9])


# -- mode seeking ---


def test_mode_seeking_is_a_ratio_of_means():
    ws_a = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]])
    ws_b = torch.tensor([[[0.0, 4.0]], [[1.0, 0.0]]])  # mean distance (1 + 2 + 1 + 0) / 4 = 1
    masks_a = torch.tensor([1.0, 0.5, 0.0, 0.0]).reshape(2, 1, 1, 2)
    masks_b = torch.tensor([-1.0, 0.5, 0.0, 0.5]).reshape(2, 1, 1, 2)  # (2 + 0 + 0 + 0.5) / 4
    loss = losses.mode_seeking(ws_a, ws_b, masks_a, masks_b, 0.0)
    assert float(loss) == pytest.approx(1 / 0.625)  # the mean of ratios would have no value
    loss = losses.mode_seeking(ws_a, ws_b, masks_a, masks_b, 0.375)
    assert float(loss) == pytest.approx(1 / (0.625 + 0.375))
    assert losses.mode_seeking(ws_b, ws_a, masks_b, masks_a, 0.375) == loss


def test_mode_seeking_of_equal_masks_is_finite_with_an_epsilon(normal):
    ws_a, ws_b = normal(2, 3, 4).requires_grad_(), normal(2, 3, 4)
    logits = torch.full((2, 1, 8, 8), -3.0, dtype=torch.float64, requires_grad=True)
    mask = torch.tanh(10 * logits)
    loss = losses.mode_seeking(ws_a, ws_b, mask, mask.detach().clone(), 1e-3)
    assert float(loss.detach()) == pytest.approx(float((ws_a - ws_b).abs().mean().detach()) * 1e3)
    to_ws, to_logits = grad(loss, (ws_a, logits))
    assert torch.isfinite(to_ws).all()
    assert to_ws.abs().min() > 0
    assert torch.isfinite(to_logits).all()
    published = losses.mode_seeking(ws_a, ws_b, mask, mask.detach().clone(), 0.0)
    assert torch.isinf(published)


def test_mode_seeking_pulls_masks_apart_and_latents_together(normal):
    ws_a, masks_a = normal(2, 3, 4).requires_grad_(), normal(2, 1, 4, 4).requires_grad_()
    ws_b, masks_b = normal(2, 3, 4), normal(2, 1, 4, 4)
    to_ws, to_masks = grad(losses.mode_seeking(ws_a, ws_b, masks_a, masks_b, 0.1), (ws_a, masks_a))
    assert torch.equal(to_ws.sign(), (ws_a - ws_b).sign())
    assert torch.equal(to_masks.sign(), -(masks_a - masks_b).sign())
    assert gradcheck(
        lambda w, m: losses.mode_seeking(w, ws_b, m, masks_b, 0.1), (ws_a, masks_a), atol=1e-4
    )


# -- reconstruction ---


def pyramid_by_hand(images, targets, weights, levels):
    """Cell by cell: |weighted mean difference| times mean weight, over the sum of weights."""
    n, c, h, w = images.shape
    total, count = 0.0, 0
    for level in range(levels):
        side = 2**level
        if min(h, w) // side < 4 and level:
            break
        top = bottom = 0.0
        for i, y, x in np.ndindex(n, h // side, w // side):
            cell = np.s_[i, :, y * side : (y + 1) * side, x * side : (x + 1) * side]
            weight = weights[cell]
            for k in range(c):
                bottom += weight.mean()
                if weight.sum() > 0:
                    distance = (images - targets)[cell][k]
                    mean = (distance * weight[0]).sum() / weight.sum()
                    top += abs(mean) * weight.mean()
        total, count = total + top / bottom, count + 1
    return total / count


@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize("size", [(8, 8), (16, 32), (4, 4)])
def test_pyramid_cell_by_cell(normal, levels, size):
    a, b, weights = normal(2, 3, *size), normal(2, 3, *size), normal(2, 1, *size).sigmoid()
    weights[0, :, :2] = 0
    wanted = pyramid_by_hand(a.numpy(), b.numpy(), weights.numpy(), levels)
    assert float(losses.pyramid_l1(a, b, weights, levels)) == pytest.approx(wanted, rel=1e-5)
    ones = np.ones((2, 1, *size))
    wanted = pyramid_by_hand(a.numpy(), b.numpy(), ones, levels)
    assert float(losses.pyramid_l1(a, b, levels=levels)) == pytest.approx(wanted, rel=1e-5)


def test_pyramid_ignores_what_has_no_weight(normal):
    a, b = normal(1, 3, 16, 16), normal(1, 3, 16, 16)
    weights = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    assert float(losses.pyramid_l1(a, b, weights)) == 0.0
    weights[..., 3:9] = 1
    changed = torch.where(weights > 0, b, 99.0)
    assert losses.pyramid_l1(a, changed, weights) == losses.pyramid_l1(a, b, weights)
    assert losses.pyramid_l1(a, a, weights) == 0
