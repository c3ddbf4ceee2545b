"""The two networks of a variational autoencoder, around the layers of any architecture.

    encoder, decoder = join_networks(layers, [mean, log_variance], decoder_layers)

    encoder   images -> layers -> two heads: mean and log-variance of q(z | x)
    decoder   codes -> layers -> a probability for each value of an image

Shape legend: N batch, C channels, H/W pixels, Z latent width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.networks.layers import initialise_for_relu

QUIET = 0.1  # factor of the first weights in last layers, whose outputs then start near 0


class GaussianEncoder(nn.Module):
    """q(z | x) = N(mean, exp(log_variance)), with independent dimensions.

    When called it gives the mean alone, which is an image's code.
    """

    def __init__(self, body: nn.Module, mean: nn.Module, log_variance: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.mean = mean
        self.log_variance = log_variance

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] -> (N, Z)."""
        means: Tensor = self.mean(self.body(images))
        return means

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) in [0, 1] -> mean and log-variance, (N, Z) each."""
        features = self.body(images)
        return self.mean(features), self.log_variance(features)


class BernoulliDecoder(nn.Module):
    """p(x | z): each value of an image has a probability, and these make the decoded image."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, codes: Tensor) -> Tensor:
        """(N, Z) -> (N, C, H, W) in [0, 1]."""
        return torch.sigmoid(self.logits(codes))

    def logits(self, codes: Tensor) -> Tensor:
        """(N, Z) -> (N, C, H, W), before the sigmoid."""
        logits: Tensor = self.body(codes)
        return logits


Networks = tuple[GaussianEncoder, BernoulliDecoder]


def join_networks(body: nn.Module, heads: Sequence[nn.Module], decoder: nn.Sequential) -> Networks:
    """Return encoder and decoder, with first weights from which codes get a meaning.

    The posterior's variances start near 1, and all logits near 0. The ReLUs of the decoder's first
    layer bend at places spread over the prior: without biases they would all bend at the origin.
    After 300 steps of latent-2 on MNIST, He's weights alone are 4 nats behind and PyTorch's
    defaults 15.
    """
    mean, log_variance = heads
    encoder = GaussianEncoder(body, mean, log_variance)
    for part in (encoder, decoder):
        initialise_for_relu(part)
    first, last = _layers_with_weights(decoder)[0], _layers_with_weights(decoder)[-1]
    nn.init.normal_(first.weight, std=first.weight.shape[1] ** -0.5)  # (_, Z)
    assert first.bias is not None
    nn.init.normal_(first.bias, std=0.5**0.5)
    with torch.no_grad():
        for layer in (last, _layers_with_weights(log_variance)[-1]):
            layer.weight.mul_(QUIET)
    return encoder, BernoulliDecoder(decoder)


def _layers_with_weights(network: nn.Module) -> list[nn.Linear | nn.Conv2d | nn.ConvTranspose2d]:
    """Return the layers with weights, in their order."""
    kinds = nn.Linear, nn.Conv2d, nn.ConvTranspose2d
    return [layer for layer in network.modules() if isinstance(layer, kinds)]


def scale_sizes(width: float, *sizes: int) -> list[int]:
    """Return ``sizes`` times ``width``, each at least 1."""
    return [max(1, round(width * size)) for size in sizes]
