"""Tables and lines fit the terminal, and show every character as it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.cells import cell_len
from rich.console import Console

from search.__main__ import main
from search.console import open_console, print_line
from search.supervisor.progress_lines import fit_items
from search.tables import Column, FittedTable, Kind, fold_name, format_column
from search.trials.tally import EndedTrial, describe_ends
from search.words import (
    format_count,
    format_duration,
    format_items,
    format_pace,
    format_value,
    show_text,
)
from storage.database.connection import open_storage

WIDTHS = [40, 80, 100, 150]
STEERING = "bell\x07 \x1b[31mred\x1b[0m \u202eback\n"
NASTY = ["[/x]", "[red]loud[/red]", ":smile:", "日本語", STEERING, "a_" * 60]


def lines_of(table: FittedTable, width: int) -> list[str]:
    return [text for text, _ in table.layout(width)]


def wide_table() -> FittedTable:
    numbers = [0.00312, 123456.0, float("nan")]
    return FittedTable(
        [
            format_column("rank", [1, 2, 3]),
            format_column("trial", [17, 4, 1000]),
            *(format_column(f"weight_{n:02}_of_the_loss", numbers) for n in range(20)),
            format_column("choice", ["[/x]", "a_long_choice_" * 5, None]),
            Column("about", ["words " * 30] * 3, Kind.WORDS),
        ],
        keys=2,
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_fits_and_cuts_no_number(width: int) -> None:
    lines = lines_of(wide_table(), width)
    assert max(map(cell_len, lines)) <= width
    shown = "\n".join(lines)
    assert shown.count("0.00312") == 20
    assert shown.count("1.2346e+05") + shown.count("123456") == 20
    assert "1000" in shown
    pieces = re.sub(r"\s", "", shown)
    assert "a_long_choice_" * 5 in pieces or shown.count("choice_") >= 5
    heads = [line for line in lines if line.startswith("rank")]
    assert all(re.match(r"rank +trial", line) for line in heads), "each part has its keys"


def test_words_give_way_first_and_names_stay_whole() -> None:
    table = FittedTable(
        [
            Column("study", ["cae_upsample_denoise"]),
            Column("best", ["0.123456"], Kind.NUMBER),
            Column("about", ["What this study is about, at length."], Kind.WORDS),
        ]
    )
    assert lines_of(table, 60)[1] == "cae_upsample_denoise  0.123456  What this study is about, a…"
    assert lines_of(table, 32)[1] == "cae_upsample_denoise  0.123456", "no room for words"
    folded = lines_of(table, 28)
    assert max(map(cell_len, folded)) <= 30
    assert "0.123456" in "".join(folded)


@pytest.mark.parametrize("width", [5, 12, 31])
@pytest.mark.parametrize("name", ["a_" * 60, "x" * 50, "日本語の選択肢", "runs/exports/my-study/1"])
def test_a_folded_name_keeps_every_character(name: str, width: int) -> None:
    lines = fold_name(name, width)
    assert "".join(lines) == name
    assert max(map(cell_len, lines)) <= width


def test_of_a_cell_that_nobody_reads_to_its_end_the_middle_is_left_out() -> None:
    """One of 300,000 characters took hours, and filled screens."""
    table = FittedTable([Column("trial", ["7"]), Column("kind", ["a" + "b" * 300_000 + "c"])])
    lines = lines_of(table, 80)
    assert max(map(cell_len, lines)) <= 80
    assert len(lines) < 20
    words = "".join(lines).replace(" ", "")
    assert words.startswith("trialkind7ab")
    assert "b...b" in words
    assert words.endswith("bc")


def test_columns_of_integers_and_missing_values_read_as_such() -> None:
    frame = pd.DataFrame({"kernel": [3.0, None], "lr": [0.5, None], "flag": [True, False]})
    assert format_column("kernel", frame["kernel"]).cells == ["3", "-"]
    assert format_column("lr", frame["lr"]).cells == ["0.5", "-"]
    assert format_column("flag", frame["flag"]).cells == ["True", "False"]
    assert format_column("choice", [None, "a"]).cells == ["None", "a"], "None is a choice, too"
    assert format_column("big", [5_000_000, 7]).cells == ["5000000", "7"]


@pytest.mark.parametrize(
    ("values", "cells"),
    [
        ([0.077318, 0.10243], ["0.077318", "0.102430"]),
        ([199.8, -0.5, None], ["199.8", "-0.5", "-"]),
        ([0.5, 12.0, 0.0], ["0.5", "12.0", "0.0"]),
        ([1e-06, 0.5], ["1e-06", "0.5"]),
        ([0.0123, 5432.1], ["0.0123", "5432.1"]),
    ],
)
def test_points_stand_below_each_other_where_sizes_allow(
    values: list[float | None], cells: list[str]
) -> None:
    frame = pd.DataFrame({"value": values})
    assert format_column("value", frame["value"]).cells == cells


@pytest.mark.parametrize("text", NASTY)
def test_a_console_shows_every_character_as_it_is(text: str) -> None:
    file = StringIO()
    console = Console(file=file, width=400, highlight=False, markup=False, emoji=False)
    print_line(console, f"trial 1 failed: {text}")
    console.print(FittedTable([format_column(text, [text]), format_column("best", [1.0])]))
    said = file.getvalue()
    assert said.count(show_text(text)) == 3
    assert not set(said) & {"\x07", "\x1b", "\u202e"}


def test_an_error_line_steers_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("RUNS", str(tmp_path / "\x1b[31mred"))
    assert main(["dashboard"]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert r"\x1b[31mred" in said


def test_what_steers_a_terminal_is_escaped_and_nothing_else() -> None:
    assert show_text(STEERING) == r"bell\x07 \x1b[31mred\x1b[0m \u202eback\n"
    assert show_text("naïve ± 日本語 🙂 [b]") == "naïve ± 日本語 🙂 [b]"
    assert show_text("\udcff") == r"\udcff", "a byte of a file's name that is no text"


def test_the_output_of_commands_takes_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    open_console().print("[/x] :smile: [red]")
    assert capsys.readouterr().out == "[/x] :smile: [red]\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9995, "0.9995"), (0.999961234, "0.99996"), (0.0031234567, "0.00312"), (128.0, "128"),
        (1e-05, "1e-05"), (12345.678, "12345.7"), (True, "True"), (None, "None"), (7, "7"),
        (float("nan"), "nan"), (float("inf"), "inf"), ("[/x]", "[/x]"),
    ],
)  # fmt: skip
def test_values_read_as_they_are(value: object, text: str) -> None:
    assert format_value(value) == text


def test_counts_times_and_paces_read_well() -> None:
    counts = [format_count(n, noun) for n, noun in [
        (1, "trial"), (0, "trial"), (2, "epoch"), (2, "class"), (1, "choice"), (12_000, "image"),
    ]]  # fmt: skip
    assert counts == ["1 trial", "0 trials", "2 epochs", "2 classes", "1 choice", "12,000 images"]
    times = [format_duration(seconds) for seconds in (8, 180, 7500, 360_000)]
    assert times == ["8 s", "3 min", "2 h 05 min", "4 days 4 h"]
    paces = [format_pace(seconds) for seconds in (0.004, 0.25, 2.5, 180)]
    assert paces == ["250 epochs/s", "4.0 epochs/s", "2.5 s/epoch", "3 min/epoch"]


GAN = {
    "latent": 90, "width": 0.25, "lr_g": 0.000212, "lr_d": 0.00234, "d_steps": 4, "g_steps": 1,
    "extra_g_steps": 0, "beta1": 0.5, "smoothing": 0.1, "instance_noise": 0.2,
    "normalization": "spectral", "r1": 1.0, "ema": 0.999, "pack": 2,
}  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("tail", ["", "*best"])
def test_the_parameters_of_a_gan_take_two_lines_and_stay_whole(width: int, tail: str) -> None:
    items = format_items(GAN)
    lines = fit_items("trial  12  pruned", items, width=width, tail=tail)
    assert len(lines) <= 2
    assert max(map(cell_len, lines)) <= width
    shown = ", ".join(" ".join(line.split()) for line in lines)
    kept = [item for item in items if re.search(rf"(^|\W){re.escape(item)}(\W|$)", shown)]
    left = re.search(r"and (\d+) more", shown)
    assert len(kept) + int(left[1] if left else 0) == len(items)
    assert (width < 150) == bool(left)
    assert shown.endswith(tail)


def test_a_line_without_parameters_or_with_a_long_one_fits() -> None:
    assert fit_items("trial   0  complete", [], width=80) == ["trial   0  complete"]
    long = fit_items("trial   0  complete", ["choice " + "x" * 300, "lr 0.1"], width=80)
    assert max(map(cell_len, long)) <= 80
    assert long == ["trial   0  complete  lr 0.1, and 1 more"], "the long one gives way first"


def test_trials_that_diverged_are_counted_with_their_epochs_and_rates() -> None:
    found = [
        EndedTrial(outcome="diverged", epoch=e, parameters={"lr_g": rate, "optimizer": "sgd"})
        for e, rate in ((1, 0.5), (3, 2.0))
    ]
    found += [EndedTrial(outcome="complete"), EndedTrial(outcome="failed")]
    expected = "1 complete, 2 diverged (epoch 1 to 3, lr_g 0.5 to 2), 1 failed"
    assert describe_ends(found) == expected
    always = describe_ends(found, always=("complete", "pruned", "failed"))
    assert always == expected.replace("complete,", "complete, 0 pruned,")
    assert describe_ends([EndedTrial(outcome="diverged")]) == "1 diverged (a value was not finite)"


# ---- the commands that list ----


@pytest.fixture
def listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run `make trials` or `make studies` on a terminal of some width."""

    def run(command: str, width: int, name: str = "") -> str:
        monkeypatch.setenv("RUNS", str(tmp_path))
        monkeypatch.setenv("NAME", name)
        monkeypatch.setattr("search.console.LOG_WIDTH", width)
        assert main([command]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., None]:
    """Store trials: ``store("s", [create_trial(...), ...])``."""

    def keep(name: str, found: list[FrozenTrial]) -> None:
        storage = open_storage(f"sqlite:///{tmp_path / 'studies.db'}")
        optuna.create_study(storage=storage, study_name=name).add_trials(found)
        storage.engine.dispose()

    return keep


