"""The export of a retrained trial: its values on the test images, its pictures, its programs.

    export(context, job)

Only rank 1 is measured on the test images (`search.worker.final_test`). An export folder is whole
or not there, and its programs are compared with the live model. An earlier export in its place is
kept under another name, unless it can be made again. If the weights of a retraining are damaged,
nothing is measured or exported, and the supervisor has the trial trained again.
"""

from __future__ import annotations

import json
import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

from models.base import Model, evaluating
from models.costs import measure_costs
from models.data.images import STACKED
from models.errors import CheckpointError, ExportDamaged
from models.evaluation.quality_table import Judged, quality_table
from models.export import check_export, export_size, write_export
from models.seeds import same_draws
from search.events import Exported, Exporting
from search.jobs import Export
from search.trials.retraining_files import bring_pictures
from search.trials.retraining_record import RetrainingRecord, read_record
from search.trials.shared_exports import put_export
from search.worker.context import WorkerContext
from search.worker.export_guide import program_metadata, write_guide
from search.worker.export_pictures import draw_pictures
from search.worker.final_test import check_rank, run_final_test
from search.worker.retrained_model import load_retrained, read_trial
from storage.database.finishes import (
    FinishLost,
)
from storage.database.job_claims import JobLost
from storage.errors import FilesAway, FileTooLarge, FolderRemoved
from storage.files.artifacts import show_with_study
from storage.files.atomic import temporary_folder
from storage.files.exports import (
    atomic_folder,
    free_place,
    holds_other_files,
    publish,
    read_provenance,
    remove_earliest,
)

log = logging.getLogger("genstudy")


def export(context: WorkerContext, job: Export) -> None:
    """Export a retrained trial. Rank 1 is measured on the test images first."""
    context.send(Exporting(number=job.number))
    opened = _open_retraining(context, job)
    if opened is None:
        return
    model, record = opened
    if job.rank == 1 and record.test is None:
        try:
            record = _test_winner(context, job, model, record)
        except (FinishLost, JobLost):
            log.warning("no export: another run has taken over")
            return
    folder = context.run.paths.export(context.run.study, job.rank)
    earlier = None if can_be_made_again(context, folder) else free_place(folder)
    try:
        _write_folder(context, job, model, record, folder, earlier)
    except (ExportDamaged, FolderRemoved) as error:
        context.tell(f"the export of trial {job.number} was damaged while it was written: {error}")
        return
    try:
        share_export(context, job, folder)
    except JobLost:
        log.warning("the export is not shared: another run has taken over")
    metric = record.metric
    context.send(
        Exported(
            number=job.number,
            rank=job.rank,
            folder=str(folder),
            metric=metric,
            valid=record.valid[metric],
            test=record.test[metric] if record.test else None,
            earlier=None if earlier is None else str(earlier),
            removed=[str(place) for place in remove_earliest(folder)],
        )
    )


def _open_retraining(context: WorkerContext, job: Export) -> tuple[Model, RetrainingRecord] | None:
    """Return the model of a retraining, ready for its export, and its record.

    None: one of the two is damaged, so that the supervisor has the trial trained again.
    """
    paths, token = context.retraining_paths(job.number, job.repeat), context.run.token
    record = read_record(paths.record, token=token, trial=job.number, repeat=job.repeat)
    if not isinstance(record, RetrainingRecord):
        context.tell(f"{paths.record.name} is damaged: trial {job.number} is trained again")
        return None
    if context.files is not None:
        bring_pictures(context.files, paths)
    try:
        model = load_retrained(context, record)
    except CheckpointError as error:
        log.warning("no export: %s", error)
        return None
    with same_draws(model.device), evaluating(model):
        model.prepare_export(context.images)
    context.check_images()
    return model, record


def _test_winner(
    context: WorkerContext, job: Export, model: Model, record: RetrainingRecord
) -> RetrainingRecord:
    """Return the record with the values on the test images; it is written and shared.

    Raises `FinishLost`, and with FILES `JobLost`.
    """
    record = run_final_test(context, job, model, record)
    context.check_images()
    share_record(context, job, record)
    record.write(context.retraining_paths(job.number, job.repeat).record)
    return record


def share_record(context: WorkerContext, job: Export, record: RetrainingRecord) -> None:
    """Put a record with test values into FILES, before it is written under RUNS.

    A process that fetches records meanwhile then gets no earlier one. Raises `JobLost`.
    """
    access, paths = context.files, context.retraining_paths(job.number, job.repeat)
    if access is None:
        return
    with temporary_folder(paths.folder) as place:
        copy = place / paths.record.name
        record.write(copy)
        guard = partial(check_rank, context, job)
        try:
            access.wait_for(lambda files: files.put(paths.stem, copy, guard=guard))
        except FilesAway as error:
            context.tell(f"{error}: what the test images said is in {paths.record} alone")


