"""The evaluator of a generator's samples, by their features: it gives the objective of every GAN.

    extractor = make_extractor(images, Path("runs/cache"))
    evaluator = open_evaluator(extractor, images)  # looks at the real images once
    evaluator(samples)                             # {"frechet": 12.3, "precision": 0.71, ...}
    evaluator.floor                                # real images' measures: as good as it gets
    evaluator.record                               # is stored beside every value

The real images are the validation images; the test images for a study's winner. The floor holds
the measures of real training images, as many as there are samples: those that a generator gets
which has learnt its training images by heart. A Fréchet distance falls with the number of samples,
so that number is part of the measure: `SampleEvaluator.count`. Where there are more real images,
the Fréchet distance and the classes are of all of them, and all else is of as many as there are
samples (`models/data/mixed_rows.py`).

    frechet      Fréchet distance of the features (`models/evaluation/frechet.py`); lower is better
    kid, kid_sd  kernel distance (`models/evaluation/kid.py`), mean and deviation over subsets
    precision, realism, recall, density, coverage    see `models/evaluation/prdc.py`
    diversity    distance of a sample to the next most alike sample, over that of real images:
                 about 1, and 0 for a generator that repeats itself
    modes        classes with a fair share of clear samples
    class_kl     nats between the samples' classes and the real ones; 0: the same balance,
                 log K: the samples show one of K equal classes

Shape legend: N samples, C channels, H/W pixels, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.base import Model, evaluating
from models.data.images import Images, ImageSplits
from models.data.mixed_rows import mixed_rows
from models.evaluation.feature_cache import content_digest
from models.evaluation.features import ExtractedFeatures, Extractor
from models.evaluation.frechet import Moments, frechet_distance
from models.evaluation.kid import KernelDistance
from models.evaluation.label_evaluator import LabelEvaluator
from models.evaluation.measures import CLASS_MEASURES, MEASURES
from models.evaluation.prdc import K, neighbourhoods, radii
from models.kernels.fast_convolution import fast_convolutions
from models.needs import Needs
from models.networks.pixel_range import outside_unit
from models.seeds import same_draws

# A neighbourhood reaches to the K-th nearest other image.
SAMPLE_NEEDS = Needs(what="the measuring of samples", train=K + 1, valid=K + 1, test=K + 1)
SAMPLES = 5000  # measured at once, where there are as many training images
# The classifier is at least as sure of a clear sample; 99 % of MNIST's and 85 % of Fashion-MNIST's
# real images are clear.
CONFIDENCE = 0.8
MODE_SHARE = 0.1  # of a class's real share: fewer clear samples are strays, not a mode


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What an evaluator keeps of the real images.

    moments: of the features of all; histogram: shares of their classes (K,), None without classes
    features: those of N images (N, D), with the radii of their balls (N,)
    kernels: their kernel distance from samples
    """

    moments: Moments
    histogram: Tensor | None
    features: Tensor
    radii: Tensor
    kernels: KernelDistance

    @classmethod
    def of(cls, seen: ExtractedFeatures, classes: int, rows: Tensor) -> Reference:
        """Return the reference for as many samples as ``rows``; ``seen`` is of all real images."""
        features = seen.features[rows]
        return cls(
            moments=Moments.of(seen.features),
            histogram=_class_histogram(seen, classes),
            features=features,
            radii=radii(features),
            kernels=KernelDistance(features),
        )


