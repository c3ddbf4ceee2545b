"""The house: which file may import which, and that READMEs name each file.

Three rooms: `search` imports `models` and `storage`; these two import neither each other nor
`search`. Inside a room imports run down the arrows, and nowhere in a circle. Every import counts,
also one inside a function or for type checkers only.

    python -m pytest tests/test_house.py
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from models.base import Model
from models.export import family_named

ROOT = Path(__file__).parent.parent
ROOMS = ("search", "models", "storage")

# What no file of a room imports, from our own rooms or from elsewhere.
FORBIDDEN = {
    "models": {"search", "storage", "optuna", "sqlalchemy"},
    "storage": {"search", "models", "torch", "torchvision"},
    "search": set[str](),
}

# Each room from top to bottom: a file imports what stands below it, not what stands beside it. A
# name is that of a file, or of a folder with all that is in it.
ARROWS = {
    "search": (
        ("package",),
        ("command_line",),
        ("__main__",),
        ("cli",),
        ("reporting",),
        ("engines",),
        ("supervisor", "worker"),
        ("setup", "simulation", "studies"),
        ("trials",),
        ("study",),
        ("strategies", "variables"),
        ("variable_readers",),
        (
            "console",
            "fast_imports",
            "front",
            "hints",
            "messages",
            "receiver",
            "repeats",
            "surroundings",
            "tables",
        ),
        ("events", "jobs", "tracking"),
        ("errors", "goals", "interrupts", "pace", "passwords", "run", "spelling"),
        ("words",),
    ),
    "models": (
        ("augmentation", "costs", "upsample_ae"),
        ("cae", "classifier", "dense_ae", "evaluation", "vae"),
        ("acgan", "autoencoder", "gan", "stargan"),
        ("conditional_gan",),
        ("adversarial", "analysis", "image_classifier"),
        ("adversarial_networks", "export", "training", "usage"),
        ("base", "kernels", "networks", "program_files"),
        ("model_config", "needs"),
        ("asked_labels", "data", "optimizers", "programs"),
        ("figures", "tensor_files"),
        ("sealed_files",),
        ("seals",),
        ("errors", "results", "seeds"),
    ),
    "storage": (
        ("files",),
        ("frames",),
        ("database",),
        ("paths",),
        ("errors",),
    ),
}
FOOT_OF_ANALYSIS = "models.analysis.latent_models"  # families fulfil it: it knows no analysis

FACE = "search.package.genstudy"  # is installed as `genstudy`

# Lists, the dashboard and `--help` answer at once, because none of these loads PyTorch.
WITHOUT_TORCH = (
    "models.errors",
    "models.results",
    "models.sealed_files",
    "models.evaluation.gan_diagnosis",
    "models.evaluation.measures",
    "search.__main__",
    "search.cli.compare",
    "search.cli.dashboard",
    "search.cli.listing",
    "search.command_line",
    "search.cli.report",
    "search.cli.simulate",
    "search.cli.status",
    "search.console",
    "search.errors",
    "search.front",
    "search.goals",
    "search.messages",
    "search.reporting.summary",
    "search.repeats",
    "search.setup.mistakes",
    "search.spelling",
    "search.surroundings",
    "search.tables",
    "search.trials.tally",
    "search.variables",
    "search.words",
    "storage.frames",
)

# Written into every trial database and every export's config.json, so these places are for good.
STORED_FAMILIES = (
    "models.acgan:ACGAN",
    "models.adversarial:Adversarial",
    "models.augmentation:AugmentedGAN",
    "models.autoencoder:Autoencoder",
    "models.cae:CAE",
    "models.classifier:Classifier",
    "models.dense_ae:DenseAE",
    "models.gan:GAN",
    "models.stargan:StarGAN",
    "models.upsample_ae:UpsampleAE",
    "models.vae:VAE",
)

# What study files, model files and notebooks of users import: these names are for good, too.
USED_ELSEWHERE = {
    "models.base": ("Batch", "ConfigError", "Model", "ModelConfig", "Shape", "build", "require"),
    "models.export": ("load_export",),
    "search.repeats": ("at_epoch", "counted", "over_repeats", "spread"),
    "search.study": ("StudySpec", "Table"),
    "storage": ("best", "choices", "curves", "studies", "trials"),
}


class Import(NamedTuple):
    """One import of a file: ``models/gan.py:28 imports models.training.gan_balance``."""

    file: Path
    line: int
    source: str  # the module that imports
    target: str  # what it imports: a module of ours, or any other by its full name

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.target}"


def find_modules() -> dict[str, Path]:
    """All product modules by dotted name; a package has the name of its folder."""
    found = {}
    for path in (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def read_imports(source: str, path: Path, modules: Mapping[str, Path]) -> list[Import]:
    """Every import statement of a file; ``from package import module`` names the module."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno} imports relatively; name the module"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = [name if name in modules else str(node.module) for name in names]
        else:
            continue
        found += [Import(path, node.lineno, source, target) for target in dict.fromkeys(targets)]
    return found


