"""After the search: the best TOP are retrained, each with SEEDS seeds, ranked and exported.

    records = finish(supervisor, top=3)

The supervisor hands retrainings and exports out to its workers, and sets the ranks. Each seed is a
retraining of its own, so that several workers train them at once. Who is clearly worse than the
leader gets no further seed (`search.trials.seed_race`). One run at a time finishes a study: a
second one waits, then finds it done (`search.supervisor.finish_claim`).

With FILES the workers of all machines share out the retrainings and the exports, each done once
(`search.supervisor.shared_jobs`), and every machine brings those of the others into its RUNS. Who
claims the finish then only says what it ended with.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from search.console import shorten_path
from search.errors import WorkersFailed
from search.messages import Export, Retrain
from search.supervisor.finish_claim import FinishClaim, FinishedElsewhere
from search.supervisor.loop import Supervisor
from search.supervisor.shared_jobs import SharedJobs, share_jobs
from search.supervisor.worker_pool import WorkerHandle
from search.trials.retraining_files import exchange_retrainings
from search.trials.retraining_record import FailedRetraining, RetrainingRecord
from search.trials.seed_race import FIRST
from search.trials.shared_exports import Brought, bring_export
from search.trials.standings import Standing, is_exported, race_of, standings_of
from search.words import format_count, name_seed
from storage.database.finishes import FinishLost
from storage.errors import FilesAway
from storage.files.certificate_words import goals_in_words
from storage.files.exports import remove_unfinished

MOST_ROUNDS = 8  # of exporting until all exports are whole: one is enough on a sound disk
MOST_DEATHS = 3  # workers that one retraining or export may take down without an epoch between


def finish(supervisor: Supervisor, top: int) -> list[dict[str, Any]] | FinishedElsewhere:
    """Retrain, rank and export; returns the records of the exports, best first, or which other
    folder RUNS has them.

    Raises `DatabaseWentBack` where trials that had ended are gone: they are searched again first.
    """
    supervisor.display.begin_finish()
    with share_jobs(supervisor) as shared:
        while True:
            records: list[dict[str, Any]] = []
            if shared is not None:
                supervisor.tell_dashboard("training the best again")
                records = _make_exports(Finishing(supervisor, None, shared), top)
            claim = FinishClaim(supervisor)
            try:
                with claim.hold(top) as elsewhere:
                    if elsewhere is not None:
                        return records or take_exports(supervisor, elsewhere, top)
                    supervisor.tell_dashboard("training the best again")
                    records = _make_exports(Finishing(supervisor, claim, shared), top)
                    claim.result = _summarize(records, supervisor.study.spec.quality, top)
                    return records
            except FinishLost:
                line = "another run has taken the retraining over, as none was heard"
                supervisor.display.say(line)


def take_exports(
    supervisor: Supervisor, elsewhere: FinishedElsewhere, top: int
) -> list[dict[str, Any]] | FinishedElsewhere:
    """Bring the exports of another machine into this RUNS; returns their records.

    They stay where they are without FILES, and where FILES is away.
    """
    if supervisor.files is None:
        return elsewhere
    count = elsewhere.result.get("exports")
    try:
        exchange_retrainings(supervisor.files, supervisor.run)
        for rank in range(1, min(top, count if isinstance(count, int) else 0) + 1):
            folder = supervisor.run.paths.export(supervisor.run.study, rank)
            found = supervisor.files.wait_for(partial(bring_export, folder=folder, rank=rank))
            if found in (Brought.DAMAGED, Brought.NOT_THERE):
                where = supervisor.files.files.address
                supervisor.display.say(
                    f"rank {rank}: the export in FILES={where} is damaged, or gone"
                )
    except FilesAway as error:
        supervisor.display.say(f"{error}: the exports are not brought here")
        return elsewhere
    records = supervisor.leaderboard.export_records(top)
    return records or elsewhere


@dataclass(frozen=True)
class Finishing:
    """One supervisor's finish of a study.

    claim: on the finish; None: other machines are at it, too
    shared: what the machines share out; None: there is no FILES, and one does all
    """

    supervisor: Supervisor
    claim: FinishClaim | None
    shared: SharedJobs | None

    def check(self) -> None:
        """Renew what is claimed. Raises `FinishLost`."""
        if self.claim is not None:
            self.claim.check()
        if self.shared is not None:
            self.shared.check()

    def take(self, waiting: list[Retrain | Export]) -> Retrain | Export | None:
        """Take a job out of ``waiting``; None: there is none that is ours to do now."""
        if self.shared is not None:
            return self.shared.take(waiting)
        return waiting.pop(0) if waiting else None

    def take_back(self, job: Retrain | Export) -> bool:
        """Take in that a worker has come to the end of a job. False: it has to be done again."""
        return self.shared is None or self.shared.end(job)

    def unclaimed(self, job: Retrain | Export) -> Retrain | Export:
        """Return a job as it was handed in."""
        if isinstance(job, Retrain):
            return replace(job, claim=None)
        return job if self.shared is None else replace(job, claim=0)

    def exports(self, standings: Sequence[Standing]) -> list[Export]:
        """Return the exports that are missing, or not what is known today."""
        jobs = [
            Export(
                number=standing.number,
                rank=rank,
                repeat=standing.repeat,
                claim=0 if self.claim is None or self.shared is not None else self.claim.fence,
                certificate=json.dumps(standing.certificate.to_plain()),
            )
            for rank, standing in enumerate(standings, start=1)
        ]
        if self.shared is None:
            return self.missing(jobs, standings)
        self.shared.expect(standings)
        return [job for job in jobs if not self.shared.is_done(job)]

    def missing(self, jobs: Sequence[Export], standings: Sequence[Standing]) -> list[Export]:
        """Return those of which no export stands here."""
        ranked, leaderboard = dict(enumerate(standings, start=1)), self.supervisor.leaderboard
        return [job for job in jobs if not is_exported(leaderboard, ranked[job.rank], job.rank)]


def _make_exports(finishing: Finishing, top: int) -> list[dict[str, Any]]:
    """Retrain, rank and export until what stands on the disk is what was asked for; returns the
    records of the exports."""
    supervisor = finishing.supervisor
    run, leaderboard = supervisor.run, supervisor.leaderboard
    is_first = finishing.shared is None or finishing.claim is None
    if finishing.shared is None:  # else other processes may be at exports in this RUNS
        remove_unfinished(run.paths.exports(run.study))
    for past in range(MOST_ROUNDS):
        chosen = _retrain_best(finishing, top)
        if len(chosen) < top and not past and is_first:
            is_front = supervisor.study.spec.has_several_goals
            what = format_count(len(chosen), "usable trial")
            place = " on the front" if is_front else ""
            supervisor.display.say(f"{what}{place} for TOP={top}: fewer exports")
        if race_of(leaderboard, chosen).missing:  # weights were damaged meanwhile
            continue
        standings = standings_of(leaderboard, chosen)
        ranked = [standing.number for standing in standings]
        jobs = finishing.exports(standings)
        if not jobs:
            return leaderboard.export_records(len(ranked))
        _say_what_moves(supervisor, finishing.missing(jobs, standings), ranked)
        _hand_out(finishing, jobs)
    raise WorkersFailed(
        f"the exports of {run.study} are damaged again and again as soon as they are written; "
        "look after the disk, then the same command goes on"
    )


def _summarize(records: Sequence[dict[str, Any]], metric: str, top: int) -> dict[str, Any]:
    """Return what other machines say of these exports."""
    if not records:
        return {"top": top}
    best = records[0]
    test = (best["test"] or {}).get(metric)
    about = {"trial": best["trial"], "validation": best["valid"][metric], "test": test}
    if best.get("goals"):
        about["goals"] = goals_in_words(best)
    return {"top": top, "exports": len(records), **about}


def _retrain_best(finishing: Finishing, top: int) -> list[int]:
    """Retrain the best trials until ``top`` of them have a model, and race them; returns those.

    A trial whose first seed gives no model is none of them: the next best takes its place. One
    whose later seed gives none stays, and ranks behind the others.
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
    """Have these retrainings done."""
    _say_what_is_trained_again(finishing.supervisor, jobs)
    _hand_out(finishing, jobs)


