"""What every configuration of a model has: its batch, its schedule, and what follows from them.

    @dataclass(frozen=True, kw_only=True)
    class CAEConfig(ModelConfig):
        latent: int = 16
        bias: bool = added_field(True, unsealed=True)  # stored configurations do not have it yet

A configuration is stored with each trial and each export, so that a new field needs a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self, TypeVar

from models.errors import require, require_one_of
from models.optimizers import SCHEDULES

ENDLESS = 1_000_000_000  # epochs: nothing that ends by itself lasts as long
PRECISIONS = ("float32", "bfloat16")
FEWEST = 8  # images that a batch keeps when it is made smaller

T = TypeVar("T")
LATER, UNSEALED = "later", "unsealed"  # metadata of a configuration's field


def added_field(default: T, *, unsealed: bool = False) -> T:
    """Return a field that a family got after studies of it were stored.

    Its default must mean what the older version did. A configuration with the default then equals
    the configuration that an older version has stored (`ModelConfig.to_plain`).
    unsealed: whether the default is left out where files are sealed (`ModelConfig.sealed`). New
        fields say True. The first fields of this kind were sealed with their defaults, and stay so
    """
    made: T = field(default=default, metadata={LATER: True, UNSEALED: unsealed})
    return made


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The fields of every configuration. A family adds its own, all with defaults.

    schedule: name of how the learning rates go over the epochs (`models.optimizers`)
    precision: what training steps compute in, float32 or bfloat16 (`models.training.precision`)
    """

    batch_size: int = 256
    schedule: str = "constant"
    precision: str = added_field("float32", unsealed=True)

    def __post_init__(self) -> None:
        require("batch_size", self.batch_size, 1, 65536)
        require_one_of("schedule", self.schedule, SCHEDULES)
        require_one_of("precision", self.precision, PRECISIONS)

    def to_plain(self) -> dict[str, Any]:
        """Return the values that tell this configuration from others, as JSON takes them.

        A field that an older version did not know is left out where it has its default.
        """
        return self._without(LATER)

    def sealed(self) -> dict[str, Any]:
        """Return the values that tell which checkpoints and records belong to this configuration.

        Files of an older version have the same values, as long as new fields have their defaults.
        """
        return self._without(UNSEALED)

    def _without(self, mark: str) -> dict[str, Any]:
        """Return all values but those of marked fields that have their defaults."""
        new = {each.name: each.default for each in fields(self) if each.metadata.get(mark)}
        values = asdict(self)
        return {k: v for k, v in values.items() if k not in new or v != new[k]}

    @classmethod
    def from_export(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration of an export.

        A family overrides this to say what a field means that an older export lacks.
        """
        return cls(**values)

    @property
    def images_per_step(self) -> int:
        """Images of a training step: more than the batch size if a step makes several updates."""
        return self.batch_size

    def settled_in(self, epochs: int) -> int:
        """Return the first of ``epochs`` epochs from which on nothing changes with the epochs.

        Rates have fallen by then, noise has faded, and losses have their final weights. A family
        whose ``begin_epoch`` sets more overrides this. A retraining loses no patience before it.
        """
        return 1 if self.schedule == "constant" else epochs

    @property
    def is_stretched(self) -> bool:
        """Whether something is stretched over all epochs: a longer training begins otherwise."""
        return self.settled_in(ENDLESS) == ENDLESS

    @property
    def smallest_batch(self) -> int:
        """The fewest images that an update can be made with."""
        return 1


def fit_batch(config: ModelConfig, shown: int, *, least_steps: int) -> ModelConfig:
    """Return ``config`` with a batch that leaves ``least_steps`` to an epoch of ``shown`` images.

    A batch is made smaller, never larger. It keeps at least `FEWEST` images, because the gradient
    of a smaller one says little. ``least_steps`` 0 leaves it as it is.
    """
    if not least_steps:
        return config
    updates = config.images_per_step // config.batch_size
    batch = max(shown // (least_steps * updates), FEWEST, config.smallest_batch)
    return replace(config, batch_size=batch) if batch < config.batch_size else config
