"""Studies: what is searched, on what data, for how long, judged by what.

    study = load_study("cae")                 # search/studies/cae.py
    study = load_study("my/own_study.py")     # anybody's file

A study is one Python file with a ``suggest(trial)`` that returns a model's
configuration and a ``STUDY = StudySpec(...)``. It is checked when it is loaded:
``suggest`` runs against random trials, so that a misspelt name is found now and
not by fifty failing trials.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import optuna
import torch
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import RandomSampler
from optuna.trial import BaseTrial, FixedTrial
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.base import Model, ModelConfig, Shape
from models.images import ImageSplits
from search.calls import unknown
from search.errors import BadVariable, StudyFileError, UnknownStudy
from search.pruners import make_pruner
from search.samplers import SamplerFactory, make_sampler
from storage.errors import StorageError
from storage.paths import check_name

STUDIES = Path(__file__).parent / "studies"
PROBES = 64  # random trials that a study file is tried with

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """What a study file says.

    model: the family; suggest: trial -> its configuration
    data: an image set's name (models/images.py); shape: (C, H, W) it is resized to
    metric: one of the model's, measured on the validation images each epoch
    sampler, pruner: a name, perhaps with Optuna's arguments, or Optuna's own object
    (of a sampler: a function ``seed -> sampler``)
    trials: how many in all; epochs: of each; retrain_epochs: at most, of the best
    patience: epochs without a better validation value that end a retraining
    references: parameters that are known to be good, by name: the first trials try them
    starts_from: a study whose best export every trial starts from
    then: a study that goes on from this one's best export, right after it
    pictures_every: epochs between two pictures of a trial in the dashboard; None: one at its end
    """

    model: type[Model]
    suggest: Callable[[BaseTrial], ModelConfig]
    data: str
    metric: str
    trials: int
    epochs: int
    direction: Direction = "minimize"
    sampler: str | SamplerFactory = "random"
    pruner: str | BasePruner = "median"
    shape: Shape | None = None
    retrain_epochs: int = 200
    patience: int = 4
    seed: int = 0
    references: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    starts_from: str | None = None
    then: str | None = None
    pictures_every: int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.model, type) and issubclass(self.model, Model)):
            raise ValueError(f"model={self.model!r} is not a class derived from models.base.Model")
        if not callable(self.suggest):
            raise ValueError("suggest must be a function: trial -> configuration")
        if self.metric not in self.model.metrics:
            raise ValueError(unknown("metric", str(self.metric), self.model.metrics))
        if self.direction not in ("minimize", "maximize"):
            raise ValueError(f"direction={self.direction!r} is not 'minimize' or 'maximize'")
        for name in ("trials", "epochs", "retrain_epochs", "patience", "pictures_every"):
            value = getattr(self, name)
            if name == "pictures_every" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}={value!r} is not a whole number >= 1")
        if self.shape is not None and not _is_shape(self.shape):
            raise ValueError(f"shape={self.shape!r} is not (channels, height, width)")

    def better(self, value: float, than: float | None) -> bool:
        """Whether ``value`` improves on ``than`` (None: there was none)."""
        if than is None:
            return True
        return value < than if self.direction == "minimize" else value > than


@dataclass(frozen=True, kw_only=True)
class Study:
    """A loaded and checked study: its name, its file, what it says, what it searches.

    configurations: a digest of what `suggest` makes of some parameters, fixed values included
    """

    name: str
    path: Path
    spec: StudySpec
    space: dict[str, BaseDistribution]
    configurations: str

    @property
    def reference(self) -> str:
        """What `load_study` takes to find it again, from any folder."""
        return self.name if self.path.parent == STUDIES else str(self.path)


def study_names() -> list[str]:
    """Studies that come with genstudy."""
    return sorted(path.stem for path in STUDIES.glob("*.py") if path.stem != "__init__")


def load_study(name: str) -> Study:
    """The study of that name, or in the file of that path.

    Raises `UnknownStudy`, or `StudyFileError` with the line of the mistake.
    """
    path = find_study(name)
    with _mistakes_of(path):
        module = _import(path)
        spec = getattr(module, "STUDY", None)
        if not isinstance(spec, StudySpec):
            raise StudyFileError(
                f"{path} defines no STUDY of type StudySpec; end it with STUDY = StudySpec(...)"
            )
        space, configurations = probe(spec)
        try:
            make_sampler(spec.sampler, seed=0, space=space)
            make_pruner(spec.pruner)
        except BadVariable as error:
            raise StudyFileError(f"{path}: {error}") from error
    return Study(name=path.stem, path=path, spec=spec, space=space, configurations=configurations)


def find_study(name: str) -> Path:
    if name.endswith(".py") or "/" in name:
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise UnknownStudy(f"no study file {path}; NAME takes a study's name or a path to one")
        try:
            check_name(path.stem)
        except StorageError as error:
            raise StudyFileError(f"{path}: {error}; rename the file") from error
        return path
    if name not in study_names():
        raise UnknownStudy(unknown("study", name, study_names()))
    return STUDIES / f"{name}.py"


def probe(spec: StudySpec) -> tuple[dict[str, BaseDistribution], str]:
    """Run ``suggest`` on random trials: the parameters it asks for, and what it makes of them.

    The same file always gives the same answer, conditional parameters included.
    """
    study = optuna.create_study(
        storage=optuna.storages.InMemoryStorage(), sampler=RandomSampler(seed=0)
    )
    space: dict[str, BaseDistribution] = {}
    digest = hashlib.sha256()
    for _ in range(PROBES):
        trial = study.ask()
        config = spec.suggest(trial)
        if not isinstance(config, spec.model.config_type):
            raise StudyFileError(
                f"suggest returned {type(config).__name__}, but {spec.model.__name__} "
                f"takes a {spec.model.config_type.__name__}"
            )
        for name, distribution in trial.distributions.items():
            if space.setdefault(name, distribution) != distribution:
                raise StudyFileError(
                    f"suggest asks for {name!r} in two ways, {space[name]} and {distribution}; "
                    "give them two names"
                )
        digest.update(repr(sorted(asdict(config).items())).encode())
        study.tell(trial, 0.0)
    for name, parameters in spec.references.items():
        _check_reference(spec, space, name, parameters)
    return space, digest.hexdigest()[:16]


def _check_reference(
    spec: StudySpec, space: Mapping[str, BaseDistribution], name: str, parameters: Mapping[str, Any]
) -> None:
    """A reference sets all that `suggest` then asks for, within the bounds, and nothing else."""
    for key, value in parameters.items():
        if key not in space:
            raise StudyFileError(f"reference {name!r}: " + unknown("parameter", key, space))
        if not _within(space[key], value):
            raise StudyFileError(f"reference {name!r}: {key}={value!r} is outside {space[key]}")
    trial = FixedTrial(dict(parameters))
    try:
        spec.suggest(trial)
    except ValueError as error:
        raise StudyFileError(f"reference {name!r}: {error}") from error
    if unused := sorted(set(parameters) - set(trial.params)):
        raise StudyFileError(f"reference {name!r} sets {unused[0]!r}, which suggest does not ask")


def _within(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


def check_fit(study: Study, images: ImageSplits, base: Model | None = None) -> None:
    """Build one configuration without memory, to see that model, images and base fit."""
    trial = optuna.create_study(sampler=RandomSampler(seed=0)).ask()
    with _mistakes_of(study.path), torch.device("meta"), _Unfilled():
        config = study.spec.model.fitted(study.spec.suggest(trial), images)
        if base is not None:
            config = study.spec.model.based_on(config, base)
        study.spec.model(config, images.shape)


class _Unfilled(TorchFunctionMode):
    """Weights without memory need no values; drawing them would load PyTorch's compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, nn.init.normal_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _import(path: Path) -> ModuleType:
    """Run a study file as a module; its folder may hold the user's own model file."""
    if path.parent == STUDIES:
        return importlib.import_module(f"search.studies.{path.stem}")
    specification = importlib.util.spec_from_file_location(f"genstudy_study_{path.stem}", path)
    if specification is None or specification.loader is None:
        raise StudyFileError(f"{path} cannot be read as Python")
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    specification.loader.exec_module(module)
    return module


class _mistakes_of:  # noqa: N801  (reads as a with-statement)
    """Turn whatever a study file raises into `StudyFileError` with file and line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, StudyFileError):
            if str(self.path) in str(error):
                return
            raise StudyFileError(f"{self.path}: {error}") from error
        if not isinstance(error, (Exception, SystemExit)):
            return
        place = f"{self.path}{_line_in(self.path, error)}"
        what = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        raise StudyFileError(f"{place}: {type(error).__name__}: {what}") from error


def _line_in(path: Path, error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
    return f", line {lines[-1]}" if lines else ""


def _is_shape(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 3
        and all(isinstance(size, int) and size >= 1 for size in value)
        and value[0] in (1, 3)
    )
