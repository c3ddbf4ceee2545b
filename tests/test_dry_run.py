"""A dry run finds what is wrong with an own model before the first trial, with file and line."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from models.base import build
from models.data.images import ImageSplits
from models.training.loop import fit
from search.errors import StudyFileError
from search.setup.loading import load_study
from search.setup.sampled import sample_configurations
from search.worker.dry_run import make_dry_run
from tests.model_cards import own_models
from tests.user import WriteStudy

OWN = """
    '''A study with a model of one's own.'''
    from dataclasses import dataclass, field
    import torch
    from torch import nn
    from torch.nn import functional as F
    from models.base import Model, ModelConfig, Program
    from models.results import Picture
    from search.study import StudySpec

    @dataclass(frozen=True, kw_only=True)
    class LinesConfig(ModelConfig):
        latent: int = 4
        rate: float = 1e-3

    class Limit(nn.Module):
        def forward(self, x):
            return x.clamp(0, 1)

    class Lines(Model):
        metrics = ("mse",)
        config_type = LinesConfig

        def __init__(self, config, shape):
            super().__init__(config, shape)
            size = shape[0] * shape[1] * shape[2]
            self.down = nn.Linear(size, config.latent)
            self.up = nn.Sequential(nn.Linear(config.latent, size), nn.Unflatten(1, shape), Limit())
            self.optimizers["all"] = torch.optim.Adam(self.parameters(), lr=config.rate)

        def forward(self, images):
            return self.up(self.down(images.flatten(1)))

        def loss(self, batch):
            made = self(batch.images)
            return F.mse_loss(made, batch.images)

        def train_step(self, batch):
            loss = self.loss(batch)
            self.optimizers["all"].zero_grad()
            loss.backward()
            self.optimizers["all"].step()
            return {"mse": loss.detach()}

        def evaluate(self, batch):
            return {"mse": self.loss(batch)}

        def programs(self):
            return {"decoder": Program(module=self.up, example=torch.rand(2, self.config.latent))}

    def suggest(trial):
        return LinesConfig(latent=trial.suggest_int("latent", 2, 20))

    STUDY = StudySpec(model=Lines, suggest=suggest, data="digits", metric="mse", trials=2, epochs=1,
                      retrain_epochs=1, pruner="none")
