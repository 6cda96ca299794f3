"""Sign-In, sparse training that changes signs: every weight is a product (Gadhikar et al., NeurIPS 2025, arXiv
2504.12801).

θ = m ⊙ w, with both factors trained. Every p epochs they are set back to m² − w² = 1, which leaves θ as it is: the
product, the reset and its constant are the paper's. Ours: p is 1 unless said otherwise; the optimizer keeps its
momentum through a reset; the classifier's weights are products too, biases and ψ are not; weight decay acts on m and on
w, as on every trained parameter, so that it alone shrinks θ twice as fast as a plain weight. Where the mask prunes,
w is 0 after every step, and with it θ.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call


def factorize(weights: Tensor) -> tuple[Tensor, Tensor]:
    """m > 0 and w of the same shape with m ⊙ w = θ, to rounding, and m² − w² = 1."""
    m = ((1 + (1 + 4 * weights.square()).sqrt()) / 2).sqrt()
    return m, weights / m


class SignIn(nn.Module):
    """A network whose weights ``names`` are m ⊙ w; ``start`` fills these in. Its other parameters are its own."""

    def __init__(self, network: nn.Module, names: Iterable[str]):
        super().__init__()
        self.network, self.names = network, tuple(names)
        weights = [network.get_parameter(name).requires_grad_(False) for name in self.names]
        self.m = nn.ParameterList(torch.empty_like(weight) for weight in weights)
        self.w = nn.ParameterList(torch.empty_like(weight) for weight in weights)

    def forward(self, images: Tensor) -> Tensor:
        return functional_call(self.network, self.weights(), (images,), tie_weights=False)

    def weights(self) -> dict[str, Tensor]:
        """θ by name, through which gradients reach both factors."""
        return {name: m * w for name, m, w in zip(self.names, self.m, self.w, strict=True)}

    @torch.no_grad()
    def start(self, weights: Mapping[str, Tensor]) -> None:
        """Fill in the factors of θ, in place."""
        for name, *factors in zip(self.names, self.m, self.w, strict=True):
            for factor, value in zip(factors, factorize(weights[name]), strict=True):
                factor.copy_(value)

    def reset(self) -> None:
        """m² − w² = 1 again, under the same θ."""
        self.start(self.weights())

    @torch.no_grad()
    def plain(self) -> nn.Module:
        """The plain network, with θ in the place of its factors."""
        self.network.load_state_dict(self.weights(), strict=False)
        return self.network
