"""A process that has imported genstudy once, and forks for every command of a test.

    server = Preloaded(folder)                        # the same for all processes of a session
    process = server.start("study", environment)      # a subprocess.Popen

What a command costs before its first trial is imports: seconds for the supervisor and for each of
its workers, and ten more for the first ONNX export of a process. Here they are paid once for all
tests of a session, also where several processes share its tests. A forked command is a process
like any other: it has its own pipes, signals, session and children, and runs the same
`search.__main__.main` as ``python -m search study``.

    tests            Preloaded.start: sends a command, its environment and its three files
    server           forks the command, reports its process id and, later, its return code
    command          forks some workers, which wait, then runs `main`; where genstudy starts a
                     worker's process, one of those that wait takes it over
    worker           runs `main(["trainer"])`

What only a new interpreter can show (start-up, memory, environments) is tested with
`tests.conftest.real_user`.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from functools import cache, partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock

from search.supervisor.process import KEEP_MEMORY, ONE_THREAD, WORKER

ROOT = Path(__file__).parent.parent
MOST = 2  # workers that are forked for a study; it seldom wants more
LARGEST = 2**17  # bytes of a message: an environment
FEWEST_STEPS = 250  # that t-SNE takes
FEW_EMBEDDED = 100  # images that t-SNE takes
FEW_DOTS = 60  # pixels an inch of a figure
EXTRACTOR_EPOCHS = 2  # that make the features of a test's samples
FILES = 3  # standard input, output and error


class Preloaded:
    """The server, as tests see it."""

    def __init__(self, folder: Path) -> None:
        """Connect to the server of ``folder``; start it if there is none."""
        address = f"\0genstudy-tests-{hashlib.sha256(bytes(folder)).hexdigest()}"
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with FileLock(folder / "preloaded.lock"):
            try:
                self._server.connect(address)
            except ConnectionRefusedError:
                _start_server(address)
                self._server.connect(address)  # it is answered when all is imported

    def start(
        self, command: str, environment: dict[str, str], before: str = "", deaths: int = 1
    ) -> subprocess.Popen[str]:
        """Run a command.

        before: a program that it runs before all else
        deaths: workers that a study may lose before further ones are new interpreters
        """
        spare = _count_workers(environment) + 1 + deaths if command in ("study", "worker") else 0
        return _Forked(self._server, [command], environment, before, spare)

    def run_program(self, program: str, *arguments: object) -> subprocess.Popen[str]:
        """Run a program, as ``python -c`` does, with ``arguments`` in `sys.argv`."""
        words = ["-c", program, *map(str, arguments)]
        return _Forked(self._server, words, dict(os.environ), before="", spare=0)

    def close(self) -> None:
        self._server.close()  # the last one to close it ends the server


def _count_workers(environment: dict[str, str]) -> int:
    wanted = environment.get("WORKERS", "")
    return min(int(wanted), MOST) if wanted.isdigit() else MOST


def _start_server(address: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.preloaded", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            env={**os.environ, **KEEP_MEMORY, **ONE_THREAD, "PYTHONWARNINGS": "default"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
            start_new_session=True,
        )
    process.returncode = 0  # nobody waits for it: it may serve others when this process ends


class _Forked(subprocess.Popen[str]):
    """A process that the server has forked: not a child of this process, but used as one."""

    def __init__(
        self,
        server: socket.socket,
        words: list[str],
        environment: dict[str, str],
        before: str,
        spare: int,
    ) -> None:
        self._server = server
        self._more = {"before": before, "spare": spare}
        pipe = subprocess.PIPE
        super().__init__(words, env=environment, stdout=pipe, stderr=pipe, text=True)

    def _execute_child(self, args: Any, *rest: Any) -> None:
        environment, (read, write, _, output, _, error) = rest[5], rest[9:15]
        assert (read, write) == (-1, -1)
        self._ended, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        order = {"words": args, "environment": environment, **self._more}
        with Path(os.devnull).open() as nothing, theirs:
            files = [nothing.fileno(), output, error, theirs.fileno()]
            socket.send_fds(self._server, [json.dumps(order).encode()], files)
        self.pid = json.loads(self._server.recv(LARGEST))
        os.close(output)
        os.close(error)
        self._closed_child_pipe_fds = True
        self._child_created = True

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None:
            self._ask(0)
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        self._ask(0 if wait_flags & os.WNOHANG else None)
        return (0, 0) if self.returncode is None else (self.pid, self.returncode)

    def _handle_exitstatus(self, sts: int, *_: Any) -> None:
        """`_ask` has set ``returncode``."""

    def _ask(self, seconds: float | None) -> None:
        if self.returncode is None and select.select([self._ended], [], [], seconds)[0]:
            answer = self._ended.recv(LARGEST)
            assert answer, "the preloaded process has died"
            self.returncode = json.loads(answer)
            self._ended.close()


def serve(listener: socket.socket) -> None:
    """Fork a command for each order, until nobody is left who could order any more."""
    users: list[socket.socket] = []
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listener, *users], [], [], 0.02 if running else None)
        for pid in list(running):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                with running.pop(pid) as told:
                    _tell(told, os.waitstatus_to_exitcode(status))
        for source in ready:
            if source is listener:
                users.append(listener.accept()[0])
            elif not _serve_one(source, [listener, *users, *running.values()], running):
                users.remove(source)
                source.close()
                if not users:
                    return


def _serve_one(
    user: socket.socket, inherited: list[socket.socket], running: dict[int, socket.socket]
) -> bool:
    """Fork the command that ``user`` orders; return False if they have hung up."""
    order, files, _, _ = socket.recv_fds(user, LARGEST, FILES + 1)
    if not order:
        return False
    pid = _fork()
    if pid == 0:
        for each in inherited:
            each.close()
        os.close(files.pop())
        _end(partial(_run, files, **json.loads(order)))
    running[pid] = socket.socket(fileno=files.pop())
    for file in files:
        os.close(file)
    _tell(user, pid)
    return True


def _fork() -> int:
    with warnings.catch_warnings():  # newer Pythons warn where there is any other thread
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _tell(whom: socket.socket, number: int) -> None:
    try:
        whom.send(json.dumps(number).encode())
    except BrokenPipeError:
        return  # the test has lost interest


def _run(
    files: list[int], words: list[str], environment: dict[str, str], before: str, spare: int
) -> int:
    from search.__main__ import main

    _become(files, environment)
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(words[1], {"__name__": "__main__"})
        return 0
    exec(before, {})
    waiting = _fork_workers(spare)
    original = subprocess.Popen

    class Popen(original):  # type: ignore[type-arg, valid-type, misc]
        """Where a worker's process is started, one that waits for it takes it over."""

        def _execute_child(self, args: Any, *rest: Any) -> None:
            if tuple(args[: len(WORKER)]) != WORKER or not waiting:
                super()._execute_child(args, *rest)
                return
            environment, (read, _, _, output, _, error) = rest[5], rest[9:15]
            self.pid, taken = waiting.pop(0)
            with taken:
                order = json.dumps({"environment": environment}).encode()
                socket.send_fds(taken, [order], [read, output, error])
            os.close(read)
            os.close(output)
            self._closed_child_pipe_fds = True
            self._child_created = True

    subprocess.Popen = Popen  # type: ignore[misc]
    return main(words)


