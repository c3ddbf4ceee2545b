"""The final test: the winner of a study is measured on the test images, once.

    record = run_final_test(context, job, model, record)

The trial database keeps the values. A later run that finds them there does not measure again. A run
also stops here if another one has claimed the finish of the study, or with FILES this rank.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from models.base import Model, evaluating
from models.training.loop import evaluate
from search.events import Measuring
from search.jobs import Export
from search.run import place_of
from search.trials.retraining_record import RetrainingRecord
from search.trials.shared_exports import export_file
from search.words import show_text
from search.worker.context import WorkerContext
from search.worker.retrained_model import measure_baseline
from storage.database.finishes import (
    Finish,
    hold_finish,
    hold_tests,
    keep_measured,
    note_test,
)
from storage.database.job_claims import check_job
from storage.files.identity import read_identity

MEASURED = ("test", "test_judge", "tables", "baseline")  # fields of a record: the final test's


def run_final_test(
    context: WorkerContext, job: Export, model: Model, record: RetrainingRecord
) -> RetrainingRecord:
    """Return the record with the values on the test images.

    If the trial database has them already, nothing is measured: another machine has tested this
    training, or the record was damaged since. Raises `FinishLost`, and with FILES `JobLost`.
    """
    queue, token, retry = context.queue, context.run.token, context.queue.retry
    hold = partial(hold_finishing, context, job)
    training = queue.engine, token, name_training(record, context.run.version)
    earlier = retry.wait_for(lambda: note_test(*training, job.number, hold=hold))
    here = read_identity(context.run.paths.finishing_identity(context.run.study))
    remarks = [
        f"this retraining was measured on the test images in {show_text(each.place)}"
        for each in earlier
        if each.runs != here
    ]
    record = replace(record, remarks=[*record.remarks, *remarks])
    for each in earlier:
        known = each.measured or {}
        if known.keys() == set(MEASURED) and isinstance(known["test"], dict):
            return replace(record, **known)
    record = measure_test_images(context, model, record)
    plain = record.to_plain()
    measured = {name: plain.get(name) for name in MEASURED}
    retry.wait_for(lambda: keep_measured(*training, measured, hold=hold))
    return record


def check_rank(context: WorkerContext, job: Export, connection: Connection) -> None:
    """Raise `JobLost` if another machine has claimed this rank."""
    check_job(connection, context.run.token, export_file(job.rank), job.claim)


def hold_finishing(context: WorkerContext, job: Export, connection: Connection) -> Finish:
    """Return the finishing of the study. No other process can change it in this transaction.

    Raises `FinishLost`, and with FILES `JobLost`.
    """
    run = context.run
    if context.files is None:
        return hold_finish(connection, run.token, job.claim)
    check_rank(context, job, connection)
    here = read_identity(run.paths.finishing_identity(run.study))
    return hold_tests(connection, run.token, runs=here, place=place_of(run))


def name_training(record: RetrainingRecord, version: str) -> str:
    """Return a digest of all that decides with which weights a training ends.

    version: of the code that computes the study's values
    """
    identity = {
        **record.identity(),
        "most epochs": record.most_epochs,
        "patience": record.patience,
        "version": version,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def measure_test_images(
    context: WorkerContext, model: Model, record: RetrainingRecord
) -> RetrainingRecord:
    """Return the record with the metrics on the test images, and the model's own tables."""

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