def share_export(context: WorkerContext, job: Export, folder: Path) -> None:
    """Let other machines see an export. Raises `JobLost`."""
    access = context.files
    if access is None:
        return
    guard = partial(check_rank, context, job)
    try:
        access.wait_for(lambda files: put_export(files, job.rank, folder, guard=guard))
    except (FilesAway, FileTooLarge) as error:
        context.tell(f"{error}: the export of rank {job.rank} is in {folder} alone")


def _write_folder(
    context: WorkerContext,
    job: Export,
    model: Model,
    record: RetrainingRecord,
    folder: Path,
    earlier: Path | None,
) -> None:
    """Write the export, which appears in ``folder`` when it is whole.

    earlier: where the export that stood there is kept; None: it can be made again
    Raises `ExportDamaged` and `FolderRemoved` if somebody else changes its files meanwhile.
    """
    with atomic_folder(folder, needs=export_size(model), earlier=earlier) as staging:
        write_export(model, staging, program_metadata(context, record))
        made: dict[str, Any] = {"rank": job.rank}
        if job.certificate is not None:
            made["certificate"] = json.loads(job.certificate)
        made["output_differences"] = check_export(model, staging)
        made |= describe_goals(context, model, record)
        with evaluating(model):
            made |= write_guide(context, model, record, staging)
        made["tables"] = make_tables(context, model, record)
        made["pictures"] = draw_pictures(context, model, record, staging)
        publish(staging, {**record.to_plain(), **made})
        if job.rank == 1:  # before the folder gets its name: after a kill it is done again
            _show_winner(context, [staging / file for file in made["pictures"]])


def describe_goals(
    context: WorkerContext, model: Model, record: RetrainingRecord
) -> dict[str, list[dict[str, Any]]]:
    """Return the values of this export in a study's goals; nothing if the study has one goal.

    Costs are measured on the export, all other goals on the validation images.
    """
    spec = context.spec
    if not spec.has_several_goals:
        return {}
    costs = measure_costs(model, [goal.name for goal in spec.goals if goal.is_cost])
    values = {**record.valid, **costs}
    searched = read_trial(context, record.trial).values or []
    return {
        "goals": [
            {
                "name": goal.name,
                "direction": goal.direction,
                "value": values[goal.name],
                "searched": before,
            }
            for goal, before in zip(spec.goals, searched, strict=True)
        ]
    }


def can_be_made_again(context: WorkerContext, folder: Path) -> bool:
    """Whether the content of ``folder`` may be replaced: the same export can be made again.

    It has to be an export of this study that nobody has changed, and its retraining has to be kept.
    """
    if not os.path.lexists(folder):
        return True
    found = read_provenance(folder)
    number, repeat = (found or {}).get("trial"), (found or {}).get("repeat", 1)
    if found is None or not (isinstance(number, int) and isinstance(repeat, int)):
        return False
    record = read_record(
        context.retraining_paths(number, repeat).record,
        token=context.run.token,
        trial=number,
        repeat=repeat,
    )
    is_kept = isinstance(record, RetrainingRecord) and record.made == found.get("made")
    return is_kept and not holds_other_files(folder, found)


def make_tables(
    context: WorkerContext, model: Model, record: RetrainingRecord
) -> list[dict[str, Any]]:
    """Return the tables of the model card: how good the samples are, and the model's own."""
    measured = []
    if record.judge is not None:
        measured.append(Judged(part="validation", measured=record.valid, record=record.judge))
    if record.test is not None and record.test_judge is not None:
        measured.append(Judged(part="test", measured=record.test, record=record.test_judge))
    quality = [quality_table(*measured).to_plain()] if measured else []
    if context.evaluator is not None and context.images.name == STACKED:
        from models.evaluation.mode_table import mode_table  # other studies need not load it

        quality.append(mode_table(model, context.evaluator, context.images).to_plain())
    return [*quality, *record.tables]


def _show_winner(context: WorkerContext, pictures: list[Path]) -> None:
    """Show the winner's pictures with the study in the dashboard: its trial has ended."""
    queue, run = context.queue, context.run
    shown = queue.retry.wait_for(
        lambda: show_with_study(
            run.paths.artifacts, queue.storage, queue.study_id, run.token, pictures
        )
    )
    context.share_artifacts(shown)
