"""The contract of all studies, and study files with mistakes in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from models.base import Model, build
from models.cae import CAE, CAEConfig
from models.data.images import ImageSplits
from models.vae import VAEConfig
from search.cli.listing import _read_study_file
from search.errors import SearchError, StudyChanged, StudyFileError, UnknownStudy
from search.setup.checks import check_fit
from search.setup.loading import load_study, study_names
from search.setup.stored_study import check_identity, identify_study, read_identity, write_identity
from search.study import Study
from tests.conftest import blank_images

WriteStudy = Callable[..., Path]


def a_base(study: Study, shape: tuple[int, int, int]) -> Model | None:
    """Any model of the study that ``study`` starts from, untrained."""
    if study.spec.starts_from is None:
        return None
    base = load_study(study.spec.starts_from)
    spec, images = base.spec, blank_images(shape)
    config = spec.model.fitted(spec.suggest(optuna.create_study().ask()), images)
    return build(spec.model, config, shape, seed=0, base=a_base(base, shape))


@pytest.mark.parametrize("name", study_names())
def test_every_study_loads_and_builds_what_it_suggests(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    assert study.space
    assert study.path.read_text().startswith('"""'), "the first line says what it is about"
    assert f"make study NAME={name}" in study.path.read_text()
    shown = _read_study_file(study.path)  # without running the file
    assert shown[:2] == (study.spec.data, str(study.spec.trials))
    shape = study.spec.shape or (1, 28, 28)
    images = blank_images(shape)
    check_fit(study, shape, images, a_base(study, shape))


def test_the_cae_study_is_reference_system_a1() -> None:
    study = load_study("cae")
    spec = study.spec
    assert study.space == {
        "channels": IntDistribution(4, 10),
        "latent": IntDistribution(10, 60),
        "optimizer": CategoricalDistribution(("adam", "sgd")),
        "weight_decay": FloatDistribution(1e-6, 1e-4, log=True),
        "lr": FloatDistribution(5e-5, 5e-2, log=True),
    }
    assert (spec.model, spec.data, spec.metric, spec.direction) == (
        CAE, "fashion_mnist", "mse", "minimize",
    )  # fmt: skip
    assert (spec.sampler, spec.trials, spec.patience) == ("random", 50, 4)
    assert isinstance(spec.pruner, optuna.pruners.MedianPruner)
    assert (spec.pruner._n_startup_trials, spec.pruner._n_warmup_steps) == (3, 2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vae", VAEConfig(architecture="latent-2", latent=2, batch_size=128)),
        (
            "vae_faces",
            VAEConfig(
                architecture="faces-64", latent=128, beta=12.288, reconstruction="mse",
                optimizer="adamax", lr=5e-4,
            ),
        ),
        ("vae_wide", VAEConfig(architecture="wide-64", latent=20, lr=1e-6, batch_size=128)),
    ],
)  # fmt: skip
def test_the_vae_studies_begin_with_reference_system_a6(name: str, expected: VAEConfig) -> None:
    study = load_study(name)
    ((reference, parameters),) = study.spec.references.items()
    assert reference == expected.architecture
    assert set(parameters) == set(study.space)
    assert all(study.space[key]._contains(study.space[key].to_internal_repr(value))
               for key, value in parameters.items())  # fmt: skip
    assert study.spec.suggest(FixedTrial(dict(parameters))) == expected
    assert study.spec.metric == ("mse" if name == "vae_faces" else "nelbo"), "as reported"


def test_a_study_file_outside_the_repository_needs_nothing_else(study_file: WriteStudy) -> None:
    study = load_study(str(study_file("mine")))
    assert study.name == "mine"
    assert isinstance(study.spec.suggest(optuna.create_study().ask()), CAEConfig)


