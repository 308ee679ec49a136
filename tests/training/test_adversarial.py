from __future__ import annotations

import pytest
import torch

from defectgen.augment.pipe import AugmentPipe
from defectgen.augment.policy import POLICIES
from defectgen.losses import generator_logistic
from defectgen.networks.discriminator import Discriminator
from defectgen.rng import generator
from defectgen.training.adversarial import Critic


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.6])
def test_fooled_is_the_logistic_loss_and_its_gradient(make_state, paired, p):
    network = Discriminator(16, 4 if paired else 3, channel_base=256, channel_max=16)
    network.reset(generator(0, "test"))
    pipe = AugmentPipe(POLICIES["bgc"])
    source = generator(0, "pictures")
    weights = [torch.rand(4, c, 16, 16, generator=source) for c in (3, 1)[: 1 + paired]]

    def results(loss_of):
        state = make_state()  # the same random numbers for both
        state.ada.p = p
        critic = Critic(state, network, pipe, adapts=False)
        made = [w.requires_grad_(True) for w in weights]
        pictures = [w * 1.5 - 0.5 for w in made]  # what a generator would have made of them
        loss = loss_of(critic, pictures)
        # Another term of the same pictures, as the anchor is.
        total = 3 * loss + sum(x.square().sum() for x in pictures)
        return loss.detach(), torch.autograd.grad(total, made)

    wanted = results(lambda critic, x: generator_logistic(critic(*x)))
    got = results(lambda critic, x: critic.fooled(*x))
    torch.testing.assert_close(got, wanted)
    plain = torch.autograd.grad(sum((w * 1.5 - 0.5).square().sum() for w in weights), weights)
    assert all(not torch.allclose(g, q) for g, q in zip(got[1], plain, strict=True))


def test_fooled_leaves_nothing_of_the_discriminator_in_the_graph(make_state):
    network = Discriminator(16, 3, channel_base=256, channel_max=16)
    network.reset(generator(0, "test"))
    critic = Critic(make_state(), network, None, adapts=False)
    image = torch.zeros(2, 3, 16, 16, requires_grad=True)

    def nodes(tensor):
        found, waiting = set(), [tensor.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in found:
                found.add(node)
                waiting += [before for before, _ in node.next_functions]
        return found

    assert len(nodes(generator_logistic(critic(image)))) > 20
    assert len(nodes(critic.fooled(image))) < 10


def test_an_infinite_gradient_leaves_the_loss_finite(make_state):
    """The loop skips such a step; a loss that is not finite would end the training."""

    class Root(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1).sum(1, keepdim=True).sqrt()

    image = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = Critic(make_state(), Root(), None, adapts=False).fooled(image)
    assert torch.isfinite(loss)
    assert not torch.isfinite(torch.autograd.grad(loss, image)[0]).any()
