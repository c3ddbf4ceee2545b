"""The export of a retrained trial: its numbers on the test images, its pictures, its programs.

    export(context, job)

Rank 1 meets the test images (`search.worker.meeting`). An export folder is whole or not there,
and its programs are checked against the live model. An export that stood in its place is kept under
another name, unless it can be made again. Where the weights of a retraining turn out to be damaged
nothing is measured and nothing exported: the supervisor has them made again.
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
from search.messages import Export, Exported, Exporting
from search.trials.retraining_files import bring_pictures
from search.trials.retraining_record import RetrainingRecord, read_record
from search.trials.shared_exports import put_export
from search.worker.context import WorkerContext
from search.worker.export_guide import program_metadata, write_guide
from search.worker.export_pictures import draw_pictures
from search.worker.meeting import check_rank, meet_test_images
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
    """Write a trial's retraining, checked against the live model; rank 1 is tested."""
    number, rank, repeat = job.number, job.rank, job.repeat
    context.send(Exporting(number=number))
    paths = context.retraining_paths(number, repeat)
    record = read_record(paths.record, token=context.run.token, trial=number, repeat=repeat)
    if not isinstance(record, RetrainingRecord):
        context.tell(f"{paths.record.name} is damaged: trial {number} is trained again")
        return
    if context.files is not None:
        bring_pictures(context.files, paths)
    try:
        model = load_retrained(context, record)
    except CheckpointError as error:
        log.warning("no export: %s", error)
        return
    with same_draws(model.device), evaluating(model):
        model.prepare_export(context.images)
    context.check_images()
    if rank == 1 and record.test is None:
        try:
            record = meet_test_images(context, job, model, record)
            context.check_images()
            share_record(context, job, record)
        except (FinishLost, JobLost):
            log.warning("no export: another run has taken over")
            return
        record.write(paths.record)
    folder = context.run.paths.export(context.run.study, rank)
    earlier = None if can_be_made_again(context, folder) else free_place(folder)
    try:
        _write_folder(context, job, model, record, folder, earlier)
    except (ExportDamaged, FolderRemoved) as error:
        context.tell(f"the export of trial {number} was damaged while it was written: {error}")
        return
    try:
        share_export(context, job, folder)
    except JobLost:
        log.warning("the export is not shared: another run has taken over")
    metric = record.metric
    context.send(
        Exported(
            number=number,
            rank=rank,
            folder=str(folder),
            metric=metric,
            valid=record.valid[metric],
            test=record.test[metric] if record.test else None,
            earlier=None if earlier is None else str(earlier),
            removed=[str(place) for place in remove_earliest(folder)],
        )
    )


def share_record(context: WorkerContext, job: Export, record: RetrainingRecord) -> None:
    """Let other machines see what the test images said, before the record here says so: who brings
    records here meanwhile brings no earlier one. Raises `JobLost`."""
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

    earlier: where that which stood there is kept; None: it can be made again
    Raises `ExportDamaged` and `FolderRemoved` where somebody else touches its files meanwhile.
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
        if job.rank == 1:  # before the folder has its name: a run that is killed here comes back
            _show_winner(context, [staging / file for file in made["pictures"]])


def describe_goals(
    context: WorkerContext, model: Model, record: RetrainingRecord
) -> dict[str, list[dict[str, Any]]]:
    """Return the goals of a study that has several, as this export reaches them: costs are measured
    on it, and all else on the validation images."""
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
    """Whether nothing is lost with what stands in ``folder``: it is an export of this study's,
    nobody has changed it, and the training that it is made of still stands."""
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
    """Show the winner's pictures with the study in the dashboard: its trial takes no more."""
    queue, run = context.queue, context.run
    shown = queue.retry.wait_for(
        lambda: show_with_study(
            run.paths.artifacts, queue.storage, queue.study_id, run.token, pictures
        )
    )
    context.share_artifacts(shown)
