"""The export of a retrained trial: its numbers on the test images, its pictures, its programs.

    export(context, job)

The test images are met once, by rank 1: metrics, and the tables that the model has to show. The
record keeps them, and a run that finds them does not look again. Nor does a run whose claim, on the
finish of the study or with FILES on this rank, is another's by now. An export folder is whole or
not there, and its programs are checked against the live model. An export that stood in its place is
kept under another name, unless it can be made again. Where the weights of a retraining turn out to
be damaged nothing is measured and nothing exported: the supervisor has them made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from models.base import Model, evaluating
from models.costs import measure_costs
from models.data.images import STACKED
from models.errors import CheckpointError, ExportDamaged
from models.evaluation.gan_figure import draw_game
from models.evaluation.quality_table import Judged, quality_table
from models.evaluation.step_losses import draw_step_losses
from models.export import check_export, export_size, write_export
from models.figures.curves import draw_learning_curve
from models.figures.sample_history import draw_learned, write_animation
from models.results import file_stem
from models.seeds import same_draws
from models.training.loop import evaluate
from models.training.step_curve import StepCurve
from search.messages import Drawing, Export, Exported, Exporting, Measuring
from search.run import place_of
from search.trials.retraining_files import bring_pictures
from search.trials.retraining_record import RetrainingRecord, read_record
from search.trials.shared_exports import export_file, put_export
from search.words import show_text
from search.worker.context import WorkerContext
from search.worker.diagnosis import health_of_curve
from search.worker.export_guide import program_metadata, write_guide
from search.worker.pictures import without_picture
from search.worker.retrained_model import load_retrained, measure_baseline, read_trial
from storage.database.finishes import (
    Finish,
    FinishLost,
    hold_finish,
    hold_meetings,
    keep_measured,
    note_meeting,
)
from storage.database.job_claims import JobLost, check_job
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
from storage.files.identity import read_identity

MEASURED = ("test", "test_judge", "tables", "baseline")  # of a record: what test images say

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


def check_rank(context: WorkerContext, job: Export, connection: Connection) -> None:
    """Raise `JobLost` where another machine has claimed this rank since."""
    check_job(connection, context.run.token, export_file(job.rank), job.claim)


def hold_finishing(context: WorkerContext, job: Export, connection: Connection) -> Finish:
    """Return the finishing of the study, of which this transaction is the only one that writes.

    Raises `FinishLost`, and with FILES `JobLost`.
    """
    run = context.run
    if context.files is None:
        return hold_finish(connection, run.token, job.claim)
    check_rank(context, job, connection)
    here = read_identity(run.paths.finishing_identity(run.study))
    return hold_meetings(connection, run.token, runs=here, place=place_of(run))


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


def name_training(record: RetrainingRecord, version: str) -> str:
    """Return a word that is another for each training that may end with other weights.

    version: of the code that computes the study's values
    """
    identity = {
        **record.identity(),
        "most epochs": record.most_epochs,
        "patience": record.patience,
        "version": version,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def meet_test_images(
    context: WorkerContext, job: Export, model: Model, record: RetrainingRecord
) -> RetrainingRecord:
    """Return the record with what the test images say, which no other has asked of this training.

    What they have said of it on another machine, or before its record was damaged, counts.
    Raises `FinishLost`, and with FILES `JobLost`.
    """
    queue, token, retry = context.queue, context.run.token, context.queue.retry
    hold = partial(hold_finishing, context, job)
    meeting = queue.engine, token, name_training(record, context.run.version)
    met = retry.wait_for(lambda: note_meeting(*meeting, job.number, hold=hold))
    here = read_identity(context.run.paths.finishing_identity(context.run.study))
    remarks = [
        f"the test images met this retraining in {show_text(each.place)}"
        for each in met
        if each.runs != here
    ]
    record = replace(record, remarks=[*record.remarks, *remarks])
    for each in met:
        known = each.measured or {}
        if known.keys() == set(MEASURED) and isinstance(known["test"], dict):
            return replace(record, **known)
    record = test_once(context, model, record)
    plain = record.to_plain()
    measured = {name: plain.get(name) for name in MEASURED}
    retry.wait_for(lambda: keep_measured(*meeting, measured, hold=hold))
    return record


def test_once(context: WorkerContext, model: Model, record: RetrainingRecord) -> RetrainingRecord:
    """Return the record with what the test images say: metrics, and the model's own tables."""

    def say(what: str) -> None:
        context.send(Measuring(number=record.trial, what=what))

    with evaluating(model):
        tables = [table.to_plain() for table in model.tables(context.images, say)]
    test = evaluate(model, context.images.test)
    test_judge = None
    if context.evaluators is not None:
        say("samples beside the test images")
        evaluator = context.evaluators.open_for_test()
        test |= evaluator.measure_model(model, context.images)
        if evaluator.labels is not None:
            tables.append(evaluator.labels.table(model, context.images).to_plain())
        test_judge = evaluator.record
    if context.run.inception is not None:
        from models.evaluation.inception_table import inception_table  # others need not load it

        weights = Path(context.run.inception)
        tables.append(inception_table(model, context.images, weights, say=say).to_plain())
    beaten = measure_baseline(model, context.images, record.metric, "test")
    baseline = None if beaten is None else {**(record.baseline or {}), **beaten}
    return replace(record, tables=tables, test=test, test_judge=test_judge, baseline=baseline)


