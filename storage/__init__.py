"""Everything that is stored: the trial database, its frames, artifacts and exports.

    from storage import best, curves, trials

    trials("cae")                                       # one row a trial
    curves("cae")                                       # one row a trial and epoch
    best("cae", top=3, storage="postgresql://host/db")  # the leaderboard
    choices("gan-preference")                           # what a person has chosen
    studies()                                           # one row a study

Each name is imported when it is first used: a worker needs no pandas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage.frames import best, choices, curves, studies, trials

__all__ = ["best", "choices", "curves", "studies", "trials"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from storage import frames

        return getattr(frames, name)
    raise AttributeError(f"module 'storage' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
