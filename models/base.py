"""The contract between a model and everything around it.

A model *owns* its training step: its networks, losses and optimisers. The training loop
(`models/training/loop.py`) knows only the order: step, step, ..., evaluate. So an autoencoder with
one optimiser and a GAN with two and several steps a batch are the same to it.

A step never waits for the device: `train_step` and `evaluate` return tensors, have static shapes
and never branch on values. The loop copies an epoch's metrics to the host once.

Shape legend: N batch, C channels, H/W pixels, Z latent width.

    python -c "from models.cae import CAE, CAEConfig; print(CAE(CAEConfig(), (1, 28, 28)))"
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models.data.images import Batch, Images, ImageSplits, Shape
from models.errors import ConfigError, require, require_one_of
from models.model_config import ModelConfig, added_field
from models.needs import Needs, Sides
from models.optimizers import SCHEDULES, set_rates
from models.programs import Program
from models.results import Baseline, Picture, Table
from models.seeds import drawing

__all__ = [
    "Batch", "ConfigError", "Metrics", "Model", "ModelConfig", "Needs", "Note", "Program", "Shape",
    "Sides", "added_field", "build", "evaluating", "parameter_count", "require", "require_one_of",
]  # fmt: skip

OUR_MODELS = "models."  # the modules of genstudy's own families begin so
Metrics = dict[str, Tensor]
"""Name -> scalar tensor, a mean over the batch, on the model's device."""


@dataclass(frozen=True, kw_only=True)
class AskedSamples:
    """What a person asks `Model.make` for.

    count: N; seed: all that is drawn follows from it
    labels: (N, L) in [0, 1], for a family that is `labelled`; None: whichever it likes
    images: (M, C, H, W) in [0, 1] on the model's device, for one that `makes_from_images`
    """

    count: int
    seed: int
    labels: Tensor | None = None
    images: Tensor | None = None


