"""What a study file says: what is searched, on what data, for how long, and by what it is judged.

    from search.study import StudySpec, Table

A study is one Python file with a ``suggest(trial)`` that returns a model's configuration, and with
``STUDY = StudySpec(...)``. `search.setup.loading` loads the file and checks it.

A study may have a ``summary(trials, curves)`` that returns a `Table`. `Table` is defined in
`models.results`, and study files import it from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import BaseTrial

from models.base import Model, ModelConfig
from models.costs import known_costs
from models.data.images import Shape
from models.evaluation.measures import ALL_MEASURES, LABEL_MEASURES
from models.results import Table
from search.errors import unknown_name
from search.goals import Goal, TrialResult, read_goals
from search.run import SourceFile
from search.strategies.seeded import SamplerFactory
from storage.errors import short

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Direction", "Study", "StudySpec", "Table", "TrialResult"]

STUDIES = Path(__file__).parent / "studies"
MOST = 1_000_000_000  # trials, epochs and other counts; variables have the same limit
MOST_SEEDS = 1000
LARGEST_SEED = 2**63 - 1
LARGEST_SIDE = 4096  # pixels

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """The specification of a study.

    What is searched:

    model: the family
    suggest: trial -> a configuration of that family
    references: name -> parameters that are known to be good; the first trials try them
    starts_from: a study whose best export every trial starts from

    On which images:

    data: an image set's name (`models.data.loading`)
    shape: (C, H, W) that images are resized to; None: they stay as they are
    adapts: whether a folder of images keeps its colours and size instead, as far as the model
        takes them (`search.setup.shapes`); ``shape`` is then that of other sets

    What it is judged by:

    metric: one of the model's metrics, measured on the validation images after each epoch; of a
        model that makes new images also one of `models.evaluation.measures`, measured on its
        samples. Several goals are a tuple, ``("mse", "code")``: the first is a metric, and the
        others are metrics or costs (`models.costs`)
    direction: whether a smaller or a larger value is better; one word for all goals, or one each
    constraints: a result -> numbers, of which each above zero says by how much the trial violates
        something; such a trial is not on the front (only with several goals)
    judged_by: a study whose best export judges samples of images without classes
    second_judge: whether an independent judge measures the last samples of trials, too

    How it is searched:

    sampler, pruner: a name, perhaps with arguments of Optuna's class, or an object of Optuna; a
        sampler may also be a function ``seed -> sampler``; without one, the pruner is ``median``,
        and of several goals ``front``
    trials: how many in all
    epochs: of each trial
    seed: all random choices of the trials follow from it
    pictures_every: epochs between two pictures of a trial in the dashboard; None: one at its end

    What follows the search:

    summary: trials, curves -> the table that the study concludes with
        (`search.reporting.summary`)
    seeds: with how many each of the best is trained again, before their means rank them
    retrain_epochs: most epochs of such a training
    patience: epochs without a better validation value that end it
    then: a study that goes on from this one's best export, right after it
    """

    model: type[Model]
    suggest: Callable[[BaseTrial], ModelConfig]
    data: str
    metric: str | tuple[str, ...]
    trials: int
    epochs: int
    direction: Direction | tuple[Direction, ...] = "minimize"
    sampler: str | SamplerFactory | BaseSampler = "random"
    pruner: str | BasePruner = ""
    shape: Shape | None = None
    adapts: bool = False
    retrain_epochs: int = 200
    patience: int = 4
    seeds: int = 3
    seed: int = 0
    references: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    starts_from: str | None = None
    then: str | None = None
    pictures_every: int | None = None
    summary: Callable[[pd.DataFrame, pd.DataFrame], Table] | None = None
    judged_by: str = "cae"
    second_judge: bool = False
    constraints: Callable[[TrialResult], Sequence[float]] | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.model, type) and issubclass(self.model, Model)):
            raise ValueError(f"model={self.model!r} is not a class derived from models.base.Model")
        if not callable(self.suggest):
            raise ValueError("suggest must be a function: trial -> configuration")
        if self.summary is not None and not callable(self.summary):
            raise ValueError("summary must be a function: trials, curves -> Table")
        self._check_goals()
        if self.pruner == "":
            object.__setattr__(self, "pruner", "front" if self.has_several_goals else "median")
        if not isinstance(self.adapts, bool):
            raise ValueError(f"adapts={short(repr(self.adapts))} is not True or False")
        if not isinstance(self.data, str):
            raise ValueError(f"data={short(repr(self.data))} is not a set's name or 'folder:PATH'")
        for name in ("trials", "epochs", "retrain_epochs", "patience"):
            _check_whole(name, getattr(self, name), 1, MOST)
        _check_whole("seeds", self.seeds, 1, MOST_SEEDS)
        if self.pictures_every is not None:
            _check_whole("pictures_every", self.pictures_every, 1, MOST)
        _check_whole("seed", self.seed, 0, LARGEST_SEED)
        for name in ("starts_from", "then", "judged_by"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"{name}={short(repr(getattr(self, name)))} is no study's name")
        _check_references(self.references)
        if self.shape is not None and not _is_shape(self.shape):
            raise ValueError(
                f"shape={short(repr(self.shape))} is not (channels, height, width) with 1 or 3 "
                f"channels and sides of 1 to {LARGEST_SIDE} pixels"
            )

    def _check_goals(self) -> None:
        metrics = (*self.model.metrics, *self._sample_measures())
        first, *others = self.goals
        if first.name not in metrics:
            raise ValueError(unknown_name("metric", first.name, metrics) + self._fix(first.name))
        known = (*metrics, *self._costs())
        for goal in others:
            if goal.name not in known:
                raise ValueError(unknown_name("goal", goal.name, known) + self._fix(goal.name))
        if self.constraints is not None and not callable(self.constraints):
            raise ValueError("constraints must be a function: result -> numbers")
        if self.constraints is not None and not others:
            raise ValueError(
                "constraints hold between several goals, and this study has one; name the others, "
                'as metric=("mse", "code"), or raise optuna.TrialPruned in suggest'
            )
        if self.then is not None and others:
            raise ValueError(
                f"then={short(repr(self.then))} goes on from the best export, and of several goals "
                "no export is the best of all; leave then out, or give the study one goal"
            )

    @property
    def goals(self) -> tuple[Goal, ...]:
        """What trials are compared by, the quality first."""
        return read_goals(self.metric, self.direction, costs=self._costs())

    @property
    def has_several_goals(self) -> bool:
        """Whether no trial is the best of all, and a front takes its place."""
        return len(self.goals) > 1

    @property
    def quality(self) -> str:
        """The first goal: the metric that is measured after each epoch."""
        return self.goals[0].name

    @property
    def minimizes(self) -> bool:
        """Whether less of the quality is better."""
        return self.goals[0].minimize

    @property
    def judges_samples(self) -> bool:
        """Whether a goal of the study is measured on samples of the model."""
        return any(goal.name in self._sample_measures() for goal in self.goals)

    def _costs(self) -> tuple[str, ...]:
        """Return the costs that may be goals; a metric of that name comes first."""
        return tuple(name for name in known_costs(self.model) if name not in self.model.metrics)

    def _sample_measures(self) -> tuple[str, ...]:
        if not self.model.judged:
            return ()
        return (*ALL_MEASURES, *(LABEL_MEASURES if self.model.labelled else ()))

    def _fix(self, name: str) -> str:
        """Return what a family lacks for a measure of samples to be its goal; else nothing."""
        needed = []
        if name in (*ALL_MEASURES, *LABEL_MEASURES) and not self.model.judged:
            needed.append("says judged = True and has samples()")
        if name in LABEL_MEASURES and not self.model.labelled:
            needed.append("says labelled = True")
        family = self.model.__name__
        return f"; {family} is measured by {name} if it {' and '.join(needed)}" if needed else ""

    def is_better(self, value: float, than: float | None) -> bool:
        """Return whether a ``value`` of the quality is better than ``than``; any is better than
        None."""
        if than is None:
            return True
        return value < than if self.minimizes else value > than


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study that is loaded and checked.

    path: its file; space: the parameters that ``suggest`` asks for
    configurations: a digest of what ``suggest`` makes of some parameters, fixed values included
    sources: module -> file that it was made of
    code: path -> word for each file that computes its values; version: one word for all of them.
        A worker has neither: its run says which code that is
    """

    name: str
    path: Path
    spec: StudySpec
    space: dict[str, BaseDistribution]
    configurations: str
    sources: Mapping[str, SourceFile] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    version: str = ""

    @property
    def reference(self) -> str:
        """The name or path with which `load_study` finds the study again, from any folder."""
        return self.name if self.path.parent == STUDIES else str(self.path)


def _check_references(references: object) -> None:
    """Raise `ValueError` unless these are names with parameters; `search.setup.checks` tries them
    later."""
    is_good = isinstance(references, Mapping) and all(
        isinstance(name, str) and isinstance(parameters, Mapping)
        for name, parameters in references.items()
    )
    if not is_good:
        raise ValueError(
            f"references={short(repr(references))} is not names with parameters: "
            '{"reported": {"lr": 0.001}}'
        )


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name}={short(repr(value))} is not a whole number from {low} to {high}")


def _is_shape(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 3
        and all(type(size) is int and 1 <= size <= LARGEST_SIDE for size in value)
        and value[0] in (1, 3)
    )
