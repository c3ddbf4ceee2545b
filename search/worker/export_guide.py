"""What an export says of itself: the metadata of its programs, and how its model card uses it.

write_export(model, folder, program_metadata(context, record))
made |= write_guide(context, model, record, folder)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from models.base import Model
from models.data.images import ImageSplits
from models.usage import EXAMPLE, genstudy_usage, onnx_usage
from search.trials.retraining_record import RetrainingRecord
from search.worker.context import WorkerContext


def program_metadata(context: WorkerContext, record: RetrainingRecord) -> dict[str, str]:
    """Return what ONNX and `torch.export` files say beside what goes in and comes out.

    Values that are not texts are JSON.
    """
    images = context.images
    channels, height, width = images.shape
    preparation = {
        "width": width,
        "height": height,
        "channels": {1: "grey", 3: "red, green, blue"}[channels],
        "fit": "resized and cropped from the centre",
        "background": images.background or None,
        "values": "bytes / 255",
    }
    said = {
        "study": record.study,
        "trial": str(record.trial),
        "data": record.data,
        "preparation": json.dumps(preparation),
        "genstudy": record.revision,
    }
    if images.classes:
        said["classes"] = json.dumps(images.classes)
    if ranges := attribute_ranges(images):
        said["attributes"] = json.dumps(ranges)
    return said


def attribute_ranges(images: ImageSplits) -> dict[str, tuple[float, float]]:
    """Return the lowest and the highest value of each attribute in the training images."""
    values = images.train.attributes
    if values is None:
        return {}
    low, high = values.amin(0).tolist(), values.amax(0).tolist()
    return dict(zip(images.attribute_names, zip(low, high, strict=True), strict=True))


def write_guide(
    context: WorkerContext, model: Model, record: RetrainingRecord, folder: Path
) -> dict[str, Any]:
    """Write the image that the card's lines read; return what the card says of the model's use."""
    images = context.images
    names = images.attribute_names if images.train.attributes is not None else images.classes
    loading = genstudy_usage(model, record.study_file, images.background)
    alone = onnx_usage(model, names, images.background)
    if any(EXAMPLE in line for line in (*loading, *alone)):
        part = images.valid if record.test is None else images.test
        first = part.pixels[0].cpu().permute(1, 2, 0).numpy()  # (H, W, C)
        grey = first.shape[2] == 1
        Image.fromarray(first.squeeze(2) if grey else first).save(folder / EXAMPLE)
    return {
        "usage": model.usage,
        "loading": loading,
        "onnx_usage": alone,
        "attributes": attribute_ranges(images),
        "background": images.background,
        "label_names": [*names],  # in the model's order; JSON sorts the attributes above
        "programs": [[name, *program.describe()] for name, program in model.programs().items()],
    }