def test_the_readmes_study_is_a_study_of_about_ten_lines(tmp_path: Path) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (example,) = [b for b in readme.split("```python\n")[1:] if "STUDY = StudySpec" in b]
    code = example.partition("```")[0]
    (tmp_path / "mine.py").write_text(code)
    study = load_study(str(tmp_path / "mine.py"))
    check_fit(study, study.spec.shape or (1, 28, 28))
    assert len([line for line in code.splitlines() if line.strip()]) <= 10


def test_conditional_parameters_are_found(study_file: WriteStudy) -> None:
    path = study_file(
        replace={
            "channels=trial": (
                'channels=trial.suggest_int("deep", 1, 2) '
                'if trial.suggest_categorical("b", [True, False]) else trial'
            )
        }
    )
    assert set(load_study(str(path)).space) == {"b", "deep", "channels", "latent", "lr"}


def test_an_unknown_study_lists_what_there_is() -> None:
    with pytest.raises(UnknownStudy, match=r"unknown study 'caee'; did you mean 'cae'\? av.*cae"):
        load_study("caee")


MISTAKES = {
    "a misspelt name": ("CAEConfig(\n", "CAEConfg(\n", "line 7: NameError: name 'CAEConfg'"),
    "a misspelt field": ("latent=", "latents=", "line 7: TypeError: .*unexpected.*latents"),
    "a syntax error": ("def suggest(trial):", "def suggest(trial)", "line 6: SyntaxError"),
    "an unknown module": ("from models.cae", "from models.caee", "line 3: ModuleNotFoundError"),
    "no study": ("STUDY =", "MY_STUDY =", "defines no STUDY of type StudySpec"),
    "another thing": ("STUDY = StudySpec(", "STUDY = dict(", "defines no STUDY of type StudySpec"),
    "an unknown metric": (
        'metric="mse"',
        'metric="mes"',
        r"unknown metric 'mes'; did you mean 'mse'\? available: mse",
    ),
    "an unknown direction": ("trials=4", "trials=4, direction='down'", "direction='down'"),
    "no trials": ("trials=4", "trials=0", "trials=0 is not a whole number from 1"),
    "half a trial": ("trials=4", "trials=4.5", "trials=4.5 is not a whole number"),
    "true trials": ("trials=4", "trials=True", "trials=True is not a whole number"),
    "no epochs": ("epochs=2,", "epochs=-1,", "epochs=-1 is not a whole number"),
    "a missing field": ('data="digits",', "", "TypeError: .*missing.*data"),
    "an unknown field": ("trials=4", "trials=4, gpus=2", "TypeError: .*unexpected.*gpus"),
    "an unknown sampler": ('"random"', '"randm"', "unknown sampler 'randm'"),
    "an unknown pruner": ('"none"', '"non"', "unknown pruner 'non'"),
    "an odd shape": ("(1, 28, 28)", "(28, 28)", r"shape=\(28, 28\) is not"),
    "a two-channel shape": ("(1, 28, 28)", "(2, 28, 28)", r"shape=\(2, 28, 28\) is not"),
    "not a model": ("model=CAE,", "model=CAEConfig,", "is not a class derived from"),
    "a model instance": ("model=CAE,", "model='cae',", "model='cae' is not a class"),
    "not a function": ("suggest=suggest", "suggest=3", "suggest must be a function"),
    "a reversed range": ('"latent", 2, 8', '"latent", 8, 2', "line 9: ValueError"),
    "a value out of range": ('"latent", 2, 8', '"latent", -8, 2', "latent=-.* is outside"),
    "another type": ("return CAEConfig(", "return dict(", "suggest returned dict, but CAE takes"),
    "one name twice": (
        'latent=trial.suggest_int("latent", 2, 8)',
        'latent=trial.suggest_int("channels", 2, 8)',
        "line 9|two ways|Cannot set different distribution",
    ),
    "an exit": ("def suggest", "raise SystemExit(3)\n\n    def suggest", "line 6: SystemExit: 3"),
    "a crash": ("def suggest", "1 / 0\n\n    def suggest", "line 6: ZeroDivisionError"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_study_file_is_one_line_with_its_place(
    study_file: WriteStudy, mistake: str
) -> None:
    old, new, message = MISTAKES[mistake]
    path = study_file("broken", replace={old: new})
    with pytest.raises(StudyFileError, match=message) as caught:
        load_study(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty", "", "defines no STUDY"),
        ("binary", "\x00\x01\x02", "null bytes|SyntaxError"),
        (".my study", "", "not usable.*rename the file"),
        ("-rf", "", "not usable"),
        ("x" * 120, "", "not usable"),
    ],
)
def test_odd_study_files_are_one_line(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / f"{name}.py"
    path.write_text(content)
    with pytest.raises(StudyFileError, match=message):
        load_study(str(path))


@pytest.mark.parametrize("name", ["../cae", "/nowhere/x.py", "search/studies", "x.py"])
def test_a_path_without_a_file_is_an_unknown_study(name: str) -> None:
    with pytest.raises(UnknownStudy, match="no study file"):
        load_study(name)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.one_of(st.text(max_size=80), st.from_regex(r"(STUDY|x) = .{0,30}")))
def test_any_text_is_a_study_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: str
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "s.py"
    path.write_text(content, encoding="utf-8", errors="replace")
    with pytest.raises(SearchError):
        load_study(str(path))


def test_images_that_do_not_fit_the_model_are_found_before_the_first_trial(
    study_file: WriteStudy,
) -> None:
    study = load_study(str(study_file()))
    with pytest.raises(StudyFileError, match="images of 5x5 are too small"):
        check_fit(study, (1, 5, 5))


def test_a_definition_comes_back_from_the_database(
    study_file: WriteStudy, digits: ImageSplits
) -> None:
    study = load_study(str(study_file()))
    stored = optuna.create_study()
    assert read_identity(stored) is None
    definition = identify_study(study, digits, epochs=5, seed=None, stored=None)
    assert (definition.epochs, definition.seed) == (5, 0)
    write_identity(stored, definition)
    assert read_identity(stored) == definition
    # unset variables mean what the study was started with
    again = identify_study(study, digits, epochs=None, seed=None, stored=definition)
    check_identity("s", definition, again)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"latent", 2, 8', '"latent", 2, 9', "latent 2 to 8, now 2 to 9"),
        ("1e-2, log=True", "1e-2", "lr log 0.0001 to 0.01, now 0.0001 to 0.01"),
        (
            '"latent"',
            '"width"',
            "parameter latent 2 to 8, now gone; no parameter width, now 2 to 8",
        ),
        ("epochs=2,", "epochs=3,", "EPOCHS 2, now 3"),
        ("trials=4", "trials=4, seed=1", "SEED 0, now 1"),
        ("lr=trial", "batch_size=64, lr=trial", "configurations that suggest makes"),
        ("trials=4", "trials=9", None),
        ('"none"', '"median"', None),
        ('"random"', '"tpe"', None),
    ],
)
def test_a_changed_study_says_what_changed(
    study_file: WriteStudy, digits: ImageSplits, old: str, new: str, message: str | None
) -> None:
    before = identify_study(
        load_study(str(study_file())), digits, epochs=None, seed=None, stored=None
    )
    study = load_study(str(study_file("other", replace={old: new})))
    now = identify_study(study, digits, epochs=None, seed=None, stored=before)
    if message is None:
        check_identity("s", before, now)
        return
    with pytest.raises(StudyChanged, match=message):
        check_identity("s", before, now)


def test_a_given_variable_that_differs_from_the_stored_study_is_refused(
    study_file: WriteStudy, digits: ImageSplits
) -> None:
    study = load_study(str(study_file()))
    stored = identify_study(study, digits, epochs=5, seed=1, stored=None)
    now = identify_study(study, digits, epochs=6, seed=2, stored=stored)
    with pytest.raises(StudyChanged, match=r"EPOCHS 5, now 6; SEED 1, now 2.* Put that back"):
        check_identity("s", stored, now)