MODULES = find_modules()


@cache
def all_imports() -> list[Import]:
    """Of all product modules; it takes seconds, and only the process that asks has to wait."""
    return [found for name, path in MODULES.items() for found in read_imports(name, path, MODULES)]


def own_imports() -> list[Import]:
    """Those of a product module by another."""
    return [found for found in all_imports() if found.target in MODULES]


def describe(broken: list[Import], rule: str) -> str:
    return "\n".join(f"{found}, but {rule}" for found in broken)


def folder_of(module: str) -> str:
    """The folder of a module; the files at the top of a room stand for themselves."""
    is_package = MODULES[module].name == "__init__.py"
    return module if is_package or module.count(".") < 2 else module.rpartition(".")[0]


def name_in_room(module: str) -> str:
    """``data`` of ``models.data.images``; empty for a room's own `__init__`."""
    return module.partition(".")[2].partition(".")[0]


def level_of(module: str) -> int | None:
    """How many levels stand above that of a module in its room; None: it has none."""
    levels = ARROWS[module.partition(".")[0]]
    found = (level for level, names in enumerate(levels) if name_in_room(module) in names)
    return next(found, None)


def find_circle(edges: Mapping[str, set[str]]) -> list[str]:
    """The names along one circle of ``edges``, the first one repeated at its end; or nothing."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for after in sorted(edges.get(name, ())):
            if circle := visit(after, [*way, name]):
                return circle
        done.add(name)
        return []

    return next((circle for name in sorted(edges) if (circle := visit(name, []))), [])


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may_know(room: str) -> None:
    broken = [
        found
        for found in all_imports()
        if found.source.partition(".")[0] == room
        and found.target.partition(".")[0] in FORBIDDEN[room]
    ]
    assert not broken, describe(broken, f"{room} knows none of {sorted(FORBIDDEN[room])}")
    assert any(found.source.partition(".")[0] == room for found in all_imports())


@pytest.mark.parametrize("of", ["files", "folders"])
def test_imports_run_in_no_circle(of: str) -> None:
    place: Callable[[str], str] = folder_of if of == "folders" else str
    edges: dict[str, set[str]] = {}
    for found in own_imports():
        start, end = place(found.source), place(found.target)
        if start != end or of == "files":
            edges.setdefault(start, set()).add(end)
    circle = find_circle(edges)
    along = [
        next(found for found in own_imports() if (place(found.source), place(found.target)) == edge)
        for edge in pairwise(circle)
    ]
    assert not circle, describe(along, f"{of} import each other in no circle")


def test_a_circle_is_found() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"d"}, "x": {"a"}}) == []
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_circle({"a": {"a"}}) == ["a", "a"]


@pytest.mark.parametrize("room", ROOMS)
def test_every_file_has_its_place_in_the_arrows(room: str) -> None:
    inside = [name for name in MODULES if name.startswith(f"{room}.")]
    lost = [str(MODULES[name].relative_to(ROOT)) for name in inside if level_of(name) is None]
    assert not lost, f"give these a place in ARROWS of {Path(__file__).name}: {lost}"
    names = [name for level in ARROWS[room] for name in level]
    assert len(names) == len(set(names)), "one place each"


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_down_the_arrows(room: str) -> None:
    broken = []
    for found in own_imports():
        rooms = {found.source.partition(".")[0], found.target.partition(".")[0]}
        above, below = level_of(found.source), level_of(found.target)
        if rooms != {room} or above is None:  # an `__init__` of a room has a rule of its own
            continue
        is_same = name_in_room(found.source) == name_in_room(found.target)
        if not is_same and (below is None or below <= above):
            broken.append(found)
    order = " > ".join(", ".join(level) for level in ARROWS[room])
    assert not broken, describe(broken, f"imports in {room} run from left to right: {order}")


def test_what_families_fulfil_stands_at_the_foot_of_the_analysis() -> None:
    broken = [
        found
        for found in own_imports()
        if found.source == FOOT_OF_ANALYSIS and found.target.startswith("models.analysis")
    ]
    assert FOOT_OF_ANALYSIS in MODULES
    assert not broken, describe(broken, f"{FOOT_OF_ANALYSIS} imports no analysis")


def test_importing_a_package_imports_nothing_else() -> None:
    broken = [
        found
        for found in all_imports()
        if found.file.name == "__init__.py" and found.target != "__future__"
    ]
    faces = ("storage", FACE)  # what notebooks import: each name is loaded when it is used
    others = [found for found in broken if found.source not in faces]
    assert not others, describe(others, "an __init__.py is empty, but for those of notebooks")
    lazy = {found.target for found in broken if found.source == "storage"}
    assert lazy <= {"typing", "storage.frames"}


def test_every_folder_of_a_room_is_a_package() -> None:
    folders = {path.parent for path in MODULES.values()}
    bare = sorted(str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").is_file())
    assert not bare, f"{bare} have no __init__.py; does .gitignore hide it?"


TORCH_IS_LOADED = """
import importlib, sys, traceback