def _fork_workers(count: int) -> list[tuple[int, socket.socket]]:
    """Workers that wait until they are wanted; they end with the command that forked them."""
    from search.__main__ import main

    spare: list[tuple[int, socket.socket]] = []
    for _ in range(count):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = _fork()
        if pid == 0:
            for inherited in (ours, *(waiting for _, waiting in spare)):
                inherited.close()
            order, files, _, _ = socket.recv_fds(theirs, LARGEST, FILES)
            if not order:
                os._exit(0)
            theirs.close()
            Path("/proc/self/comm").write_text("trainer")
            _become(files, json.loads(order)["environment"])
            _end(lambda: main(["trainer"]))
        theirs.close()
        spare.append((pid, ours))
    return spare


def _become(files: list[int], environment: dict[str, str]) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  (it knows that it is a pipe)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    warnings.simplefilter("default", append=True)  # what was shown once is shown again
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where tests ignore it


def _end(run: Callable[[], int]) -> None:
    """As the interpreter does, save for taking torch's modules apart."""
    code = 1
    try:
        code = run()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        gc.collect()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def share_onnx_operators() -> None:
    """Let all exports of this process read PyTorch's tables of operators once, not each.

    Nothing writes into them: genstudy has no operators of its own.
    """
    import torch._export.utils as export_utils
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    find_operators = cache(export_utils._materialize_cpp_cia_ops)
    export_utils._materialize_cpp_cia_ops = find_operators  # type: ignore[assignment]
    once = cache(ONNXRegistry.from_torchlib)
    ONNXRegistry.from_torchlib = staticmethod(once)  # type: ignore[method-assign, assignment]


