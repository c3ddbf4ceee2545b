"""The kernels compute what PyTorch computes, and only where they should."""

import copy

import pytest
import torch
from torch import Tensor, nn

from models.base import build
from models.cae import CAE, CAEConfig
from models.data.images import Batch, ImageSplits
from models.kernels.conv_kernels import blocks
from models.kernels.fast_convolution import batch_innermost, fast_convolutions
from models.training.loop import fit
from tests.preloaded import Preloaded

LAYERS = [
    (nn.Conv2d(1, 9, 3, 2, 1), (28, 28)),
    (nn.Conv2d(9, 18, 3, 2, 0), (7, 9)),
    (nn.Conv2d(13, 5, (3, 4), (1, 2), (2, 1), dilation=(2, 1), bias=False), (11, 12)),
    (nn.Conv2d(26, 3, 1), (5, 5)),
    (nn.Conv2d(2, 3, 3, stride=3), (8, 8)),  # pixels that nothing reads
    (nn.ConvTranspose2d(36, 18, 3, 2), (3, 3)),
    (nn.ConvTranspose2d(9, 1, 3, 2, 1, output_padding=1), (14, 14)),
    (nn.ConvTranspose2d(6, 7, 4, 2, 1, bias=False), (5, 5)),
]
SUPPORTED = pytest.mark.parametrize(
    ("layer", "size"), LAYERS, ids=lambda value: str(value).replace(" ", "")
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def derivatives(layer: nn.Module, x: Tensor, weigh: Tensor) -> list[Tensor]:
    """Output, first gradients, and gradients of the first gradients' size."""
    y = layer(x)
    inputs = [x, *layer.parameters()]
    first = torch.autograd.grad(y, inputs, weigh, create_graph=True)
    second = torch.autograd.grad((first[0] ** 2).sum() + (first[1] ** 2).sum(), inputs[:2])
    return [y, *first, *second]


@pytest.mark.parametrize("n", [1, 7, 32, 100])
@SUPPORTED
def test_outputs_gradients_and_second_gradients_are_those_of_float64(layer, size, n):
    torch.manual_seed(0)
    layer = copy.deepcopy(layer)
    x = torch.randn(n, layer.in_channels, *size)
    weigh = torch.randn_like(layer(x))
    exact = derivatives(copy.deepcopy(layer).double(), x.double().requires_grad_(), weigh.double())
    with fast_convolutions(layer):
        assert "forward" in vars(layer)
        found = derivatives(layer, x.requires_grad_(), weigh)
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.shape == theirs.shape
        largest = float(theirs.detach().abs().max())
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5 * largest)


BETWEEN = [
    nn.MaxPool2d(2, ceil_mode=True),
    nn.MaxPool2d(3, 2, 1),
    nn.AvgPool2d(2),
    nn.Upsample(size=(13, 9), mode="nearest"),
    nn.Upsample(scale_factor=2, mode="nearest"),
]


@pytest.mark.parametrize("n", [1, 7, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layer", BETWEEN, ids=lambda layer: str(layer).replace(" ", ""))
def test_pooling_and_resizing_between_the_kernels_keep_the_layout(layer, channels, n):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, channels, 3, padding=1), layer, nn.Conv2d(channels, 2, 1))
    x = torch.randn(n, 2, 7, 11)
    weigh = torch.randn_like(network(x))
    exact = derivatives(
        copy.deepcopy(network).double(), x.double().requires_grad_(), weigh.double()
    )
    with fast_convolutions(network):
        laid_out = batch_innermost(torch.randn(n, channels, 7, 11))
        if n > 1:
            assert layer(laid_out).permute(1, 2, 3, 0).is_contiguous()
        found = derivatives(network, x.requires_grad_(), weigh)
    assert "forward" not in vars(layer)
    for ours, theirs in zip(found, exact, strict=True):
        largest = float(theirs.detach().abs().max())
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5 * largest)


def test_pooling_without_fast_convolutions_is_left_alone():
    pooling = nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear"))
    with fast_convolutions(pooling):
        assert not any("forward" in vars(layer) for layer in pooling)
    beside = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Upsample(scale_factor=2, mode="bilinear"))
    with fast_convolutions(beside):
        assert ["forward" in vars(layer) for layer in beside] == [True, False]


