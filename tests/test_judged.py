"""Trials that are judged by their samples: values, health, verdicts, pruning, who judges."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import BaseTrial
from PIL import Image

from models.base import Model, ModelConfig, build, evaluating
from models.cae import CAE, CAEConfig
from models.data.images import ImageSplits
from models.errors import ExtractorError
from models.evaluation import feature_cache, gan_diagnosis, sample_evaluator
from models.evaluation.feature_cache import extractor_content, make_extractor
from models.evaluation.features import encoder_extractor, reshape_images
from models.evaluation.gan_diagnosis import Health
from models.evaluation.measures import ALL_MEASURES, MEASURES
from models.evaluation.sample_evaluator import SampleEvaluator
from models.export import load_export, write_export
from models.gan import GAN, GANConfig
from models.stargan import StarGAN, StarGANConfig
from models.training.loop import evaluate, fit
from models.usage import genstudy_usage, onnx_usage
from models.vae import VAE, VAEConfig
from search.errors import explain_error
from search.setup.loading import load_study
from search.study import StudySpec
from search.trials.retraining_record import RetrainingRecord, read_record
from search.worker.context import WorkerContext
from search.worker.diagnosis import GanDiagnosis, health_of_curve
from search.worker.evaluator import StudyEvaluators
from search.worker.retrained_model import load_retrained
from search.worker.retraining import retrain
from search.worker.trial import run_trial
from storage import curves, trials
from storage.database.extractors import keep_extractor
from tests.model_cards import own_models
from tests.preloaded import EXTRACTOR_EPOCHS
from tests.trials import SMALL, Breaking, MakeContext, Perfect, Repeating, ThreeModes, run_one
from tests.user import User, WriteStudy

FEW_DIGITS = True

HEALTH = ("loss_g", "loss_d", "accuracy_real", "accuracy_fake", "gradient_g", "gradient_d")


def test_a_trial_is_worth_its_best_distance_and_all_measures_can_be_queried(
    make_gan_context: MakeContext, judge: SampleEvaluator
) -> None:
    context = make_gan_context()
    row = run_one(context)
    frame = curves("small", storage=context.run.storage)
    assert frame["value"].tolist() == frame["valid_frechet"].tolist()
    assert row["value"] == frame["valid_frechet"].min() > judge.floor["frechet"]
    assert {f"valid_{name}" for name in ALL_MEASURES} <= set(frame)
    assert {f"train_{name}" for name in HEALTH} <= set(frame)
    assert (frame["judge_seconds"] > 0).all()
    assert (frame["judge_seconds"] < frame["epoch_seconds"]).all()


def test_what_judged_stands_with_the_value(
    make_gan_context: MakeContext, judge: SampleEvaluator
) -> None:
    row = run_one(make_gan_context())
    assert row["extractor"] == judge.extractor.hash[:16]
    assert row["extractor_accuracy"] == pytest.approx(judge.extractor.accuracy, abs=1e-5)
    assert row["floor"] == judge.floor["frechet"]
    assert row["judged_samples"] == judge.count


@pytest.mark.parametrize(
    ("model", "verdict", "modes"),
    [(Perfect, "healthy", 10), (ThreeModes, "collapsed", 3), (Repeating, "collapsed", 1)],
)
def test_a_trial_ends_with_a_verdict(
    make_gan_context: MakeContext, model: type[GAN], verdict: str, modes: int
) -> None:
    row = run_one(make_gan_context(model))
    assert (row["outcome"], row["verdict"], row["modes"]) == ("complete", verdict, modes)
    assert 1 <= row["verdict_epoch"] <= 2
    assert row["verdict_reason"]


@pytest.fixture
def six_steps_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an epoch of few images be one of those after which trainings are pruned."""
    monkeypatch.setattr(gan_diagnosis, "FULL_EPOCH", 6)


@pytest.mark.usefixtures("six_steps_suffice")
def test_a_collapsed_trial_is_pruned_early_and_says_why(make_gan_context: MakeContext) -> None:
    row = run_one(make_gan_context(ThreeModes, epochs=9))
    assert (row["state"], row["outcome"], row["verdict"]) == ("PRUNED", "pruned", "collapsed")
    assert row["epochs"] < 9
    assert row["reason"].startswith("collapsed in epoch 1: 3 of 10 modes left")
    assert row["verdict_reason"] in row["reason"]


def test_few_steps_are_no_reason_to_prune(make_gan_context: MakeContext) -> None:
    row = run_one(make_gan_context(ThreeModes, epochs=9))
    assert (row["outcome"], row["verdict"], row["epochs"]) == ("complete", "collapsed", 9)


