"""The work that every side does: the same network, images, batches, optimiser and loss.

The network is the product's `models.cae.CAE`, which a peer trains as any other `nn.Module`.
"""

from __future__ import annotations

from optuna.trial import BaseTrial

from models.cae import CAEConfig

SHAPE = (1, 28, 28)
BATCH = 256
LR = 0.004295  # the reported best configuration's
WEIGHT_DECAY = 3.96e-6


def adam(channels: int, latent: int) -> CAEConfig:
    return CAEConfig(
        channels=channels,
        latent=latent,
        optimizer="adam",
        lr=LR,
        weight_decay=WEIGHT_DECAY,
        batch_size=BATCH,
    )


FOUR = (adam(9, 27), adam(4, 10), adam(10, 60), adam(7, 36))


def one_of_four(trial: BaseTrial) -> CAEConfig:
    """For a fixed list of configurations: the trial names a line of it."""
    return FOUR[trial.suggest_int("line", 0, len(FOUR) - 1)]


def searched(trial: BaseTrial) -> CAEConfig:
    """The space of `search/studies/cae.py`, as a peer writes it down."""
    return CAEConfig(
        channels=trial.suggest_int("channels", 4, 10),
        latent=trial.suggest_int("latent", 10, 60),
        optimizer=trial.suggest_categorical("optimizer", ["adam", "sgd"]),
        weight_decay=trial.suggest_float("weight_decay", 1e-6, 1e-4, log=True),
        lr=trial.suggest_float("lr", 5e-5, 5e-2, log=True),
        batch_size=BATCH,
    )


def epoch_gigaflops(channels: int, latent: int, train: int, valid: int) -> float:
    """Floating-point operations, in 10**9, of an epoch over ``train`` and ``valid`` images.

    Only convolutions and linear layers count; a multiplication and an addition are two. The
    backward pass costs twice the forward pass: gradients of the inputs, and of the weights.
    """
    n, z, hidden = channels, latent, 64
    outputs = (14 * 14, 7 * 7, 3 * 3)  # pixels of the three strided convolutions
    widths = (1, n, 2 * n, 4 * n)
    encoder = sum(
        pixels * widths[layer] * widths[layer + 1] * 9 for layer, pixels in enumerate(outputs)
    )
    encoder += 36 * n * hidden + hidden * z
    forward = 2 * 2 * encoder  # the decoder mirrors it: a transposed convolution costs the same
    return forward * (3 * train + valid) / 1e9
