"""Inception features, in which papers measure generated images: FID and KID.

    network = load_inception(Path("weights.safetensors"))
    features = network(images)              # (N, C, H, W) in [0, 1] -> (N, 2048)

It is the network of December 2015 that published numbers are of, in the port that torch-fidelity
and torchmetrics use; its weights, a file of 1,008 classes, are not part of genstudy. Beside
torchvision's Inception v3 its average pooling leaves out what lies beyond the edge, and its last
block pools by the maximum. Images become bytes, grey ones three channels, and 299x299 pixels as
TensorFlow 1 resized them, which takes the corner of a pixel for its centre.

The weights are read from safetensors, or from a state dictionary by PyTorch's reader that makes
tensors alone: no pickle is run. `models.evaluation.inception_table` measures a study's winner.

Shape legend: N images, C channels, H/W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import ExtractorError, first_line, is_shortage, short

SIDE = 299  # pixels
CLASSES = 1008  # of the file's last layer, which is not used
AT_ONCE = 32  # images
LAYERS = (  # convolutions, with a 3x3 maximum pooling of stride 2 where there is None
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", None, "Conv2d_3b_1x1", "Conv2d_4a_3x3", None,
    "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e",
    "Mixed_7a", "Mixed_7b", "Mixed_7c",
)  # fmt: skip


class Inception(nn.Module):
    """Images (N, C, H, W) in [0, 1] -> features (N, 2048), the means of the last maps."""

    def __init__(self) -> None:
        from torchvision.models import Inception3  # takes seconds: only where it is asked for

        super().__init__()
        self.layers: Any = Inception3(
            num_classes=CLASSES, aux_logits=False, transform_input=False, init_weights=False
        )
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self._features(part) for part in torch.split(images, AT_ONCE)])

    def _features(self, images: Tensor) -> Tensor:
        values = (images * 255).round().expand(-1, 3, -1, -1)
        x = (resize_as_tensorflow_1(values, SIDE) - 128) / 128
        for name in LAYERS:
            x = F.max_pool2d(x, 3, 2) if name is None else self._layer(name, x)
        return x.mean((2, 3))

    def _layer(self, name: str, x: Tensor) -> Tensor:
        """Return what a layer makes of ``x``, with the poolings of the network of 2015."""
        layer = getattr(self.layers, name)
        if not hasattr(layer, "branch_pool"):
            return cast(Tensor, layer(x))
        *branches, _ = layer._forward(x)  # the last one has torchvision's pooling
        if name == "Mixed_7c":
            pooled = F.max_pool2d(x, 3, 1, 1)
        else:
            pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return torch.cat([*branches, layer.branch_pool(pooled)], 1)


def load_inception(path: Path) -> Inception:
    """Return the network with the weights in ``path``, on the CPU.

    Raises `ExtractorError` for a file that is not its weights.
    """
    network = Inception()
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
        weights = {name: value for name, value in dict(found).items() if "AuxLogits" not in name}
        missing, unknown = network.layers.load_state_dict(weights, strict=False)
    except Exception as error:  # any file may be given
        if is_shortage(error):
            raise
        raise _unusable(path, short(first_line(error))) from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    for what, names in (("lacks", missing), ("has the unknown", unknown)):
        if names:
            raise _unusable(path, f"it {what} {short(names[0])}")
    return network


def _unusable(path: Path, why: str) -> ExtractorError:
    return ExtractorError(
        f"INCEPTION={path} does not hold the weights of Inception v3 of 2015 ({why}); give the "
        "file that torch-fidelity uses, with 1,008 classes, or leave INCEPTION out"
    )


def resize_as_tensorflow_1(images: Tensor, side: int) -> Tensor:
    """(N, C, H, W) -> (N, C, side, side), bilinear between the pixels at i * H / side.

    PyTorch's own bilinear resizing takes (i + 1/2) * H / side - 1/2.
    """
    for axis in (2, 3):
        size = images.shape[axis]
        places = torch.arange(side, device=images.device, dtype=images.dtype) * (size / side)
        first = places.floor().long().clamp(max=size - 1)
        share = (places - first).view(-1, 1) if axis == 2 else places - first
        below = images.index_select(axis, first)
        above = images.index_select(axis, (first + 1).clamp(max=size - 1))
        images = below + (above - below) * share
    return images