def test_without_a_pruner_a_lost_game_goes_on(make_gan_context: MakeContext) -> None:
    row = run_one(make_gan_context(ThreeModes, epochs=6, pruner="none"))
    assert (row["outcome"], row["verdict"], row["epochs"]) == ("complete", "collapsed", 6)


def test_a_retrained_model_is_measured_as_in_its_best_epoch(make_gan_context: MakeContext) -> None:
    def suggest(trial: BaseTrial) -> GANConfig:
        return replace(SMALL, lr_g=trial.suggest_float("lr_g", 1e-4, 1e-3), instance_noise=0.8)

    context = make_gan_context(suggest=suggest)
    run_one(context)
    retrain(context, 0)
    record = read_record(context.retraining_paths(0).record, token="t", trial=0)
    assert isinstance(record, RetrainingRecord)
    assert record.best_epoch == 2, "with half of the noise of the first epoch"
    again = evaluate(load_retrained(context, record), context.images.valid)
    assert again == {name: record.valid[name] for name in again}


def test_samples_that_are_not_finite_diverge(make_gan_context: MakeContext) -> None:
    row = run_one(make_gan_context(Breaking, epochs=3))
    assert (row["outcome"], row["verdict"], row["verdict_epoch"]) == ("diverged", "diverged", 2)
    assert "frechet nan" in row["reason"]


@pytest.mark.usefixtures("six_steps_suffice")
def test_an_interrupted_game_keeps_its_history(make_gan_context: MakeContext) -> None:
    asked = [0]

    def soon() -> bool:
        asked[0] += 1
        return asked[0] > 14  # in the third epoch of six steps

    context = make_gan_context(ThreeModes, epochs=9, interrupted=soon)
    trial = context.queue.claim(9)
    assert trial is not None
    run_trial(context, trial)
    done = trials("small", storage=context.run.storage)
    assert done["state"].tolist() == ["WAITING"]
    row = run_one(make_gan_context(ThreeModes, epochs=9))
    uninterrupted = run_one(make_gan_context(ThreeModes, epochs=9))
    assert row["number"] == trial.number
    assert (row["reason"], row["epochs"]) == (uninterrupted["reason"], uninterrupted["epochs"])


