"""genstudy in Python: what studies have found, their exported models, and what a study file needs.

    import genstudy

    genstudy.trials("cae")                        # a pandas frame, one row a trial
    genstudy.trials("cae", storage="sqlite:////home/me/vision/runs/studies.db")
    model = genstudy.load_export("runs/exports/cae/1")
    dir(genstudy)                                 # all names

Frames are read from ``runs/studies.db`` in the current folder unless ``storage`` names a database.
Each name is imported when it is first used. The frames load no PyTorch, and nothing of them is
called ``models``, so they work beside a project's own package of that name.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

TYPE_CHECKING = False  # type checkers take it for true; `typing` would be one more import
if TYPE_CHECKING:
    from models.acgan import ACGAN, ACGANConfig
    from models.augmentation import AugmentedGAN, AugmentedGANConfig
    from models.autoencoder import Autoencoder, AutoencoderConfig
    from models.base import Model, ModelConfig
    from models.cae import CAE, CAEConfig
    from models.classifier import Classifier, ClassifierConfig
    from models.dense_ae import DenseAE, DenseAEConfig
    from models.export import load_export
    from models.gan import GAN, GANConfig
    from models.stargan import StarGAN, StarGANConfig
    from models.upsample_ae import UpsampleAE, UpsampleAEConfig
    from models.vae import VAE, VAEConfig
    from search.study import StudySpec, Table
    from storage.frames import best, choices, curves, studies, trials

    __version__: str

__all__ = [
    "ACGAN",
    "CAE",
    "GAN",
    "VAE",
    "ACGANConfig",
    "AugmentedGAN",
    "AugmentedGANConfig",
    "Autoencoder",
    "AutoencoderConfig",
    "CAEConfig",
    "Classifier",
    "ClassifierConfig",
    "DenseAE",
    "DenseAEConfig",
    "GANConfig",
    "Model",
    "ModelConfig",
    "StarGAN",
    "StarGANConfig",
    "StudySpec",
    "Table",
    "UpsampleAE",
    "UpsampleAEConfig",
    "VAEConfig",
    "__version__",
    "best",
    "choices",
    "curves",
    "load_export",
    "studies",
    "trials",
]

_PLACES = {
    "models.acgan": ("ACGAN", "ACGANConfig"),
    "models.augmentation": ("AugmentedGAN", "AugmentedGANConfig"),
    "models.autoencoder": ("Autoencoder", "AutoencoderConfig"),
    "models.base": ("Model", "ModelConfig"),
    "models.cae": ("CAE", "CAEConfig"),
    "models.classifier": ("Classifier", "ClassifierConfig"),
    "models.dense_ae": ("DenseAE", "DenseAEConfig"),
    "models.export": ("load_export",),
    "models.gan": ("GAN", "GANConfig"),
    "models.stargan": ("StarGAN", "StarGANConfig"),
    "models.upsample_ae": ("UpsampleAE", "UpsampleAEConfig"),
    "models.vae": ("VAE", "VAEConfig"),
    "search.study": ("StudySpec", "Table"),
    "storage.frames": ("best", "choices", "curves", "studies", "trials"),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}
_ROOMS = ("search", "models", "storage")
_USES = {"search": _ROOMS, "models": ("models",), "storage": ("storage",)}  # room -> what it needs


def _find_root() -> str:
    """Return the folder of the rooms: that of this package, or in a checkout the repository's."""
    beside = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
    installed = os.path.isdir(os.path.join(beside, "search"))  # noqa: PTH112, PTH118
    return beside if installed else os.path.dirname(os.path.dirname(beside))  # noqa: PTH120


_ROOT = _find_root()


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("genstudy")
    if name not in _MODULES:
        message = f"genstudy has no {name!r}; dir(genstudy) shows what there is"
        raise AttributeError(message, name=name, obj=sys.modules[__name__])
    module = _MODULES[name]
    for room in _USES[module.partition(".")[0]]:
        _check_room(room, name)
    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _check_room(room: str, name: str) -> None:
    """Raise `ImportError` if a neighbour has the name of the room that ``name`` needs.

    The neighbour's code is not run by this.
    """
    from importlib.util import find_spec

    loaded = sys.modules.get(room)
    found = find_spec(room) if loaded is None else loaded.__spec__
    place = (found and found.origin) or "no file"
    expected = os.path.join(_ROOT, room, "__init__.py")  # noqa: PTH118
    if os.path.realpath(place) != os.path.realpath(expected):
        raise ImportError(
            f"genstudy.{name} needs genstudy's package {room!r}, but in this process that is "
            f"{place}, and Python keeps one package of a name; rename yours, or use "
            f"genstudy.{name} in a process that does not find it (started in another folder, or "
            "with python -P)"
        )
