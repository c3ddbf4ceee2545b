"""Study files with mistakes in them, given to `make study`: one line each, nothing is changed."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SMALL_STUDY

SMALL = textwrap.dedent(SMALL_STUDY)
SUGGEST = "def suggest(trial):\n"

# what the file holds, and words of the line
CONTENTS: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["defines no STUDY", "STUDY = StudySpec(...)"]),
    "binary": (bytes(range(256)), ["SyntaxError"]),
    "nul-bytes": (SMALL.replace("channels", "chan\0nels").encode(), ["null bytes"]),
    "utf-16": (SMALL.encode("utf-16"), ["SyntaxError"]),
    "latin-1": (SMALL.replace("small", "gr\xfc\xdfe").encode("latin-1"), ["SyntaxError", "utf-8"]),
    "unknown-encoding": (b"# coding: klingon\n" + SMALL.encode(), ["SyntaxError", "klingon"]),
    "an-image": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ["SyntaxError"]),
    "toml": (b"[study]\nmodel = cae\ntrials = 50\n", ["line 1: NameError"]),
    "half-a-file": (SMALL.encode()[:-5], ["SyntaxError", "line"]),
    "tabs-and-spaces": (b"if True:\n\tx = 1\n        y = 2\n", ["line 3: TabError"]),
    "deep-brackets": (b"x = " + b"(" * 5000 + b")" * 5000, ["s.py"]),
    "deep-recursion": (b"def f(): f()\nf()\n", ["line 1: RecursionError"]),
    "a-pickle": (b"\x80\x04\x95\x05\0\0\0\0\0\0\0\x8c\x01x\x94.", ["SyntaxError"]),
}


def changed(old: str, new: str) -> bytes:
    assert old in SMALL
    return SMALL.replace(old, textwrap.dedent(new)).encode()


def suggesting(code: str) -> bytes:
    """The small study, whose `suggest` begins with ``code``."""
    return changed(SUGGEST, SUGGEST + textwrap.indent(textwrap.dedent(code), "    "))


CONTENTS |= {
    "study-is-text": (b"STUDY = 'cae'", ["defines no STUDY of type StudySpec"]),
    "study-is-a-class": (b"from search.study import StudySpec as STUDY", ["defines no STUDY"]),
    "data-none": (changed('"digits"', "None"), ["data=None", "folder:PATH"]),
    "data-list": (changed('"digits"', '["digits"]'), ["data=['digits']", "name"]),
    "data-misspelt": (changed('"digits"', '"digit"'), ["unknown data 'digit'", "'digits'?"]),
    "data-a-path": (changed('"digits"', '"/tmp/pictures"'), ["unknown data", "folder:PATH"]),
    "metric-none": (
        changed('"mse"', "None"),
        ["metric=None is neither a name nor names of several goals"],
    ),
    "metric-case": (
        changed('"mse"', '"MSE"'),
        ["unknown metric 'MSE'; did you mean 'mse'? available: mse"],
    ),
    "direction": (changed("trials=4", "trials=4, direction='min'"), ["'minimize' or 'maximize'"]),
    "trials-text": (changed("trials=4", "trials='4'"), ["trials='4' is not a whole number"]),
    "trials-huge": (changed("trials=4", "trials=10**30"), ["trials=1000", "1000000000"]),
    "trials-infinite": (changed("trials=4", "trials=float('inf')"), ["trials=inf is not a whole"]),
    "epochs-zero": (changed("epochs=2,", "epochs=0,"), ["epochs=0 is not a whole number from 1"]),
    "epochs-true": (changed("epochs=2,", "epochs=True,"), ["epochs=True is not a whole number"]),
    "retrain-none": (changed("retrain_epochs=2", "retrain_epochs=None"), ["retrain_epochs=None"]),
    "patience-zero": (changed("trials=4", "trials=4, patience=0"), ["patience=0 is not"]),
    "seed-negative": (changed("trials=4", "trials=4, seed=-1"), ["seed=-1 is not", "from 0"]),
    "seed-text": (changed("trials=4", "trials=4, seed='x'"), ["seed='x' is not a whole number"]),
    "shape-huge": (changed("(1, 28, 28)", "(1, 10**6, 10**6)"), ["shape=(1, 1000000", "4096"]),
    "shape-true": (changed("(1, 28, 28)", "(True, 28, 28)"), ["shape=(True, 28, 28) is not"]),
    "shape-float": (changed("(1, 28, 28)", "(1, 28.0, 28)"), ["shape=(1, 28.0, 28) is not"]),
    "shape-list": (changed("(1, 28, 28)", "[1, 28, 28]"), ["shape=[1, 28, 28] is not (channels"]),
    "shape-negative": (changed("(1, 28, 28)", "(1, -28, 28)"), ["shape=(1, -28, 28) is not"]),
    "shape-too-small": (changed("(1, 28, 28)", "(1, 5, 5)"), ["5x5 are too small", "9x9"]),
    "sampler-number": (changed('"random"', "5"), ["sampler=5", "tpe", "lambda seed:"]),
    "sampler-code": (changed('"random"', "\"__import__('os')\""), ["unknown sampler '__import__'"]),
    "sampler-makes-nothing": (
        changed('"random"', "lambda seed: None"),
        ["sampler made None", "return a sampler"],
    ),
    "pruner-number": (changed('"none"', "5"), ["pruner=5", "median"]),
    "pruner-class": (
        changed('"none"', "__import__('optuna').pruners.MedianPruner"),
        ["pruner=", "MedianPruner"],
    ),
    "pruner-none": (changed('"none"', "None"), ["pruner=None", "'none'"]),
    "suggest-returns-nothing": (changed("return CAEConfig", "CAEConfig"), ["returned NoneType"]),
    "suggest-yields": (changed("return CAEConfig", "yield CAEConfig"), ["returned generator"]),
    "suggest-takes-nothing": (changed("suggest(trial)", "suggest()"), ["TypeError", "suggest()"]),
    "suggest-raises": (suggesting("raise ValueError('one\\ntwo')\n"), ["line 7: ValueError: one"]),
    "suggest-exits": (suggesting("raise SystemExit('bye')\n"), ["line 7: SystemExit: bye"]),
    "suggest-recurses": (suggesting("suggest(trial)\n"), ["line 7: RecursionError"]),
    "suggest-shouts": (suggesting("raise ValueError('x' * 10**6)\n"), ["ValueError: xxx"]),
    "an-error-without-words": (
        b"class Odd(Exception):\n    def __str__(self):\n        raise ValueError\nraise Odd\n",
        ["line 4: Odd"],
    ),
    "an-odd-way-out": (b"class Out(BaseException): pass\nraise Out('no')\n", ["line 2: Out: no"]),
    "a-warning-before": (
        b"x = '\\d'\nimport warnings\nwarnings.warn('hm')\n",
        ["defines no STUDY"],
    ),
    "one-name-in-two-ways": (
        changed('trial.suggest_int("latent", 2, 8)', 'trial.suggest_int("channels", 2, 8)'),
        ["channels"],
    ),
    "ranges-that-move": (
        changed('"latent", 2, 8', '"latent", 2, 8 + trial.number'),
        ["'latent' in two ways"],
    ),
    "bound-nan": (changed("1e-4, 1e-2, log=True", "float('nan'), 1.0"), ["lr", "nan"]),
    "bound-infinite": (changed("1e-4, 1e-2, log=True", "0.0, float('inf')"), ["lr", "inf"]),
    "low-above-high": (changed('"latent", 2, 8', '"latent", 80, 8'), ["line 9", "80"]),
    "log-of-zero": (changed("1e-4, 1e-2", "0.0, 1e-2"), ["line 10: ValueError"]),
    "bound-huge": (changed('"latent", 2, 8', '"latent", 2, 10**30'), ["latent"]),
    "bound-text": (changed('"latent", 2, 8', '"latent", "a", "z"'), ["line 9: ValueError"]),
    "choices-none": (suggesting("trial.suggest_categorical('c', [])\n"), ["line 7: ValueError"]),
    "choices-of-objects": (
        suggesting("trial.suggest_categorical('c', [dict, 1])\n"),
        ["'c'", "None, bool, int, float or str"],
    ),
    "batch-of-nothing": (
        changed("channels=trial", "batch_size=0, channels=trial"),
        ["batch_size=0"],
    ),
    "a-package-that-is-not-there": (
        b"import keras_tuner_of_mine\n" + SMALL.encode(),
        ["line 1: ModuleNotFoundError", "keras_tuner_of_mine"],
    ),
    "prints-much": (b"print('hello\\n' * 9)\n", ["defines no STUDY"]),
}


@pytest.mark.parametrize("mistake", CONTENTS)
def test_a_mistake_in_a_study_file_is_one_line(
    tmp_path: Path, refused: Callable[..., str], mistake: str
) -> None:
    content, words = CONTENTS[mistake]
    path = tmp_path / "s.py"
    path.write_bytes(content)
    said = refused(NAME=path)
    for word in words:
        assert word in said
    of_variables_too = ("unknown data", "the sampler cannot draw")
    assert str(path) in said or any(words in said for words in of_variables_too)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to("gone.py")


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def a_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_link_to_memory(path: Path) -> None:
    path.symlink_to("/proc/self/mem")


def a_note(path: Path) -> None:
    path.write_text(SMALL)


# how the place is made, how NAME is written, and words of the line
PLACES: dict[str, tuple[Callable[[Path], None], str, list[str]]] = {
    "a-folder": (a_folder, "s.py", ["no study file", "s.py"]),
    "a-pipe": (a_pipe, "s.py", ["no study file"]),
    "a-link-to-nothing": (a_link_to_nothing, "s.py", ["no study file", "gone.py"]),
    "a-link-to-itself": (a_link_to_itself, "s.py", ["s.py"]),
    "a-link-to-a-device": (a_link_to_a_device, "s.py", ["no study file", "/dev/zero"]),
    "a-file-that-cannot-be-read": (a_link_to_memory, "s.py", ["mem", ".py"]),
    "another-ending": (a_note, "notes.txt", ["notes.txt", ".py"]),
    "a-space": (a_note, "my study .py", ["'my study ' is not usable", "rename the file"]),
    "a-backslash": (a_note, "a\\b.py", ["is not usable", "without / and"]),
    "an-option": (a_note, "-rf.py", ["'-rf' is not usable"]),
    "a-long-name": (a_note, "x" * 120 + ".py", ["is not usable", "at most 100"]),
    "a-newline": (a_note, "a\nb.py", ["not usable"]),
    "too-long-for-a-file": (lambda path: None, "x" * 5000 + ".py", ["no study file", "NAME"]),
    "not-there": (lambda path: None, "../cae.py", ["no study file"]),
}


@pytest.mark.parametrize("mistake", PLACES)
def test_a_study_file_that_is_none_is_one_line(
    tmp_path: Path, refused: Callable[..., str], mistake: str
) -> None:
    make, name, words = PLACES[mistake]
    path = tmp_path / name
    make(path)
    said = refused(NAME=path)
    for word in words:
        assert word in said


NAMES = {
    "out-of-the-studies": ("../studies", ["no study file"]),
    "etc": ("/etc/passwd", ["/etc/passwd", ".py"]),
    "nobodys-home": ("~nobody-of-that-name/s.py", ["~nobody-of-that-name"]),
    "the-package": ("__init__", ["unknown study '__init__'; available: "]),
    "shell": ("cae; rm -rf /tmp/x", ["no study file", "NAME takes"]),
    "dots": ("..", ["unknown study '..'"]),
    "long": ("y" * 100_000, ["unknown study 'yyy", "available: "]),
    "not-utf-8": (os.fsdecode(b"\xff\xfe"), ["NAME", "UTF-8"]),
    "blank": ("  ", ["NAME is not set", "make study NAME=cae"]),
}


@pytest.mark.parametrize("mistake", NAMES)
def test_a_name_that_no_study_has_is_one_line(refused: Callable[..., str], mistake: str) -> None:
    name, words = NAMES[mistake]
    said = refused(NAME=name)
    for word in words:
        assert word in said