@pytest.fixture
def quick_extractors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extractors that train little, where only who made them counts."""
    monkeypatch.setattr(feature_cache, "FEW_EPOCHS", EXTRACTOR_EPOCHS)


@pytest.mark.usefixtures("quick_extractors")
def test_a_second_judge_looks_at_the_last_samples_when_asked(
    make_gan_context: MakeContext, judge: SampleEvaluator
) -> None:
    context = make_gan_context(second_judge=True)
    row = run_one(context)
    last = curves("small", storage=context.run.storage)["valid_frechet"].iloc[-1]
    assert row["last_frechet"] == last
    assert row["second_frechet"] != last  # another extractor has another scale
    assert 0 <= row["second_coverage"] <= 1


def test_without_classes_nobody_looks_a_second_time(
    make_gan_context: MakeContext, digits: ImageSplits
) -> None:
    """Labels that a model is given may be attributes: these judge by themselves."""
    context = make_gan_context(second_judge=True)
    parts = {part: replace(getattr(digits, part), labels=None) for part in ("train", "valid")}
    context.images = replace(digits, classes=(), **parts)
    assert context.evaluators is not None
    context.evaluators.images = context.images
    row = run_one(context)
    assert row["outcome"] == "complete"
    assert "second_frechet" not in row


@pytest.mark.usefixtures("quick_extractors")
def test_the_study_remembers_its_extractor_and_refuses_another(
    make_gan_context: MakeContext, digits: ImageSplits
) -> None:
    context = make_gan_context()

    def opened() -> SampleEvaluator:
        return StudyEvaluators(context.run, digits, context.queue).own

    judge = opened()
    assert context.queue.study.user_attrs["judge"]["hash"] == judge.extractor.hash
    context.queue.study.set_user_attr("judge", {**judge.record, "hash": "f" * 64})
    with pytest.raises(ExtractorError, match="cannot be compared") as error:
        opened()
    assert explain_error(error.value)


@pytest.fixture
def another_machine(
    make_gan_context: MakeContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quick_extractors: None,
) -> WorkerContext:
    """Of the same study: with files of its own, and a processor that rounds otherwise."""
    context = make_gan_context()
    context.run = replace(context.run, runs=str(tmp_path / "another"))
    seeds = count()
    monkeypatch.setattr("models.evaluation.feature_cache.derive_seed", lambda *_: next(seeds))
    monkeypatch.setattr("models.evaluation.feature_cache.STEPS", 1)
    return context


@pytest.mark.parametrize("second", [False, True])
def test_all_machines_of_a_study_have_the_first_ones_judge(
    another_machine: WorkerContext, tmp_path: Path, digits: ImageSplits, second: bool
) -> None:
    context = another_machine

    def opened() -> SampleEvaluator:
        evaluators = StudyEvaluators(context.run, digits, context.queue)
        return evaluators.open_second() if second else evaluators.own

    first = opened()
    known = context.queue.study.user_attrs["second_judge" if second else "judge"]
    assert known == first.record
    context.run = replace(context.run, runs=str(tmp_path / "third"))
    assert opened().extractor.hash == first.extractor.hash


def test_who_trains_a_judge_beside_another_machine_takes_that_ones(
    another_machine: WorkerContext,
    tmp_path: Path,
    digits: ImageSplits,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context, real = another_machine, sample_evaluator.open_evaluator
    first = make_extractor(digits, tmp_path / "first")

    def slow(*given: Any, **named: Any) -> SampleEvaluator:
        judge = real(*given, **named)
        if "judge" not in context.queue.study.user_attrs:  # the other machine was faster
            record = {**judge.record, "hash": first.hash}
            keep_extractor(context.queue.engine, first.hash, extractor_content(first))
            context.queue.study.set_user_attr("judge", record)
            assert judge.extractor.hash != first.hash
        return judge

    monkeypatch.setattr("models.evaluation.sample_evaluator.open_evaluator", slow)
    judge = StudyEvaluators(context.run, digits, context.queue).own
    assert judge.extractor.hash == first.hash
    assert context.queue.study.user_attrs["judge"]["hash"] == first.hash


def test_a_study_of_losses_needs_no_evaluator(make_gan_context: MakeContext) -> None:
    spec = make_gan_context().spec
    assert spec.judges_samples
    assert not replace(spec, metric="loss_d").judges_samples


def test_a_measure_of_samples_is_no_metric_of_a_model_that_makes_none() -> None:
    def refusal(model: type[Model], metric: str | tuple[str, ...]) -> str:
        with pytest.raises(ValueError, match="unknown") as caught:
            StudySpec(
                model=model, suggest=lambda _: CAEConfig(), data="digits", metric=metric, trials=1,
                epochs=1,
            )  # fmt: skip
        return str(caught.value)

    said = "available: mse; CAE is measured by frechet if it says judged = True and has samples()"
    assert refusal(CAE, "frechet") == f"unknown metric 'frechet'; {said}"
    assert "if it says judged = True and has samples()" in refusal(CAE, ("mse", "kid"))
    both = "if it says judged = True and has samples() and says labelled = True"
    assert refusal(CAE, "label_worst").endswith(both)
    said = refusal(GAN, "label_worst")
    assert said.endswith("; GAN is measured by label_worst if it says labelled = True")
    assert refusal(CAE, "mes").endswith("available: mse")


@pytest.mark.parametrize(
    ("family", "config"),
    [
        (GAN, SMALL),
        (VAE, VAEConfig(width=0.05, latent=4)),
        (StarGAN, StarGANConfig(width=0.03, blocks=0, labels=10, exclusive=True)),
    ],
)
def test_samples_are_the_same_each_time_and_images(
    digits: ImageSplits, judge: SampleEvaluator, family: Any, config: Any
) -> None:
    model = build(family, config, (1, 28, 28), seed=0)
    first, second = (judge.measure_model(model, digits) for _ in range(2))
    assert first == second
    with evaluating(model):
        drawn = model.samples(300, digits, "valid")
    assert drawn.shape == (300, 1, 28, 28)
    assert 0 <= float(drawn.min()) < float(drawn.max()) <= 1


def test_judging_leaves_the_training_as_it_was(digits: ImageSplits, judge: SampleEvaluator) -> None:
    plain, judged = (build(GAN, SMALL, (1, 28, 28), seed=0) for _ in range(2))
    without = list(fit(plain, digits, epochs=2, seed=1))
    watched = list(fit(judged, digits, epochs=2, seed=1, judge=judge))
    assert [e.train for e in without] == [e.train for e in watched]
    assert without[1].judging == 0 < watched[1].judging < watched[1].seconds


def test_the_readmes_gan_learns_has_verdicts_and_samples(
    make_gan_context: MakeContext, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(own_models()[1])
    spec = load_study(str(path)).spec
    config = spec.model.config_type(batch_size=16)

    def suggest(trial: BaseTrial) -> ModelConfig:
        spec.suggest(trial)
        return config  # the file's own rates: chance is not to decide what is learnt

    context = make_gan_context(spec.model, suggest=suggest, epochs=24, pruner="none")
    row = run_one(context)
    frame = curves("small", storage=context.run.storage)
    assert row["outcome"] == "complete"
    assert frame["value"].iloc[-1] < 0.7 * frame["value"].iloc[0]
    assert row["verdict"]
    assert row["verdict_reason"]
    health = ("loss_g", "loss_d", "accuracy_real", "accuracy_fake")
    assert {f"{part}_{name}" for part in ("train", "valid") for name in health} <= set(frame)

    model = build(spec.model, config, (1, 28, 28), seed=0)
    folder = tmp_path / "export"
    folder.mkdir()
    write_export(model, folder)
    loaded = load_export(folder, family=spec.model)
    assert torch.equal(loaded.sample(16, seed=0), model.sample(16, seed=0))
    drawn = "codes = np.random.default_rng(0).standard_normal((4, 32), dtype=np.float32)"
    assert drawn in onnx_usage(model)
    assert f"    {model.usage}" in genstudy_usage(model, str(path))


def test_history_survives_a_checkpoints_note() -> None:
    history = health_of_curve(
        [{"number": 2, "train": {"loss_g": 1.0, "x": 2.0}, "valid": {"frechet": 3.0, "y": 4.0}}]
    )
    diagnosis = GanDiagnosis({"frechet": 1.0}, prunes=False)
    diagnosis.history = history
    kept = json.loads(json.dumps(diagnosis.to_plain()))
    assert [Health.from_plain(health) for health in kept] == history
    assert history[0].numbers == {"loss_g": 1.0, "frechet": 3.0}


def test_an_encoder_judges_images_of_other_shapes(digits: ImageSplits) -> None:
    extractor = encoder_extractor(CAE(CAEConfig(latent=5), (1, 28, 28)))
    seen = extractor(torch.rand(4, 3, 40, 40))
    assert seen.features.shape == (4, 5)
    grey = torch.full((2, 3, 8, 8), 0.5)
    assert torch.allclose(reshape_images(grey, (1, 28, 28)), torch.tensor(0.5))
    assert reshape_images(grey[:, :1], (3, 8, 8)).shape == (2, 3, 8, 8)


UNLABELLED = """
    '''A GAN on images without classes.'''
    from models.gan import GAN, GANConfig
    from search.study import StudySpec

    def suggest(trial):
        return GANConfig(
            architecture="dropout-28", width=0.03, batch_size=32,
            lr_g=trial.suggest_float("lr_g", 1e-4, 1e-3),
        )

    STUDY = StudySpec(
        model=GAN, suggest=suggest, data="digits", shape=(1, 28, 28), metric="frechet",
        trials=2, epochs=1, retrain_epochs=1, judged_by="BASE",
    )
