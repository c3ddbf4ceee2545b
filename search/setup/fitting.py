"""Whether a study's models and a set of images fit together, and what a person has to know of it.

    check_needs(study, images)                    # raises `DataError`: nothing is searched in vain
    batches = describe_batches(study, images, least_steps=60)    # None: they stay as they are
    remarks = describe_fit(study, images, least_steps=60)

The family, its judges and what measures its models each say what images they need. Remarks are
lines on what is done to the images, or on too few of them. They are shown at the start, under the
final table and in model cards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from models.data.description import describe_losses
from models.data.images import ImageSplits
from models.model_config import fit_batch
from models.needs import PARTS, Needs, count_classes, is_unclassed
from search.setup.mistakes import mistakes_of
from search.setup.sampled import sample_configurations
from search.study import Study

# Steps that an epoch of somebody's own images has, where there are enough of them. A CAE on 1,094
# colour images has an error of 0.059 after 6 epochs of 20 steps, and of 0.040 after 6 of 68, which
# take as long.
STEPS = 60
FEW_STEPS = 20  # with fewer, an epoch hardly changes the weights
FEATURES = 64  # fewer images than features have no full covariance


def is_folder(data: str) -> bool:
    """Whether the set called ``data`` is a folder of somebody's own images."""
    return data.startswith("folder:")


def check_needs(study: Study, images: ImageSplits) -> None:
    """Raise `DataError` where ``images`` are too few, or of too few classes, for the study."""
    for needs in dict.fromkeys(_study_needs(study, images)):
        needs.check(images)
    if _measures_labels(study):
        from models.evaluation.label_evaluator import find_rows

        for part in ("valid", "test"):
            find_rows(images, part)


def _measures_labels(study: Study) -> bool:
    """Whether samples are measured by the labels that they are to show."""
    return study.spec.judges_samples and study.spec.model.labelled


def needs_encoder(study: Study, images: ImageSplits) -> bool:
    """Whether only an autoencoder's codes can judge samples.

    That is so if there are no classes, and no attributes that the model is given.
    """
    has_labels = study.spec.model.labelled and images.train.attributes is not None
    return is_unclassed(images) and not has_labels


def _study_needs(study: Study, images: ImageSplits) -> Iterator[Needs]:
    """Yield the needs of the family, of its judges, and of what the judges measure."""
    family = study.spec.model
    for config in sample_configurations(study):
        yield family.needs(config)
    if study.spec.judges_samples:
        from models.evaluation.feature_net import FeatureNet, FeatureNetConfig
        from models.evaluation.sample_evaluator import SAMPLE_NEEDS

        yield SAMPLE_NEEDS
        if not is_unclassed(images):
            yield FeatureNet.needs(FeatureNetConfig())


def describe_fit(study: Study, images: ImageSplits, *, least_steps: int) -> list[str]:
    """Return a line for all that a person has to know of these images in this study.

    least_steps: of an epoch, for which batches are made smaller; 0: they stay as they are
    """
    return [
        *_describe_shape(study, images),
        *_describe_steps(study, images, least_steps),
        *_describe_classes(study, images),
        *_describe_labels(study, images),
        *_describe_judging(study, images),
    ]


def _describe_shape(study: Study, images: ImageSplits) -> Iterator[str]:
    """Yield what is done to the images of a folder so that all have one shape."""
    found = images.folder
    if found is None:
        return
    losses = describe_losses(found, images.shape)
    if losses:
        shape = "x".join(map(str, images.shape))
        asked = "" if study.spec.adapts else ", as the study asks (adapts=True fits it to them)"
        yield f"images become {shape}{asked}: {'; '.join(losses)}"


class _Pace(NamedTuple):
    """A configuration's batch before and after it was fitted, and the steps of its epochs."""

    before: int
    after: int
    steps: int


def _paces(study: Study, images: ImageSplits, least_steps: int) -> Iterator[_Pace]:
    family = study.spec.model
    for sampled in sample_configurations(study):
        with mistakes_of(study.path):
            config = family.fitted(sampled, images)
            shown = family.images_per_epoch(config, images)
        fitted = fit_batch(config, shown, least_steps=least_steps)
        steps = max(1, shown // fitted.images_per_step)
        yield _Pace(config.batch_size, fitted.batch_size, steps)


def describe_batches(study: Study, images: ImageSplits, *, least_steps: int) -> str | None:
    """Return how large batches are where they are made smaller; None: they stay as they are."""
    smaller = [pace for pace in _paces(study, images, least_steps) if pace.after < pace.before]
    if not smaller:
        return None
    most, before = max(pace.after for pace in smaller), max(pace.before for pace in smaller)
    steps = min(pace.steps for pace in smaller)
    return f"batches have at most {most} images, not {before}: {steps} steps or more an epoch"


def _describe_steps(study: Study, images: ImageSplits, least_steps: int) -> Iterator[str]:
    """Yield how few steps an epoch has."""
    steps = min(pace.steps for pace in _paces(study, images, least_steps))
    if steps < FEW_STEPS:
        yield (
            f"an epoch has only {steps} {'step' if steps == 1 else 'steps'}: "
            f"{len(images.train):,} training images are few; more images or more EPOCHS help"
        )


def _describe_classes(study: Study, images: ImageSplits) -> Iterator[str]:
    """Yield which classes a model that learns classes is not measured by."""
    needed = study.spec.model.needs(sample_configurations(study)[0])
    has_attributes = needed.or_attributes and images.train.attributes is not None
    if not needed.classes or has_attributes or _measures_labels(study):
        return
    counts = count_classes(images)
    for part in ("valid", "test"):
        without = [name for name, found in counts.items() if not found[part]]
        if without:
            more = f" and {len(without) - 1} more" if len(without) > 1 else ""
            yield (
                f"the class {without[0]!r}{more} has no {PARTS[part]} images: how well it is "
                "recognised is not measured there"
            )


def _describe_labels(study: Study, images: ImageSplits) -> Iterator[str]:
    """Yield which labels that models are given are not measured in their samples."""
    if not _measures_labels(study):
        return
    from models.evaluation.label_evaluator import FEWEST, unmeasured_labels

    sides = "" if images.train.attributes is None else " on a side of the middle"
    for part in ("valid", "test"):
        if without := unmeasured_labels(images, part):
            have, them, more = "has", "it", ""
            if len(without) > 1:
                have, them, more = "have", "them", f" and {len(without) - 1} more"
            yield (
                f"{without[0]!r}{more} {have} fewer than {FEWEST} {PARTS[part]} images{sides}, or "
                f"fewer than other labels: whether samples show {them} is not measured there"
            )


def _describe_judging(study: Study, images: ImageSplits) -> Iterator[str]:
    """Yield where samples are measured beside very few images, or in an encoder's codes."""
    if not study.spec.judges_samples:
        return
    fewest = min(len(images.valid), len(images.test))
    if fewest < FEATURES:
        yield (
            f"samples are measured beside {fewest} images: Fréchet distances of so few are rough"
        )
    if study.spec.second_judge and is_unclassed(images):
        yield "without classes there is no second judge of the samples"
