"""The measures of a generator's samples: their names, and what each one says.

    StudySpec(model=GAN, metric="frechet", ...)

`models.evaluation.sample_evaluator` measures them and `models.evaluation.gan_diagnosis` reads them.
The trial database has them once an epoch, as ``valid_frechet`` and so on.
"""

from __future__ import annotations

MEASURES = {
    "frechet": "Fréchet distance of the features; lower is better",
    "kid": "kernel distance of the features; lower is better, 0 for what is drawn alike",
    "kid_sd": "standard deviation of kid over random subsets",
    "precision": "share of samples that lie where real images do",
    "realism": "precision in the denser half of the real images only",
    "recall": "share of real images that lie where samples do",
    "density": "real images around a sample, over what is usual for real ones",
    "coverage": "share of real images with a sample close by",
    "diversity": "distance of a sample to the next most alike one, beside real ones",
}
CLASS_MEASURES = {
    "modes": "classes with a fair share of clear samples",
    "class_kl": "nats between the samples' classes and the real ones; 0: the same balance",
}
LABEL_MEASURES = {  # of models that are told which labels to show
    "label_frechet": "mean over the labels of the distance to real images of that label",
    "label_accuracy": "share of samples that show the wanted label, mean over the labels",
    "label_worst": "the same for the label that is shown least",
}
ALL_MEASURES = (*MEASURES, *CLASS_MEASURES)