class Watch:
    way = ""
    def find_spec(self, name, path=None, target=None):
        if name == "torch" and not self.way:
            frames = [f for f in traceback.extract_stack() if "importlib" not in f.filename]
            self.way = " > ".join(f"{f.filename}:{f.lineno}" for f in frames[1:])

watch = Watch()
sys.meta_path.insert(0, watch)
for name in sys.argv[1:]:
    importlib.import_module(name)
    if "torch" in sys.modules:
        sys.exit(f"{name} loads torch, but lists and the dashboard answer at once: {watch.way}")
"""


def test_what_answers_at_once_loads_no_torch() -> None:
    missing = [name for name in WITHOUT_TORCH if name not in MODULES]
    assert not missing, f"no such modules: {missing}"
    done = subprocess.run(
        [sys.executable, "-c", TORCH_IS_LOADED, *WITHOUT_TORCH],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["models", "search", "search/studies", "storage"])
def test_a_readme_names_every_file_of_its_room_and_no_other(folder: str) -> None:
    own = ROOT / folder
    beside = own / "studies" if folder == "search" else None  # has a README of its own
    files = {path for path in own.rglob("*.py") if beside not in path.parents}
    named = read_named_files(own)
    assert named <= files, f"no such file: {sorted(map(str, named - files))}"
    missing = {path for path in files - named if path.name != "__init__.py"}
    assert not missing, f"{folder}/README.md has no line for {sorted(map(str, missing))}"


def read_named_files(folder: Path) -> set[Path]:
    """Return the files in the first column of a README's tables.

    A heading such as ``## cli/: one file a command`` says in which folder they stand.
    """
    named, place = set(), folder
    for line in (folder / "README.md").read_text().splitlines():
        if line.startswith("#"):
            place = folder / line.partition(":")[0].strip("# ") if "/:" in line else folder
        elif line.startswith("|"):
            for name in re.findall(r"`([\w/]+\.py)`", line.split("|")[1]):
                found = (place / "genstudy" / name, place / name, folder / name)
                named.add(next(filter(Path.is_file, found), place / name))
    return named


@pytest.mark.parametrize("name", STORED_FAMILIES)
def test_a_family_stands_where_databases_and_exports_say(name: str) -> None:
    module, _, attribute = name.partition(":")
    rule = f"stored studies and exports name {name}: old ones would no longer be read"
    assert module in MODULES, f"{module} is gone, but {rule}"
    family = getattr(importlib.import_module(module), attribute, None)
    assert isinstance(family, type), f"{MODULES[module]} has no {attribute}, but {rule}"
    assert issubclass(family, Model)
    assert f"{family.__module__}:{family.__qualname__}" == name, rule
    if not getattr(family, "__abstractmethods__", None):
        assert family_named(name) is family


@pytest.mark.parametrize("name", USED_ELSEWHERE)
def test_what_users_import_stays_where_it_is(name: str) -> None:
    module = importlib.import_module(name)
    missing = [public for public in USED_ELSEWHERE[name] if not hasattr(module, public)]
    assert not missing, f"{MODULES[name]} has no {missing}, but files of users import it"
    hidden = set(USED_ELSEWHERE[name]) - set(getattr(module, "__all__", USED_ELSEWHERE[name]))
    assert not hidden, f"{MODULES[name]} leaves {sorted(hidden)} out of __all__"