def draw_pictures(
    context: WorkerContext, model: Model, record: RetrainingRecord, folder: Path
) -> dict[str, str]:
    """Draw learning curves, the model's own pictures and its training; returns file -> caption."""
    title = f"{record.study} trial {record.trial}"
    captions = _draw_curves(record, folder, f"{title}, retrained")
    part = "valid" if record.test is None else "test"
    # a disk that is full is said of the export as a whole, and one of them is enough
    with (
        without_picture(context, what="pictures of exports", unless=(OSError,)),
        evaluating(model),
    ):
        for picture in model.pictures(context.images, part):
            context.send(Drawing(number=record.trial, what=picture.name))
            with without_picture(context, what="pictures of exports", unless=(OSError,)):
                picture.draw(folder / picture.file, title)
                captions[picture.file] = picture.caption
            if picture.file not in captions:
                (folder / picture.file).unlink(missing_ok=True)
    captions |= draw_training(context, record, folder, title)
    paths = context.retraining_paths(record.trial, record.repeat)
    for epoch in range(1, record.best_epoch + 1):
        if paths.picture(epoch).exists():
            shutil.copy(paths.picture(epoch), folder / f"epoch_{epoch:03}.png")
            captions[f"epoch_{epoch:03}.png"] = f"after epoch {epoch}"
    return captions


def draw_training(
    context: WorkerContext, record: RetrainingRecord, folder: Path, title: str
) -> dict[str, str]:
    """Draw how a GAN's training went and what the same noise became; returns file -> caption."""
    captions = {}
    if record.judge is not None:
        history = health_of_curve(record.curve)
        words = f"{title}, retrained · kept: epoch {record.best_epoch}"
        draw_game(folder / "game.png", history, record.judge["floor"], words)
        captions["game.png"] = "how the training went; coloured where it went wrong"
    if record.steps is not None:
        steps = StepCurve.from_plain(record.steps)
        draw_step_losses(folder / "losses.png", steps, f"{title}, retrained · single steps")
        captions["losses.png"] = "the losses of G and D in single steps, and their running means"
    rows = context.retraining_paths(record.trial, record.repeat).rows()
    rows = {epoch: path for epoch, path in rows.items() if epoch <= record.epochs}
    if rows:
        best = record.best_epoch
        draw_learned(folder / "learned.png", rows, f"{title}, retrained", best=best)
        captions["learned.png"] = "what the same noise became, epoch after epoch"
        write_animation(folder / "learned.gif", rows)
        captions["learned.gif"] = "the same, moving"
    return captions


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


def _draw_curves(record: RetrainingRecord, folder: Path, title: str) -> dict[str, str]:
    """Draw a picture for each metric that was measured on both parts, the study's first.

    Of a GAN the study's alone: `draw_training` shows the others. Returns file -> caption.
    """
    chosen, first = record.metric, record.curve[0]
    others = [name for name in first["valid"] if name in first["train"] and name != chosen]
    if record.judge is not None and "loss_d" in first["train"]:
        others = []
    captions = {}
    for metric in (chosen, *others):
        suffix = "" if metric == chosen else f"_{file_stem(metric)}"
        file = f"learning_curve{suffix}.png"
        draw_learning_curve(
            folder / file,
            {
                name: [epoch[part][metric] for epoch in record.curve]
                for part, name in (("train", "train"), ("valid", "validation"))
                if metric in first[part]
            },
            metric=metric,
            title=title,
            best_epoch=record.best_epoch,
        )
        captions[file] = f"{metric} over the epochs"
    return captions