"""


def test_images_without_classes_are_judged_by_an_autoencoders_codes(
    user: User, study_file: WriteStudy, digits: ImageSplits, tmp_path: Path
) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for index, image in enumerate(digits.train.pixels[:150]):
        Image.fromarray(image[0].numpy()).save(folder / f"{index}.png")
    base = study_file("small")
    name = study_file("gan", UNLABELLED.replace("BASE", str(base)))
    data: dict[str, Any] = {"DATA": f"folder:{folder}", "WORKERS": 1, "TOP": 1}
    code, _, error = user.run(NAME=name, **data)
    assert code == 2
    assert error.startswith("error: these images have no classes: study 'gan' judges samples by")
    assert "FIRST=1 runs" in error
    assert error.count("\n") == 1
    code, out, error = user.run(NAME=name, FIRST=1, TRIALS=1, EPOCHS=1, **data)
    assert (code, error) == (0, "")
    assert "study small-folder-plain starts" in out
    found = json.loads((user.runs / "exports/gan-folder-plain/1/provenance.json").read_text())
    assert found["judge"]["extractor"] == "encoder"
    assert set(MEASURES) <= set(found["test"])
    assert found["verdict"]["verdict"]
    assert "discriminator.onnx" in found["output_differences"]
    card = (user.runs / "exports/gan-folder-plain/1/README.md").read_text()
    assert "its batch norms have the statistics of real training images" in card
    row = trials("gan-folder-plain", storage=user.url).iloc[0]
    assert row["value"] > row["floor"] > 0