def a_trial(
    parameters: dict[str, object], state: TrialState = TrialState.COMPLETE, **about: object
) -> FrozenTrial:
    kinds: dict[type, BaseDistribution] = {
        int: IntDistribution(0, 10_000),
        float: FloatDistribution(0, 10),
        str: CategoricalDistribution(NASTY),
    }
    spaces = {name: kinds[type(value)] for name, value in parameters.items()}
    value = 0.123456789 if state == TrialState.COMPLETE else None
    return create_trial(
        state=state, value=value, params=parameters, distributions=spaces, user_attrs=about
    )


OWN = ("seed", "epochs", "host", "value", "number", "state", "outcome", "reason", "pid", "duration")


@pytest.mark.parametrize("width", WIDTHS)
def test_parameters_that_are_called_like_columns_are_all_shown(
    store: Callable[..., None], listed: Callable[..., str], width: int
) -> None:
    parameters: dict[str, object] = {name: 1000 + place for place, name in enumerate(OWN)}
    ours: dict[str, Any] = {
        "seed": 1,
        "epochs": 1,
        "host": "h",
        "outcome": "complete",
        "pid": 1,
        "device": "cpu",
    }
    store("s", [a_trial(parameters, **ours)] * 3)
    out = listed("trials", width, "s")
    assert max(map(cell_len, out.splitlines())) <= max(width, 60)
    assert out.startswith("study s: 3 complete")
    for value in parameters.values():
        assert len(re.findall(rf"\b{value}\b", out)) == 3
    assert "cpu" not in out


