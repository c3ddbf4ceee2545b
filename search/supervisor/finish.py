"""After the search: the best TOP are retrained, ranked and exported.

    records = finish(supervisor, top=3)

The supervisor hands retrainings and exports out to its workers, and sets the ranks. One run at a
time does so: a second one under the same RUNS waits, then finds it done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from filelock import FileLock, Timeout

from search.errors import WorkersFailed
from search.messages import Export, Retrain
from search.supervisor.loop import TICK, Supervisor
from search.trials.retraining_record import RetrainingRecord
from search.words import format_count
from storage.files.exports import remove_unfinished

MOST_ROUNDS = 4  # of exporting until all exports are whole: one is enough on a sound disk
MOST_DEATHS = 3  # workers that a retraining or an export may take down


def finish(supervisor: Supervisor, top: int) -> list[dict[str, Any]]:
    """Retrain, rank and export; returns the records of the exports, best first."""
    with _finishing_lock(supervisor):
        run, leaderboard = supervisor.run, supervisor.leaderboard
        supervisor.display.begin_finish()
        supervisor.tell_dashboard("training the best again")
        remove_unfinished(run.paths.exports(run.study))
        for _ in range(MOST_ROUNDS):
            chosen = _retrain_best(supervisor, top)
            if len(chosen) < top:
                supervisor.display.say(
                    f"{format_count(len(chosen), 'usable trial')} for TOP={top}: fewer exports"
                )
            ranked = leaderboard.rank_retrained(chosen)
            jobs = [
                Export(number=number, rank=rank)
                for rank, number in enumerate(ranked, start=1)
                if not leaderboard.is_exported(number, rank)
            ]
            if not jobs:  # what stands on the disk is what was asked for
                return leaderboard.export_records(len(ranked))
            _say_what_moves(supervisor, jobs, ranked)
            _hand_out(supervisor, jobs)
        raise WorkersFailed(
            f"the exports of {run.study} are damaged again and again as soon as they are written; "
            "look after the disk, then the same command goes on"
        )


def _retrain_best(supervisor: Supervisor, top: int) -> list[int]:
    """Retrain the best trials until ``top`` of them have a model; returns those."""
    leaderboard = supervisor.leaderboard
    chosen: list[int] = []
    candidates = leaderboard.ranked_trials()
    while candidates and len(chosen) < top:
        batch, candidates = candidates[: top - len(chosen)], candidates[top - len(chosen) :]
        missing = [number for number in batch if leaderboard.record(number) is None]
        _say_what_is_trained_again(supervisor, missing)
        _hand_out(supervisor, [Retrain(number=number) for number in missing])
        records = {number: leaderboard.record(number) for number in batch}
        chosen += [n for n, record in records.items() if isinstance(record, RetrainingRecord)]
    return chosen


def _say_what_is_trained_again(supervisor: Supervisor, numbers: Sequence[int]) -> None:
    """Say which trainings are not used, since today's would end otherwise."""
    for number in numbers:
        record = supervisor.leaderboard.earlier_record(number)
        if record is not None:
            supervisor.display.say(
                f"trial {number} was retrained for {format_count(record.epochs, 'epoch')} of at "
                f"most {record.most_epochs}; now it is with RETRAIN_EPOCHS="
                f"{supervisor.run.retrain_epochs}"
            )


def _say_what_moves(supervisor: Supervisor, jobs: Sequence[Export], ranked: Sequence[int]) -> None:
    """Say which export takes the place of another trial's."""
    for job in jobs:
        before = supervisor.leaderboard.exported_trial(job.rank)
        if before is None:
            continue
        if before == job.number:
            supervisor.display.say(
                f"rank {job.rank}: the export of trial {before} is damaged, or of an earlier "
                "training: it is made again"
            )
            continue
        now = (
            f"is rank {ranked.index(before) + 1} now"
            if before in ranked
            else (f"is not among the best {len(ranked)} any more (a larger TOP exports it again)")
        )
        supervisor.display.say(
            f"rank {job.rank}: trial {job.number} takes the place of trial {before}, which {now}"
        )


def _hand_out(supervisor: Supervisor, jobs: Sequence[Retrain | Export]) -> None:
    """Give each idle worker a job until all are done; a dead worker's job goes round again."""
    waiting, deaths = list(jobs), 0
    while waiting or supervisor.pool.busy_workers():
        for worker in supervisor.pool.idle_workers():
            if waiting:
                supervisor.pool.send(worker, waiting.pop(0))
        for worker in supervisor.handle_events():
            if isinstance(worker.job, Retrain | Export):  # it died at work
                deaths += 1
                if deaths > MOST_DEATHS:
                    what = type(worker.job).__name__.lower()
                    raise WorkersFailed(
                        f"{what} of trial {worker.job.number} kills its worker again and again; "
                        f"see {worker.log}"
                    )
                waiting.insert(0, worker.job)


@contextmanager
def _finishing_lock(supervisor: Supervisor) -> Iterator[None]:
    """Hold the lock of the one run that retrains and exports."""
    lock = FileLock(supervisor.run.paths.finishing_lock(supervisor.run.study))
    while True:
        try:
            lock.acquire(timeout=TICK)
            break
        except Timeout:
            supervisor.handle_events()
    try:
        yield
    finally:
        lock.release()
