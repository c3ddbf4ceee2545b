"""Four fixed configurations on Fashion-MNIST: the small study that frameworks are compared with."""

from __future__ import annotations

from models.cae import CAE
from search.study import StudySpec
from tests.benchmarks.work import FOUR, SHAPE, one_of_four

STUDY = StudySpec(
    model=CAE,
    suggest=one_of_four,
    data="fashion_mnist",
    shape=SHAPE,
    metric="mse",
    sampler="grid",
    pruner="none",
    trials=len(FOUR),
    epochs=3,
)