def _say_what_is_trained_again(supervisor: Supervisor, jobs: Sequence[Retrain]) -> None:
    """Say which trainings are not used, since today's would end otherwise."""
    for job in jobs:
        record = supervisor.leaderboard.earlier_record(job.number, job.repeat)
        if record is not None:
            supervisor.display.say(
                f"trial {job.number}{name_seed(job.repeat)} was retrained for "
                f"{format_count(record.epochs, 'epoch')} of at most {record.most_epochs}; now it "
                f"is with RETRAIN_EPOCHS={supervisor.run.retrain_epochs}"
            )


def _say_what_moves(supervisor: Supervisor, jobs: Sequence[Export], ranked: Sequence[int]) -> None:
    """Say which export takes the place of another trial's."""
    for job in jobs:
        before = supervisor.leaderboard.exported_trial(job.rank)
        if before is None:
            continue
        if before == job.number:
            supervisor.display.say(
                f"rank {job.rank}: the export of trial {before} is not whole, or not of today's "
                "trainings: it is made again"
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


def _hand_out(finishing: Finishing, jobs: Sequence[Retrain | Export]) -> None:
    """Give each idle worker a job until all are done; a dead worker's job goes round again.

    A job that takes down worker after worker is given up, and the others are done.
    Raises `WorkersFailed` at the end if an export was given up, `FinishLost`, and
    `DatabaseWentBack`.
    """
    supervisor = finishing.supervisor
    waiting, given_up = list(jobs), list[str]()
    deaths: Counter[Retrain | Export] = Counter()
    supervisor.epochs.clear()
    reached: dict[Retrain | Export, int] = {}
    at_work: dict[int, Retrain | Export] = {}  # by worker
    while True:
        for worker in supervisor.pool.idle_workers():
            done = at_work.pop(worker.index, None)
            if done is not None and not finishing.take_back(done):
                waiting.append(finishing.unclaimed(done))
            if (job := finishing.take(waiting)) is not None:
                at_work[worker.index] = job
                supervisor.pool.send(worker, job)
        if not waiting and not supervisor.pool.busy_workers():
            break
        died = supervisor.handle_events()
        finishing.check()
        if died:
            supervisor.queue.check_counts()
        for worker in died:
            at_work.pop(worker.index, None)
            if not isinstance(worker.job, Retrain | Export):
                continue  # it did not die at work
            job = finishing.unclaimed(worker.job)
            epoch = supervisor.epochs.get((job.number, job.repeat), 0)
            if epoch > reached.get(job, 0):
                deaths[job] = 0  # it gets on: somebody else kills its workers
            reached[job] = epoch
            deaths[job] += 1
            if deaths[job] < MOST_DEATHS:
                waiting.insert(0, job)
            else:
                given_up += _give_up(supervisor, job, worker)
                finishing.take_back(job)
    supervisor.queue.check_counts()
    if given_up:
        raise WorkersFailed("; ".join(given_up))


def _give_up(supervisor: Supervisor, job: Retrain | Export, worker: WorkerHandle) -> list[str]:
    """Do without a job that takes down its workers; return what has to be said at the end.

    Of a retraining a record stays, so that the next call does not try it again: the next best
    trial takes its place.
    """
    how = f"it took down {MOST_DEATHS} workers one after the other"
    if isinstance(job, Export):
        line = f"the export of trial {job.number} as rank {job.rank} is given up: {how}"
        return [f"{line}; see {worker.log}"]
    run = supervisor.run
    path = run.paths.retraining(run.study, job.number, job.repeat).record
    FailedRetraining(
        trial=job.number,
        token=run.token,
        failed=how,
        parameters=supervisor.leaderboard.parameters_of(job.number),
        repeat=job.repeat,
    ).write(path)
    if supervisor.files is not None:
        exchange_retrainings(supervisor.files, run)
    supervisor.display.say(
        f"retraining of trial {job.number}{name_seed(job.repeat)} is given up: {how} (log: "
        f"{worker.log}); without {shorten_path(path)} it is tried again"
    )
    return []