def load_all() -> None:
    """Import what commands and workers import, compile the kernels, and export a model.

    The first export of a process has a fixed cost. ONNX Runtime is not loaded: it starts a thread,
    and a fork has none but the one that forks.
    """
    import alembic.command  # noqa: F401
    import matplotlib.pyplot as plt
    import torch
    import tqdm  # type: ignore[import-untyped]
    from sklearn.datasets import load_digits
    from sklearn.manifold import TSNE

    import search.cli.listing
    import search.cli.report
    import search.cli.study
    import search.worker.main  # noqa: F401
    import storage.database.postgres_connection  # noqa: F401
    from models.base import build
    from models.cae import CAE, CAEConfig
    from models.data.images import Batch
    from models.export import write_export
    from models.kernels.conv_kernels import GATHERED, REDUCED, gather_kernel, reduce_kernel
    from search.setup.loading import load_study, study_names
    from storage.database.connection import open_storage

    share_onnx_operators()
    tqdm.tqdm.monitor_interval = 0  # no thread: it would not be in what is forked
    for name in study_names():
        load_study(name)
    load_digits()
    for ragged in (False, True):
        for size in range(1, GATHERED + 1):
            gather_kernel(size, ragged)
        for sizes in product(range(1, REDUCED + 1), repeat=2):
            reduce_kernel(*sizes, ragged)
    _train_little_beside_the_model()
    TSNE(perplexity=2, max_iter=FEWEST_STEPS).fit_transform(torch.rand(8, 3).numpy())
    model = build(CAE, CAEConfig(channels=1, latent=2), (1, 28, 28), seed=0)
    model.train_step(Batch(images=torch.rand(4, 1, 28, 28)))
    with TemporaryDirectory() as place:
        open_storage(f"sqlite:///{place}/studies.db").engine.dispose()
        write_export(model, Path(place))
        plt.figure()
        plt.title("fonts")
        plt.savefig(Path(place) / "figure.png")
        plt.close()


def _train_little_beside_the_model() -> None:
    """Let what is trained for tables, pictures and features take as few steps as they can be made
    of. The tests of each (`test_latents`, `test_checkerboard`, ...) take all of them."""
    from models import augmentation
    from models.analysis import baselines, checkerboard, elbo, latent_projections, latent_space
    from models.cae import CAE
    from models.evaluation import feature_cache
    from models.figures import canvas
    from search.studies import augmentation as augmentation_study

    canvas.DOTS = FEW_DOTS
    latent_projections.EMBEDDING_STEPS = FEWEST_STEPS
    latent_space.EMBEDDED = FEW_EMBEDDED
    baselines.EPOCHS = checkerboard.EPOCHS = CAE.noise_epochs = augmentation.AE_EPOCHS = 1
    elbo.FEWER_DECODED = 4e6
    augmentation_study.EPOCH_IMAGES = 640
    feature_cache.FEW_EPOCHS = EXTRACTOR_EPOCHS


if __name__ == "__main__":
    gc.disable()
    load_all()
    threads = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    threads.remove("jemalloc_bg_thd\n")  # of pyarrow, which is prepared for forks
    assert len(threads) == 1, threads
    gc.enable()
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        serve(listener)
    os._exit(0)