class Model(nn.Module, ABC):
    """A family of networks with its losses and optimisers, built as ``Family(config, shape)``.

    A family says `metrics` and `config_type`, fills `optimizers`, and has `train_step`, `evaluate`
    and `programs`. All else has a default.

    metrics: what `evaluate` returns, by name, so that a study's metric can be checked early
    config_type: the class of its configurations
    usage: how a loaded export is used, in a line or two of Python for its model card
    judged: `samples` makes new images. Their quality (`models.evaluation.measures`) is then
        measured each epoch beside `metrics`, and may be a study's metric
    labelled: the images have labels that the model is given. Whether they show them is then
        measured, too (`models.evaluation.label_evaluator`)
    makes_from_images: `make` needs real images
    step_metrics: what is kept of single steps, among what `train_step` returns: it is drawn over
        the steps beside the epochs' means (`models.training.step_curve`)
    static_step: every `train_step` runs the same operations on tensors of the same shapes, so that
        a GPU may replay one (`models.training.cuda_graph`). False for a step that decides something
        on the host; `models.training.chosen_steps` has a form of it that may be replayed
    fuses: a `train_step` is one `descend` of ``self.loss``, which computes with the images, the
        configuration and the parameters alone and draws nothing at random. Several models may then
        be trained as one program (`models.training.fused_steps`). It is not inherited: a subclass
        may do more, and says it of itself
    """

    metrics: ClassVar[tuple[str, ...]]
    config_type: ClassVar[type[ModelConfig]]
    usage: ClassVar[str] = "made = model(images)"
    judged: ClassVar[bool] = False
    labelled: ClassVar[bool] = False
    makes_from_images: ClassVar[bool] = False
    step_metrics: ClassVar[tuple[str, ...]] = ()
    fuses: ClassVar[bool] = False
    static_step: bool = True

    def __init__(self, config: ModelConfig, shape: Shape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.optimizers: dict[str, Optimizer] = {}

    @abstractmethod
    def train_step(self, batch: Batch) -> Metrics:
        """Update the weights from one batch. Return tensors; never wait for the device."""

    @abstractmethod
    def evaluate(self, batch: Batch) -> Metrics:
        """Return the metrics of one batch and leave the weights alone.

        It is called in eval mode, without gradients.
        """

    def descend(self, loss: Callable[[Batch], tuple[Tensor, Metrics]], batch: Batch) -> Metrics:
        """Take one step of ``optimizers["all"]`` down the gradient of a loss.

        loss: computes from ``batch`` the loss and what is measured on the way, which is returned
        """
        optimizer = self.optimizers["all"]
        optimizer.zero_grad(set_to_none=True)  # first, so that their memory is free for the loss
        value, measured = loss(batch)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return detached(measured)

    def preview(self, images: ImageSplits, part: str, count: int) -> Picture | None:
        """Return a trial's picture for the dashboard: what the model does with ``count`` images.

        It is quick, and called in eval mode, without gradients.
        part: "valid" or "test"
        """
        return None

    def fixed_samples(self, images: ImageSplits, part: str, count: int) -> Tensor | None:
        """Return at most ``count`` images (N, C, H, W) in [0, 1] made of the same input each epoch.

        Rows of them, one for each epoch, show how the model learned. None means that it makes no
        images. It is called in eval mode, without gradients, and leaves the caller's random
        numbers undisturbed.
        images: a model that makes images from images takes those of ``part`` ("valid" or "test")
        """
        return None

    def samples(self, count: int, images: ImageSplits, part: str) -> Tensor:
        """Return images that the model makes, to be measured: (count, C, H, W) in [0, 1].

        It is called in eval mode, without gradients, and draws the same random numbers each time.
        images, part: for families that make theirs from real images
        """
        raise NotImplementedError(f"{type(self).__name__} makes no new images to be measured")

    def make(self, asked: AskedSamples) -> Tensor:
        """Return new images for a person: (N, C, H, W) in [0, 1].

        It is called in eval mode, without gradients. The same ``asked`` gives the same images.
        """
        raise NotImplementedError(f"{type(self).__name__} makes no images")

    def sample(self, count: int, *, seed: int | None = None) -> Tensor:
        """Return what `make` makes without gradients: (count, C, H, W) in [0, 1].

        seed: all that is drawn follows from it; None: other images in each call
        """
        if self.makes_from_images:
            name = type(self).__name__
            raise NotImplementedError(f"{name} makes images of other images; give them to make")
        if seed is None:
            seed = int(torch.randint(2**31, ()))
        with evaluating(self):
            return self.make(AskedSamples(count=count, seed=seed))

    @abstractmethod
    def programs(self) -> dict[str, Program]:
        """Return the parts that are worth exporting by name, such as encoder and decoder."""

    def begin_epoch(self, number: int, epochs: int) -> None:
        """Set learning rates, and whatever else follows from the epoch alone.

        It is called before epoch ``number`` (from 1) of ``epochs``, and before a model that was
        kept of that epoch is measured again.
        """
        set_rates(self.optimizers.values(), SCHEDULES[self.config.schedule](number, epochs))

    def end_epoch(self, seen: Images) -> None:
        """Compute what is measured and kept of an epoch, and follows from its weights alone.

        It is called after the last training step, in eval mode, without gradients, and draws the
        same random numbers each time.
        seen: what the model trains on
        """
        return

    def prepare_export(self, images: ImageSplits) -> None:
        """Compute what `programs` need and no training gives.

        It is called before an export, in eval mode, without gradients, and draws the same random
        numbers each time.
        """
        return

    @classmethod
    def images_per_epoch(cls, config: ModelConfig, images: ImageSplits) -> int:
        """Return how many images an epoch shows."""
        return len(images.train)

    def steps_per_epoch(self, images: ImageSplits) -> int:
        """Return how many steps an epoch has, >= 1."""
        shown = self.images_per_epoch(self.config, images)
        return max(1, shown // self.images_per_step)

    def training_set(
        self,
        images: ImageSplits,
        *,
        seed: int,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Images:
        """Return what the model trains on, on its device: ``images.train``, a part of it, or more.

        `models.training.loop.fit` calls it once when it starts, also when a training is taken up
        again: the result must follow from ``images``, the configuration and ``seed`` alone. It
        leaves torch's global random numbers as they are. Where it takes long it asks
        ``interrupted``, and raises `models.errors.StopRequested`.
        """
        return images.train

    def order(self, count: int) -> Tensor:
        """Return which of ``count`` training images an epoch sees, in their order: (n,) int64.

        They are drawn on the CPU from torch's global random numbers, so that all devices see the
        same order.
        """
        return torch.randperm(count)

    @classmethod
    def sides(cls, config: ModelConfig) -> Sides:
        """Return how large images may be for a model of ``config``, and with which channels.

        A study that adapts to a folder of images chooses their size and channels by it.
        """
        return Sides()

    @classmethod
    def needs(cls, config: ModelConfig) -> Needs:
        """Return what images must have for a model of ``config``, its tables and its pictures.

        It is checked before a study begins.
        """
        return Needs(what=f"the family {cls.__name__}")

    @classmethod
    def fitted(cls, config: ModelConfig, images: ImageSplits) -> ModelConfig:
        """Return ``config`` with the fields that follow from the images' classes or attributes.

        Raises `ConfigError` when the family has no use for these images.
        """
        return config

    @classmethod
    def based_on(cls, config: ModelConfig, base: Model) -> ModelConfig:
        """Return ``config`` for a model that starts from the exported model ``base``."""
        raise ConfigError(f"{cls.__name__} starts from no other model; remove starts_from")

    def start_from(self, base: Model) -> None:
        """Take over the weights of ``base``. It is called once, on the CPU, after `based_on`."""

    def pictures(self, images: ImageSplits, part: str) -> Iterator[Picture]:
        """Yield pictures for an export, made with ``part`` ("valid" or "test") of ``images``.

        It is called in eval mode, without gradients; images lie on the model's device.
        """
        return iter(())

    def tables(self, images: ImageSplits, progress: Note) -> Iterator[Table]:
        """Yield what a study's winner is measured by on the test images, beyond `metrics`.

        Baselines, matrices and bounds are examples. It is called once, in eval mode; a family that
        trains something here says by ``progress`` how far it is.
        """
        return iter(())

    def baseline(self, images: ImageSplits, part: str) -> Baseline | None:
        """Return the scores of a model that ignores its input, on ``part`` ("valid" or "test").

        None: such a model makes no sense here.
        """
        return None

    def read_images(self, *files: str | Path, background: str = "#ffffff") -> Tensor:
        """Read image files of any size as the model takes them: (N, C, H, W) in [0, 1].

        They are prepared like those of a folder: resized, and cropped from the centre.
        background: what shows through where they are transparent
        """
        from models.data.decoding import Decoder

        channels, height, width = self.shape
        decoder = Decoder(background=background)
        found = [
            decoder.decode(Path(file).expanduser(), channels, (width, height)).pixels
            for file in files
        ]
        pixels = torch.stack([torch.from_numpy(each) for each in found])
        return pixels.to(self.device, torch.float32) / 255

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def images_per_step(self) -> int:
        """Images of a `train_step`."""
        return self.config.images_per_step


Note = Callable[[str], None]
"""A function that is called with one line on what is being done."""


def build(
    family: type[Model],
    config: ModelConfig,
    shape: Shape,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    base: Model | None = None,
) -> Model:
    """Build a model whose weights follow from ``seed`` (and ``base``) alone, whatever the device.

    base: the exported model that it starts from
    """
    with drawing("cpu", seed):
        model = family(config if base is None else family.based_on(config, base), shape)
    if base is not None:
        model.start_from(base)
    return model.to(device)


def detached(metrics: Metrics) -> Metrics:
    """Return the same values without the graph that computed them."""
    return {name: value.detach() for name, value in metrics.items()}


@contextmanager
def evaluating(model: Model) -> Iterator[Model]:
    """Put the model in eval mode without gradients; afterwards it is in its former mode again."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        model.train(was_training)


def parameter_count(module: nn.Module) -> int:
    """Count weights, biases and batch norms' parameters, as the reference systems count them."""
    return sum(parameter.numel() for parameter in module.parameters())
