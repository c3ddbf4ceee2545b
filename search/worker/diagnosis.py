"""How the trials of a judged study go: what each epoch said of the game, and what follows.

    history = [*history, health(result)]
    verdict = lost(bench, history)          # after each epoch: prune if there is one
    attributes = told(final(bench, history))

A game that has collapsed or that one side has won for good is pruned on its own record, without
regard to other trials (`models.evaluation.gan_diagnosis`). PRUNER=none lets it go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from optuna.pruners import NopPruner

from models.errors import DivergedError
from models.evaluation.gan_diagnosis import Health, Kind, Verdict, final_verdict, find_lost_game
from models.training.loop import EpochResult
from search.worker.context import WorkerContext


def health(result: EpochResult) -> Health:
    return Health.of(result.number, result.train, result.valid)


def of_curve(curve: Sequence[Mapping[str, Any]]) -> list[Health]:
    """Of a retraining's epochs, as its record has them."""
    return [Health.of(epoch["number"], epoch["train"], epoch["valid"]) for epoch in curve]


def plain(history: Sequence[Health]) -> list[dict[str, Any]]:
    """As JSON takes it, for a checkpoint's note."""
    return [asdict(item) for item in history]


def read_back(history: Sequence[Mapping[str, Any]]) -> list[Health]:
    return [Health(**item) for item in history]


def lost(context: WorkerContext, history: Sequence[Health]) -> Verdict | None:
    """Why the game need not go on."""
    if context.judge is None or isinstance(context.queue.study.pruner, NopPruner):
        return None
    return find_lost_game(history, context.judge.floor)


def final(context: WorkerContext, history: Sequence[Health]) -> Verdict | None:
    """The verdict of a game that has ended; None where nothing was judged."""
    if context.judge is None or not history:
        return None
    return final_verdict(history, context.judge.floor)


def broken(context: WorkerContext, error: DivergedError) -> Verdict | None:
    """The verdict of a game that left the finite numbers."""
    if context.judge is None:
        return None
    return Verdict(kind=Kind.DIVERGED, epoch=error.epoch, reason=str(error))


def told(verdict: Verdict | None) -> dict[str, Any]:
    """A verdict as attributes of its trial."""
    if verdict is None:
        return {}
    about: dict[str, Any] = {
        "verdict": verdict.kind,
        "verdict_epoch": verdict.epoch,
        "verdict_reason": verdict.reason,
    }
    return about if verdict.modes is None else about | {"modes": verdict.modes}
