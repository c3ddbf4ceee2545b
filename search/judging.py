"""The judge of a study whose models are judged by their samples.

    judge = open_study_judge(run, spec, images, claims, say, interrupted)

It is opened once a worker, before its first trial: the extractor behind it is trained by the
first worker that needs it, and read by all others. The study remembers which extractor its
values were measured with; another one's would not compare, and are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from models.images import ImageSplits
from models.measures import ALL_MEASURES
from search.bases import open_base
from search.bench import Bench
from search.claims import Claims
from search.run import StudyRun
from search.study import StudySpec
from storage.database import study_lock

if TYPE_CHECKING:
    from models.quality import Judge

ATTRIBUTE = "judge"  # of the study
SECOND = 1  # seed of the extractor that a study's own one is checked with


def is_judged(spec: StudySpec) -> bool:
    """Whether the study's values are measured on samples."""
    return spec.model.judged and spec.metric in ALL_MEASURES


def open_study_judge(
    run: StudyRun,
    spec: StudySpec,
    images: ImageSplits,
    claims: Claims,
    say: Callable[..., None],
    interrupted: Callable[[], bool],
) -> Judge | None:
    """None for a study that needs none.

    Raises `ExtractorError` when the study's values were measured with another extractor,
    `Interrupted` when asked to stop while one is trained.
    """
    if not is_judged(spec):
        return None
    from models.quality import open_judge  # what other studies need not wait for

    known = claims.patience.wait_for(lambda: claims.study.user_attrs.get(ATTRIBUTE))
    judge = open_judge(
        images,
        run.paths.cache,
        encoder=open_base(run.encoder_folder),
        expected=known and known["hash"],
        progress=lambda line: say("preparing", line=line),
        interrupted=interrupted,
    )
    claims.patience.wait_for(lambda: _remember(claims, judge))
    return judge


def _remember(claims: Claims, judge: Judge) -> None:
    """Under a lock: machines that share a study may each have trained an extractor of their own."""
    with study_lock(claims.engine, claims.study_id):
        known = claims.study.user_attrs.get(ATTRIBUTE)
        if known is None:
            claims.study.set_user_attr(ATTRIBUTE, judge.record)
        else:
            judge.extractor.check(known["hash"])


def told(judge: Judge | None) -> dict[str, Any]:
    """What stands with every trial: its value says nothing without it."""
    if judge is None:
        return {}
    record = judge.record
    about = {"extractor": record["hash"][:16], "judged_samples": record["samples"]}
    if record["accuracy"] is not None:
        about["extractor_accuracy"] = round(record["accuracy"], 5)
    return about | {"floor": record["floor"]["frechet"]}


def test_judge(bench: Bench) -> Judge:
    """With the same extractor, but by the test images."""
    from models.quality import Judge

    assert bench.judge is not None
    return Judge(bench.judge.extractor, bench.images, part="test", count=bench.judge.count)


def open_second(
    run: StudyRun, images: ImageSplits, say: Callable[..., None], interrupted: Callable[[], bool]
) -> Judge:
    """A judge that has nothing in common with the study's own but the images."""
    from models.quality import open_judge

    return open_judge(
        images,
        run.paths.cache,
        seed=SECOND,
        progress=lambda line: say("preparing", line=line),
        interrupted=interrupted,
    )