NARROW = """
import sys
import llvmlite.binding as llvm
features = llvm.get_host_cpu_features()
for name in features:
    if name.startswith(sys.argv[1]) or name.startswith("avx512"):
        features[name] = False
llvm.get_host_cpu_features = lambda: features
for name in [name for name in sys.modules if name.startswith("models.")]:
    del sys.modules[name]
import torch
from torch import nn
from models.kernels.llvm import LANES
from models.kernels.fast_convolution import fast_convolutions
torch.set_num_threads(1)
torch.manual_seed(0)
layer = nn.Conv2d(7, 13, 3, 2, 1)
x = torch.randn(21, 7, 9, 9, requires_grad=True)
plain = layer(x)
wanted = torch.autograd.grad(plain.square().sum(), [x, layer.weight])
with fast_convolutions(layer):
    fast = layer(x)
    found = torch.autograd.grad(fast.square().sum(), [x, layer.weight])
torch.testing.assert_close(fast, plain)
torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
print(LANES)
"""


@pytest.mark.parametrize("feature", ["avx512f", "avx2"])
def test_narrower_vectors_compute_the_same(feature: str, preloaded: Preloaded) -> None:
    """As on a CPU without the feature: 8 or 4 lanes, 16 registers."""
    process = preloaded.run_program(NARROW, feature)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert int(out) <= {"avx512f": 8, "avx2": 4}[feature]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(512, 512, 3),
        nn.Linear(4, 4),
    ],
    ids=str,
)
def test_other_layers_are_left_alone(layer):
    with fast_convolutions(nn.Sequential(layer)) as laid_out:
        assert "forward" not in vars(layer)
        batch = Batch(images=torch.rand(2, 4, 5, 5))
        assert laid_out(batch) is batch


def test_a_batch_on_another_device_keeps_its_layout():
    """There the layers run as usual, and would convert it back."""
    with fast_convolutions(nn.Conv2d(1, 2, 3)) as laid_out:
        batch = Batch(images=torch.empty(8, 1, 5, 5, device="meta"))
        assert laid_out(batch) is batch


def test_a_layer_with_a_forward_of_its_own_keeps_it():
    class Doubled(nn.Conv2d):
        def forward(self, images: Tensor) -> Tensor:
            return 2 * super().forward(images)

    layer = Doubled(2, 3, 3)
    x = torch.rand(4, 2, 5, 5)
    expected = layer(x)
    with fast_convolutions(layer):
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("x", [torch.rand(2, 3, 5, 5, dtype=torch.float64), torch.rand(3, 5, 5)])
def test_inputs_that_the_kernels_do_not_know_go_to_pytorch(x):
    layer = nn.Conv2d(3, 4, 3).to(x.dtype)
    expected = layer(x)
    with fast_convolutions(layer):
        assert torch.equal(layer(x), expected)


def test_several_threads_are_pytorchs():
    torch.set_num_threads(2)
    layer, x = nn.Conv2d(3, 4, 3), torch.rand(2, 3, 5, 5)
    with fast_convolutions(layer):
        assert layer(x).is_contiguous()  # the kernels' results have the batch innermost
        torch.set_num_threads(1)
        assert not layer(x).is_contiguous()


def test_images_smaller_than_the_kernel_are_refused():
    layer = nn.Conv2d(1, 1, 5)
    with fast_convolutions(layer), pytest.raises(ValueError, match="images of 4x4 are smaller"):
        layer(torch.rand(2, 1, 4, 4))


def test_spectral_normalisation_is_honoured():
    layer = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)).eval()
    x = torch.rand(2, 3, 6, 6)
    expected = layer(x)
    with fast_convolutions(layer):
        torch.testing.assert_close(layer(x), expected)


def test_the_model_is_plain_again_afterwards():
    model = build(CAE, CAEConfig(), (1, 28, 28), seed=0)
    with pytest.raises(KeyError), fast_convolutions(model):
        raise KeyError
    assert not any("forward" in vars(layer) for layer in model.modules())


def test_elementwise_layers_keep_the_batch_innermost():
    layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Sigmoid())
    x = batch_innermost(torch.rand(6, 1, 8, 8))
    assert batch_innermost(x) is x
    with fast_convolutions(layers):
        y = layers[:2](x)
        assert batch_innermost(y) is y


def test_training_gives_the_losses_of_plain_pytorch(digits: ImageSplits) -> None:
    def losses() -> list[float]:
        model = build(CAE, CAEConfig(batch_size=100), digits.shape, seed=0)
        return [epoch.valid["mse"] for epoch in fit(model, digits, epochs=3, seed=0)]

    fast = losses()
    assert losses() == fast
    torch.set_num_threads(2)  # PyTorch's own convolutions
    assert losses() == pytest.approx(fast, rel=1e-3)


@pytest.mark.parametrize(("channels", "most"), [(1, 12), (9, 5), (20, 12), (40, 12), (7, 7)])
def test_blocks_cover_all_channels_and_no_more(channels, most):
    found = blocks(channels, most)
    assert sum(size * count for size, count in found) == channels
    assert all(0 < size <= most for size, _ in found)