class SampleEvaluator:
    """Measures samples against the real images of one part.

    count: samples that it takes each time: as many as asked for, or as there are training images
    telling: tells the labels that images show, for models that are given some
    labels: measures with it whether a model's images have the labels that they should
    floor: its measures of ``count`` real training images
    measures: names of what it returns

    It takes 0.7 s for 5,000 samples of 28x28x1 on one core; an epoch of even a small DCGAN on
    48,000 images takes 24 s.
    """

    def __init__(
        self,
        extractor: Extractor,
        images: ImageSplits,
        *,
        part: str = "valid",
        count: int = SAMPLES,
        telling: Extractor | None = None,
    ) -> None:
        real: Images = getattr(images, part)
        self.extractor, self.part = extractor, part
        self.count = min(count, len(images.train))
        if min(self.count, len(real)) <= K:
            raise ValueError(
                f"{images.name} has {len(images.train)} training and {len(real)} real images to "
                f"judge with; more than {K} of both are needed"
            )
        self.measures = (*MEASURES, *(CLASS_MEASURES if extractor.classes else ()))
        rows = mixed_rows(images, part, self.count)
        self.reference = Reference.of(extractor(real.pixels), extractor.classes, rows)
        others = extractor(images.train.pixels[mixed_rows(images, "train", self.count)])
        self.real_distance = _median_distance(others.features)
        self.floor = self.measure(others)
        self.labels: LabelEvaluator | None = None
        if telling is not None:
            self.labels = LabelEvaluator(telling, images, part=part, count=self.count)

    def __call__(self, samples: Tensor) -> dict[str, float]:
        """Return the measures of samples (count, C, H, W) in [0, 1]; all are NaN where a sample is
        not finite."""
        if len(samples) != self.count:
            raise ValueError(f"{len(samples)} samples, but values of {self.count} are comparable")
        if not bool(samples.isfinite().all()):
            return dict.fromkeys(self.measures, float("nan"))
        if outside := outside_unit(samples):
            raise ValueError(outside)
        return self.measure(self.extractor(samples))

    def measure_model(self, model: Model, images: ImageSplits) -> dict[str, float]:
        """Return the measures of a model's samples, drawn with the same random numbers always."""
        with same_draws(model.device), evaluating(model), fast_convolutions(model):
            samples = model.samples(self.count, images, self.part)
        return self(samples) | (self.labels.measure_model(model, images) if self.labels else {})

    @property
    def record(self) -> dict[str, Any]:
        """What tells if two values can be compared, and what they compare to, as JSON takes it."""
        about = {"part": self.part, "samples": self.count, "floor": self.floor}
        if self.labels is None:
            return {**self.extractor.record, **about}
        about["floor"] = {**self.floor, **self.labels.floor}
        return {**self.extractor.record, **about, **self.labels.record}

    def measure(self, seen: ExtractedFeatures) -> dict[str, float]:
        """Return the measures of ``count`` images, from what the extractor sees of them."""
        real, made = self.reference, seen.features
        found = neighbourhoods(real.features, real.radii, made, radii(made))
        found["diversity"] = _median_distance(made) / self.real_distance.clamp(min=1e-12)
        if real.histogram is not None:
            shares = _class_histogram(seen, len(real.histogram))
            assert shares is not None
            found |= {
                "modes": self._count_modes(seen),
                "class_kl": class_divergence(shares, real.histogram),
            }
        values = torch.stack([value.double() for value in found.values()]).tolist()
        kid, kid_sd = real.kernels(made)
        distances = {
            "frechet": frechet_distance(real.moments, Moments.of(made)),
            "kid": kid,
            "kid_sd": kid_sd,
        }
        return {**distances, **dict(zip(found, values, strict=True))}

    def _count_modes(self, seen: ExtractedFeatures) -> Tensor:
        """Count the classes with at least `MODE_SHARE` of their real share in clear samples."""
        real = self.reference.histogram
        assert real is not None
        assert seen.classes is not None
        assert seen.confidence is not None
        clear = seen.classes[seen.confidence >= CONFIDENCE]
        counts = torch.bincount(clear, minlength=len(real))
        return ((counts >= MODE_SHARE * real * len(seen)) & (counts > 0)).sum()


# the trials of this process share what they compare to
_evaluators: dict[tuple[Any, ...], SampleEvaluator] = {}


def open_evaluator(
    extractor: Extractor,
    images: ImageSplits,
    *,
    part: str = "valid",
    count: int = SAMPLES,
    telling: Extractor | None = None,
) -> SampleEvaluator:
    """Return the evaluator of ``images``, which is made once a process; see `SampleEvaluator`."""
    contents = [content_digest(getattr(images, name)) for name in ("train", part)]
    of = (extractor.hash, extractor.key, telling and telling.hash)
    key = (*of, part, count, images.train.pixels.device, *contents)
    if key not in _evaluators:
        _evaluators[key] = SampleEvaluator(
            extractor, images, part=part, count=count, telling=telling
        )
    return _evaluators[key]


def _class_histogram(seen: ExtractedFeatures, classes: int) -> Tensor | None:
    """Return the shares of the classes (K,), as the extractor sees them; None without classes."""
    if seen.classes is None:
        return None
    return torch.bincount(seen.classes, minlength=classes).double() / len(seen)


def class_divergence(made: Tensor, real: Tensor) -> Tensor:
    """Return the KL of the samples' class shares (K,) from the real ones, in nats.

    It is finite and at least 0: all classes without any real image count together half as much as
    the smallest other, and then all shares add up to 1.
    """
    missing = real == 0
    floor = real[~missing].min() / 2 / missing.sum().clamp(min=1)
    known = torch.where(missing, floor, real)
    divergence: Tensor = torch.xlogy(made, made * known.sum() / known).sum()
    return divergence


def _median_distance(features: Tensor) -> Tensor:
    """Features (N, D) -> the median distance to the nearest other: ()."""
    return radii(features, 1).median()
