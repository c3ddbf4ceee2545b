"""After the search: the best TOP are retrained, each with SEEDS seeds, ranked and exported.

    records = finish(supervisor, top=3)

The supervisor hands retrainings and exports out to its workers, and sets the ranks. Each seed is a
retraining of its own, so that several workers train them at once. A trial that is clearly worse
than the leader gets no further seed (`search.trials.seed_race`). One run at a time finishes a
study: a second run waits, then finds it done (`search.supervisor.finish_claim`).

With FILES the workers of all machines share the retrainings and the exports; each is done once
(`search.supervisor.shared_jobs`). Every machine brings the results of the others into its RUNS. The
machine that claims the finish then only writes down the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from search.errors import WorkersFailed
from search.jobs import Export
from search.supervisor.finish_claim import FinishClaim, FinishedElsewhere
from search.supervisor.finish_jobs import Finishing, hand_out
from search.supervisor.loop import Supervisor
from search.supervisor.retrain_best import retrain_best
from search.supervisor.shared_jobs import share_jobs
from search.trials.retraining_files import exchange_retrainings
from search.trials.shared_exports import Brought, bring_export
from search.trials.standings import race_of, standings_of
from search.words import format_count
from storage.database.finishes import FinishLost
from storage.errors import FilesAway
from storage.files.certificate_words import goals_in_words
from storage.files.exports import remove_unfinished

MOST_ROUNDS = 8  # of exporting until all exports are whole: one is enough on a sound disk


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
                line = "another run has taken over the retraining, because this one was silent"
                supervisor.display.say(line)


def take_exports(
    supervisor: Supervisor, elsewhere: FinishedElsewhere, top: int
) -> list[dict[str, Any]] | FinishedElsewhere:
    """Bring the exports of another machine into this RUNS; returns their records.

    Without FILES, or while FILES is away, they stay where they are.
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


def _make_exports(finishing: Finishing, top: int) -> list[dict[str, Any]]:
    """Retrain, rank and export until every export that was asked for is whole; returns their
    records."""
    supervisor = finishing.supervisor
    run, leaderboard = supervisor.run, supervisor.leaderboard
    is_first = finishing.shared is None or finishing.claim is None
    if finishing.shared is None:  # with FILES, other processes may write exports in this RUNS
        remove_unfinished(run.paths.exports(run.study))
    for past in range(MOST_ROUNDS):
        chosen = retrain_best(finishing, top)
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
        say_what_moves(supervisor, finishing.missing(jobs, standings), ranked)
        hand_out(finishing, jobs)
    raise WorkersFailed(
        f"the exports of {run.study} are damaged again and again as soon as they are written; "
        "check the disk, then the same command goes on"
    )


def _summarize(records: Sequence[dict[str, Any]], metric: str, top: int) -> dict[str, Any]:
    """Return what other machines show about these exports."""
    if not records:
        return {"top": top}
    best = records[0]
    test = (best["test"] or {}).get(metric)
    about = {"trial": best["trial"], "validation": best["valid"][metric], "test": test}
    if best.get("goals"):
        about["goals"] = goals_in_words(best)
    return {"top": top, "exports": len(records), **about}


def say_what_moves(supervisor: Supervisor, jobs: Sequence[Export], ranked: Sequence[int]) -> None:
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
