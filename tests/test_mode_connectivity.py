"""Error barriers: numbers worked out by hand, and ends that are the networks."""

import pytest
import torch
from torch import Tensor, nn

from tests.toys import TOY_NETWORKS
from utils.method.mode_connectivity import Barrier, barrier_above_line, error_barrier, interpolate_states, positions
from utils.training.evaluation import evaluate


def test_barriers_by_hand():
    """Ends 10 and 20, mean 15; in the middle 30: equation 1 gives 15, and the line at α = 0.25 is 12.5."""
    alphas, errors = positions(5), [10, 30, 25, 18, 20]
    assert alphas == [0, 0.25, 0.5, 0.75, 1]
    assert error_barrier(alphas, errors) == Barrier(15, 0.25)
    assert barrier_above_line(alphas, errors).height == 17.5
    straight = [10, 12.5, 15, 17.5, 20]
    assert barrier_above_line(alphas, straight).height == 0
    assert error_barrier(alphas, straight) == Barrier(5, 1)  # the worse end


class TwoParameters(nn.Module):
    """Scores of the classes "+" and "−" for one pixel x: a·b·x and 0."""

    def __init__(self, a: float, b: float):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor([a])), nn.Parameter(torch.tensor([b]))

    def forward(self, images: Tensor) -> Tensor:
        score = self.a * self.b * images.flatten(1)
        return torch.cat([score, torch.zeros_like(score)], dim=1)


def test_a_barrier_of_two_parameters_by_hand():
    """(2, 1) and (−1, −2) both have a·b = 2 and no error; in the middle a·b = 0.5 · −0.5 < 0: every answer is wrong.

    a·b = (3α − 1)(3α − 2) is negative between α = 1/3 and 2/3, so at 11 positions for 0.4, 0.5 and 0.6.
    """
    batch = [(torch.tensor([1.0, 2.0, -1.0, -2.0]).view(4, 1, 1, 1), torch.tensor([0, 0, 1, 1]))]
    first, second = TwoParameters(2.0, 1.0), TwoParameters(-1.0, -2.0)
    errors = []
    for alpha in positions(11):
        network = TwoParameters(0.0, 0.0)
        network.load_state_dict(interpolate_states(first.state_dict(), second.state_dict(), ["a", "b"], alpha))
        errors.append(evaluate(network, batch).error)
    assert errors == [0, 0, 0, 0, 100, 100, 100, 0, 0, 0, 0]
    assert error_barrier(positions(11), errors).height == 100


@pytest.mark.parametrize("build", TOY_NETWORKS)
def test_every_learnable_tensor_is_interpolated_and_the_ends_are_the_networks(build):
    torch.manual_seed(0)
    first, second, between = build(), build(), build()
    names = [name for name, _ in first.named_parameters()]
    with torch.no_grad():
        for parameter in [*first.parameters(), *second.parameters()]:
            parameter.copy_(torch.randn_like(parameter))
    for alpha, end in ((1.0, first), (0.0, second)):
        state = interpolate_states(first.state_dict(), second.state_dict(), names, alpha)
        assert all(torch.equal(state[name], end.state_dict()[name]) for name in names)
    state = interpolate_states(first.state_dict(), second.state_dict(), names, 0.3)
    for name in names:
        expected = 0.3 * first.state_dict()[name] + 0.7 * second.state_dict()[name]
        torch.testing.assert_close(state[name], expected)
    between.load_state_dict(state)