"""
PLAIN = textwrap.dedent(OWN)
RETURN = "return F.mse_loss(made, batch.images)"
SQUARE = "return ((made - batch.images) ** 2).mean()"

# what is replaced by what, `HERE` in the line that is to be named, and words of the message
FLAWS: dict[str, tuple[dict[str, str], list[str]]] = {
    "broadcast": (
        {RETURN: RETURN.replace("images)", "images[:, 0])  # HERE")},
        ["(2, 1, 28, 28) and (2, 28, 28) broadcast to (2, 2, 28, 28)", "the same shape"],
    ),
    "broadcast-of-a-module": (
        {RETURN: "return nn.L1Loss()(made, batch.images[:, 0])  # HERE"},
        ["(2, 1, 28, 28) and (2, 28, 28) broadcast to (2, 2, 28, 28)"],
    ),
    "broadcast-by-hand": (
        {RETURN: SQUARE.replace("images)", "images.squeeze(1))") + "  # HERE"},
        ["(2, 1, 28, 28) and (2, 28, 28) broadcast to (2, 2, 28, 28)"],
    ),
    "broadcast-of-numbers": (
        {RETURN: "return (made.mean((1, 2, 3))[:, None] - batch.labels).pow(2).mean()  # HERE"},
        ["(2, 1) and (2,) broadcast to (2, 2)"],
    ),
    "loss-no-scalar": (
        {
            RETURN: 'return F.mse_loss(made, batch.images, reduction="none")',
            "loss.backward()": "loss.backward()  # HERE",
        },
        ["RuntimeError: grad can be implicitly created only for scalar outputs"],
    ),
    "metric-no-scalar": (
        {
            "def train_step(self, batch):": "def train_step(self, batch):  # HERE",
            '{"mse": loss.detach()}': '{"mse": loss.detach().expand(3)}',
        },
        ["train_step: it returns 'mse' of shape (3,)", "take its mean"],
    ),
    "metric-no-tensor": (
        {
            "def train_step(self, batch):": "def train_step(self, batch):  # HERE",
            '{"mse": loss.detach()}': '{"mse": loss.item()}',
        },
        ["train_step: it returns 'mse' as float, not as a tensor"],
    ),
    "no-metrics": (
        {
            "def evaluate(self, batch):": "def evaluate(self, batch):  # HERE",
            'return {"mse": self.loss(batch)}': "self.loss(batch)",
        },
        ["evaluate: it returns NoneType, not metrics by name"],
    ),
    "metric-missing": (
        {
            "def evaluate(self, batch):": "def evaluate(self, batch):  # HERE",
            'return {"mse": self': 'return {"mae": self',
        },
        ["evaluate: it returns mae, without the study's metric 'mse'"],
    ),
    "metric-named-and-not-returned": (
        {
            "def evaluate(self, batch):": "def evaluate(self, batch):  # HERE",
            'metrics = ("mse",)': 'metrics = ("mse", "mae")',
        },
        ["evaluate: it returns mse, without 'mae', which `metrics` names"],
    ),
    "no-gradient": (
        {"loss.backward()": "loss.detach().backward()  # HERE"},
        ["RuntimeError: element 0 of tensors does not require grad"],
    ),
    "no-step": (
        {
            "def train_step(self, batch):": "def train_step(self, batch):  # HERE",
            'self.optimizers["all"].step()': "pass",
        },
        ["train_step: 3 steps change no weight"],
    ),
    "layer-without-optimiser": (
        {
            "def __init__(self, config, shape):": "def __init__(self, config, shape):  # HERE",
            "self.parameters(), lr": "self.down.parameters(), lr",
        },
        ["up.0.weight is in no optimiser", "requires_grad_(False)"],
    ),
    "layer-made-after-its-optimiser": (
        {
            "def __init__(self, config, shape):": "def __init__(self, config, shape):  # HERE",
            "lr=config.rate)": "lr=config.rate)\n"
            "        self.down = nn.Linear(size, config.latent)",
        },
        ["optimizers['all'] holds a parameter that the model does not have"],
    ),
    "optimiser-out-of-place": (
        {
            "def __init__(self, config, shape):": "def __init__(self, config, shape):  # HERE",
            'self.optimizers["all"] = torch': "self.adam = torch",
            'self.optimizers["all"].zero_grad()': "self.adam.zero_grad()",
            'self.optimizers["all"].step()': "self.adam.step()",
        },
        ["self.adam is an optimiser outside self.optimizers", "self.optimizers['adam']"],
    ),
    "nan": (
        {RETURN: "return (made.mean() - 2).log()  # HERE"},
        ["mse is nan in the first training step"],
    ),
    "infinite": (
        {RETURN: "return F.mse_loss(made, batch.images) / (made.mean() * 0)  # HERE"},
        ["mse is inf in the first training step"],
    ),
    "bug-in-the-step": (
        {"loss = self.loss(batch)": "loss = self.los(batch)  # HERE"},
        ["AttributeError: 'Lines' object has no attribute 'los'"],
    ),
    "bug-in-the-network": (
        {"return x.clamp(0, 1)": "return x.clamp(0, 1) + x.new_zeros(3)  # HERE"},
        ["RuntimeError: The size of tensor"],
    ),
    "bug-in-the-evaluation": (
        {'return {"mse": self.loss(batch)}': 'return {"mse": self.loss(batch.image)}  # HERE'},
        ["AttributeError: 'Batch' object has no attribute 'image'"],
    ),
    "bug-in-the-picture": (
        {
            "def programs": "def preview(self, images, part, count):\n"
            "        return Picture(name='a', caption='b', draw=lambda *_: 1 / 0)  # HERE\n\n"
            "    def programs"
        },
        ["ZeroDivisionError: division by zero"],
    ),
    "bug-in-the-pictures-of-exports": (
        {
            "def programs": "def pictures(self, images, part):\n"
            "        yield Picture(name='a', caption='b', draw=lambda *_: 1 / 0)  # HERE\n\n"
            "    def programs"
        },
        ["ZeroDivisionError: division by zero"],
    ),
    "bug-in-the-tables": (
        {
            "def programs": "def tables(self, images, progress):\n"
            "        yield self.los  # HERE\n\n    def programs"
        },
        ["AttributeError: 'Lines' object has no attribute 'los'"],
    ),
    "tables-that-are-none": (
        {
            "def programs": "def tables(self, images, progress):  # HERE\n"
            "        yield {'mse': 1.0}\n\n    def programs"
        },
        ["tables: it yields dict, not a Table"],
    ),
    "samples-out-of-range": (
        {
            'metrics = ("mse",)': 'metrics, judged = ("mse",), True',
            'metric="mse"': 'metric="frechet"',
            "def programs": "def samples(self, count, images, part):  # HERE\n"
            "        return torch.full((count, *self.shape), -0.25)\n\n"
            "    def programs",
        },
        ["samples: samples lie in [-0.25, -0.25], images in [0, 1]; scale them"],
    ),
    "samples-in-training-mode": (
        {
            'metrics = ("mse",)': 'metrics, judged = ("mse",), True',
            'metric="mse"': 'metric="frechet"',
            "def programs": "def samples(self, count, images, part):  # HERE\n"
            "        self.up.train()\n"
            "        return self.up(torch.rand(count, self.config.latent))\n\n"
            "    def programs",
        },
        ["samples: it puts self.up in training mode", "leave out .train()"],
    ),
    "evaluation-in-training-mode": (
        {
            "def evaluate(self, batch):": "def evaluate(self, batch):  # HERE\n"
            "        self.train()",
        },
        ["evaluate: it puts the model in training mode"],
    ),
    "evaluation-that-changes-the-model": (
        {
            "def evaluate(self, batch):": "def evaluate(self, batch):  # HERE\n"
            "        self.up[0].bias.mul_(0.5)",
        },
        ["evaluate: it changes up.0.bias, so that a second evaluation has another value"],
    ),
    "configuration-no-json": (
        {
            "rate: float = 1e-3": "rate: object = field(default_factory=lambda: torch.tensor(0.1))",
            "def __init__(self, config, shape):": "def __init__(self, config, shape):  # HERE",
            "lr=config.rate": "lr=float(config.rate)",
        },
        ["the configuration's rate=tensor(0.1", "cannot be kept as JSON"],
    ),
    "weights-that-do-not-load": (
        {
            "def programs(self):": "def programs(self):  # HERE",
            "loss = self.loss(batch)": "self.more = nn.Linear(1, 1); loss = self.loss(batch)",
        },
        ["Lines cannot be exported", "Error(s) in loading state_dict"],
    ),
    "branch-on-values": (
        {"return x.clamp(0, 1)": "return x.clamp(0, 1) if x.max() > 1 else x  # HERE"},
        ["Lines cannot be exported: it decides by the values of a tensor", "torch.where"],
    ),
}


def flawed(changes: dict[str, str]) -> str:
    content = PLAIN
    for old, new in changes.items():
        assert old in content
        content = content.replace(old, new)
    return content


def try_file(path: Path, images: ImageSplits, *, exports: bool = False) -> list[str]:
    """What a dry run of the study in ``path`` tries."""
    tried: list[str] = []
    study = load_study(str(path))
    unanswered = make_dry_run(study, images, None, device="cpu", exports=exports, say=tried.append)
    return [*tried, unanswered or "all"]


@pytest.mark.parametrize("flaw", FLAWS)
@pytest.mark.usefixtures("quick_onnx")
def test_a_mistake_in_an_own_model_is_one_line_with_its_place(
    tmp_path: Path, digits: ImageSplits, flaw: str
) -> None:
    changes, words = FLAWS[flaw]
    path = tmp_path / "own.py"
    path.write_text(flawed(changes))
    line = 1 + next(i for i, text in enumerate(path.read_text().splitlines()) if "# HERE" in text)
    exports = any("def pictures" in new or "def tables" in new for new in changes.values())
    exported = ("configuration-no-json", "weights-that-do-not-load", "branch-on-values")
    with pytest.raises(StudyFileError) as caught:
        try_file(path, digits, exports=exports or flaw in exported)
    said = str(caught.value)
    assert said.startswith(f"{path}, line {line}: "), said
    assert "\n" not in said
    for word in words:
        assert word in said


MADE = 'self.optimizers["all"] = torch'
SAMPLES = """    def samples(self, count, images, part):
        codes = torch.rand(count, self.config.latent, device=self.device)
        return self.up(codes) * KEPT

    def programs"""


@pytest.mark.usefixtures("quick_onnx")
@pytest.mark.parametrize("kept", ["a number", "a buffer"])
def test_samples_of_a_loaded_export_are_those_of_the_live_model(
    tmp_path: Path, digits: ImageSplits, kept: str
) -> None:
    """What is no parameter and no buffer is in no export, and none of a checkpoint."""
    changes = {
        'metrics = ("mse",)': 'metrics = ("mse",)\n    judged = True',
        'metric="mse"': 'metric="frechet"',
        MADE: f'self.register_buffer("kept", torch.ones(()))\n        {MADE}',
        "    def programs": SAMPLES.replace("KEPT", "self.kept"),
        "loss.backward()": "loss.backward(); self.kept.mul_(0.5)",
    }
    if kept == "a number":
        changes[MADE] = f"self.kept = 1.0\n        {MADE}"
        changes["loss.backward()"] = "loss.backward(); self.kept = 0.5"
    path = tmp_path / "own.py"
    path.write_text(flawed(changes))
    if kept == "a buffer":
        assert try_file(path, digits, exports=True)[-1] == "all"
        return
    with pytest.raises(StudyFileError, match=r"samples: a loaded export makes other samples than"):
        try_file(path, digits, exports=True)


def test_a_layer_that_is_always_in_training_mode_passes(
    tmp_path: Path, digits: ImageSplits
) -> None:
    """As the dropout that is the noise of pix2pix."""
    path = tmp_path / "own.py"
    always = """    def train(self, mode=True):
        super().train(mode)
        self.up.train()
        return self

    def programs"""
    path.write_text(flawed({"    def programs": always}))
    assert try_file(path, digits)[-1] == "all"


@pytest.mark.usefixtures("quick_onnx")
def test_a_sound_model_passes_and_leaves_nothing_behind(
    tmp_path: Path, digits: ImageSplits
) -> None:
    (tmp_path / "own.py").write_text(PLAIN)
    tried = try_file(tmp_path / "own.py", digits, exports=True)
    assert tried == [
        "building it", "a training step", "an evaluation", "a picture", "an export", "all",
    ]  # fmt: skip
    assert [found.name for found in tmp_path.iterdir()] == ["own.py"]


@pytest.mark.usefixtures("quick_onnx")
def test_the_readmes_model_is_all_that_a_study_needs(tmp_path: Path, digits: ImageSplits) -> None:
    path = tmp_path / "mine.py"
    path.write_text(own_models()[0])
    assert try_file(path, digits, exports=True)[-1] == "all"
    study = load_study(str(path))
    model = build(study.spec.model, sample_configurations(study)[0], digits.shape, seed=0)
    first, *_, last = [e.valid["mse"] for e in fit(model, digits, epochs=5, seed=0)]
    assert last < first, "it learns"


@pytest.mark.usefixtures("quick_onnx")
def test_the_readmes_gan_passes_too(tmp_path: Path, digits: ImageSplits) -> None:
    path = tmp_path / "mine.py"
    path.write_text(own_models()[1])
    assert try_file(path, digits, exports=True)[-2:] == ["an export", "all"]


# Not one of these is a mistake: a false alarm would stop a study that could run.
SOUND = {
    "a batch of a fixed size": {
        "def train_step(self, batch):": "def train_step(self, batch):\n"
        "        assert len(batch.images) == self.config.batch_size"
    },
    "prototypes": {RETURN: "return (made.flatten(1)[:, None] - self.down.weight).pow(2).mean()"},
    "distances of all pairs": {
        RETURN: "codes = self.down(batch.images.flatten(1))\n"
        "        return F.mse_loss(made, batch.images) + "
        "(codes[:, None] - codes[None]).pow(2).mean()"
    },
    "a label for all": {RETURN: "return F.mse_loss(made, torch.ones(1))"},
    "an infinite mask": {
        RETURN: "masked = made.masked_fill(made < 0.5, -torch.inf).softmax(3).nan_to_num()\n"
        "        return F.mse_loss(made, batch.images) + masked.mean() * 0"
    },
    "another metric": {'return {"mse": self.loss(batch)}': 'return {"mse": self.loss(batch), '
                       '"mae": self.loss(batch)}'},
    "no picture of so few": {
        "def programs": "def preview(self, images, part, count):\n"
        "        assert len(images.valid) > 2\n\n    def programs"
    },
}  # fmt: skip


@pytest.mark.usefixtures("quick_onnx")
def test_own_tables_and_pictures_may_need_many_images(tmp_path: Path, digits: ImageSplits) -> None:
    more = (
        "def tables(self, images, progress):\n        assert len(images.test) > 300\n"
        "        yield from ()\n\n    def pictures(self, images, part):\n"
        "        assert len(images.test) > 60\n        yield from ()\n\n    def programs"
    )
    (tmp_path / "own.py").write_text(flawed({"def programs": more}))
    tried = try_file(tmp_path / "own.py", digits, exports=True)
    assert tried[-3:] == ["the tables of an export", "the pictures of an export", "all"]


@pytest.mark.parametrize("name", SOUND)
def test_what_is_no_mistake_passes(tmp_path: Path, digits: ImageSplits, name: str) -> None:
    (tmp_path / "own.py").write_text(flawed(SOUND[name]))
    assert try_file(tmp_path / "own.py", digits)[-1] == "all"


def test_configurations_that_are_infeasible_are_not_the_models_fault(
    tmp_path: Path, digits: ImageSplits
) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        flawed({
            "size = shape[0]": "if config.latent > 12: raise ConfigError('too wide')\n"
            "        size = shape[0]",
            "from models.results": "from models.errors import ConfigError\nfrom models.results",
        })
    )  # fmt: skip
    assert try_file(path, digits)[-1] == "all"
    path.write_text(path.read_text().replace("> 12", "> 0"))
    assert try_file(path, digits)[-1] == (
        "none of 3 configurations is feasible, ConfigError: too wide"
    )


def test_memory_that_runs_out_is_a_trials_business(tmp_path: Path, digits: ImageSplits) -> None:
    path = tmp_path / "own.py"
    path.write_text(flawed({"loss = self.loss(batch)": "loss = torch.empty(2**50)"}))
    assert try_file(path, digits)[-1] == "memory ran out"


def test_an_own_encoder_is_tried_as_its_export(study_file: WriteStudy, digits: ImageSplits) -> None:
    """A family of genstudy with one method more exports genstudy's own code: nothing to try."""
    more = "class More(CAE):\n        pass\n\n    def suggest"
    path = study_file(replace={"def suggest": more, "model=CAE": "model=More"})
    assert "an export" not in try_file(path, digits, exports=True)
