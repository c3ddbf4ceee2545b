"""The best trials of a search are trained again, each with several seeds.

    chosen = retrain_best(finishing, top=3)      # numbers of at most 3 trials

Two seeds of each are trained first. A trial that is clearly worse than the leader gets no further
seed (`search.trials.seed_race`).
"""

from __future__ import annotations

from collections.abc import Sequence

from search.jobs import Retrain
from search.supervisor.finish_jobs import Finishing, hand_out
from search.supervisor.loop import Supervisor
from search.trials.retraining_record import RetrainingRecord
from search.trials.seed_race import FIRST
from search.trials.standings import race_of
from search.words import format_count, name_seed


def retrain_best(finishing: Finishing, top: int) -> list[int]:
    """Retrain the best trials until ``top`` of them have a model, and race them; returns those.

    A trial whose first seed gives no model is left out, and the next best takes its place. A trial
    whose later seed gives no model stays, and ranks behind the others.
    """
    supervisor = finishing.supervisor
    leaderboard = supervisor.leaderboard
    if finishing.shared is not None:
        finishing.shared.look()
    at_once = range(1, min(FIRST, supervisor.run.seeds) + 1)  # no race is decided between them
    chosen: list[int] = []
    candidates = leaderboard.ranked_trials()
    while candidates and len(chosen) < top:
        batch, candidates = candidates[: top - len(chosen)], candidates[top - len(chosen) :]
        missing = [
            Retrain(number=number, repeat=repeat)
            for repeat in at_once
            for number in batch
            if leaderboard.record(number, repeat) is None
        ]
        _retrain(finishing, missing)
        records = {number: leaderboard.record(number) for number in batch}
        chosen += [n for n, record in records.items() if isinstance(record, RetrainingRecord)]
    _race(finishing, chosen)
    return chosen


def _race(finishing: Finishing, chosen: Sequence[int]) -> None:
    """Train further seeds of the chosen trials until all have theirs, or are clearly worse."""
    supervisor = finishing.supervisor
    seeds, handed = supervisor.run.seeds, set[tuple[int, int]]()
    while True:
        race = race_of(supervisor.leaderboard, chosen)
        missing = [pair for pair in race.missing if pair not in handed]
        if not missing:
            break
        handed.update(missing)
        jobs = [Retrain(number=number, repeat=repeat) for number, repeat in missing]
        _retrain(finishing, jobs)
    for number, count in race.counted.items() if handed else ():  # else it has been said
        record = supervisor.leaderboard.record(number, count)
        if count < seeds and isinstance(record, RetrainingRecord):
            supervisor.display.say(
                f"trial {number} is clearly worse than the best after {count} of "
                f"{format_count(seeds, 'seed')}: no more are trained"
            )


def _retrain(finishing: Finishing, jobs: Sequence[Retrain]) -> None:
    """Have these retrainings trained."""
    say_what_is_trained_again(finishing.supervisor, jobs)
    hand_out(finishing, jobs)


def say_what_is_trained_again(supervisor: Supervisor, jobs: Sequence[Retrain]) -> None:
    """Say which retrainings are not used, because a retraining of today would end otherwise."""
    for job in jobs:
        record = supervisor.leaderboard.earlier_record(job.number, job.repeat)
        if record is not None:
            supervisor.display.say(
                f"trial {job.number}{name_seed(job.repeat)} was retrained for "
                f"{format_count(record.epochs, 'epoch')} of at most {record.most_epochs}; now it "
                f"is with RETRAIN_EPOCHS={supervisor.run.retrain_epochs}"
            )