@pytest.mark.parametrize("width", [80, 150])
def test_names_and_choices_are_listed_with_every_character(
    store: Callable[..., None], listed: Callable[..., str], width: int
) -> None:
    store("s", [a_trial({"choice": text, "[/mark]": 1}) for text in NASTY[:5]])
    out = listed("trials", width, "s")
    assert max(map(cell_len, out.splitlines())) <= width
    assert "[/mark]" in out
    squeezed = re.sub(r"\s", "", out)
    for text in NASTY[:4]:
        assert text in squeezed
    assert r"\x1b[31mred\x1b[0m" in squeezed


def test_a_study_without_a_complete_trial_says_why(
    store: Callable[..., None], listed: Callable[..., str]
) -> None:
    pruned, fail = TrialState.PRUNED, TrialState.FAIL
    store(
        "s",
        [
            *[a_trial({"lr": 0.5}, pruned, outcome="diverged", epochs=0)] * 4,
            a_trial({"lr": 0.1}, fail, outcome="failed", reason="KeyError: '[/in] the model'"),
            a_trial({"lr": 0.1}, fail, outcome="interrupted", reason="TRIAL_MINUTES=1 were over"),
        ],
    )
    assert listed("trials", 100, "s").splitlines() == [
        "study s: 4 diverged (epoch 1, lr 0.5), 1 failed, 1 interrupted",
        "no trial is complete, so that none is ranked",
        "trial 4 failed: KeyError: '[/in] the model'",
        "trial 5 failed: TRIAL_MINUTES=1 were over",
    ]
    out = listed("studies", 100)
    assert re.search(r"^study +ended +pruned +diverged +failed +interrupted +best$", out, re.M)
    assert re.search(r"^s +6 +0 +4 +1 +1 +-$", out, re.M)


def test_a_trial_that_was_tried_again_counts_once(
    tmp_path: Path, store: Callable[..., None], listed: Callable[..., str]
) -> None:
    fail = a_trial({"x": 1}, TrialState.FAIL, outcome="failed", reason="a bug")
    store("s", [fail, fail, a_trial({"x": 1}), a_trial({"x": 1}, retries=1)])
    assert re.search(r"^s +4 +0 +2 +0.12", listed("studies", 100), re.M), "another's attribute"
    storage = open_storage(f"sqlite:///{tmp_path / 'studies.db'}")
    optuna.load_study(storage=storage, study_name="s").set_user_attr("retries", "{}")
    storage.engine.dispose()
    assert re.search(r"^s +3 +0 +1 +1 +0.12", listed("studies", 100), re.M)
    assert listed("trials", 100, "s").startswith("study s: 2 complete, 1 failed, 1 retried\n")


@pytest.mark.parametrize("width", [80, 100, 150])
def test_the_list_of_studies_fits(
    store: Callable[..., None], listed: Callable[..., str], width: int
) -> None:
    store("a-study-of-mine-with-a-name-that-is-long-folder-pictures-of-things", [a_trial({"x": 1})])
    out = listed("studies", width)
    assert max(map(cell_len, out.splitlines())) <= width
    assert "0.123457" in out
    assert re.search(r"^cae +fashion_mnist +50 +Reconstruction error", out, re.M)
