"""Trials of an earlier study, made into trials that a new study could have tried.

    name = parse_name("cae-digits")                       # a study of the same database
    name = parse_name("sqlite:///old.db#first try")       # any study of Optuna
    found = read_source(name, study, url, stored="cae")

Parameters are matched by name. A parameter that this study does not have is left out. One that the
source does not have is drawn at random. A trial with a value outside this study's space is left
out. Only the order of the values counts, so their unit, metric and direction may differ.

The names and values of another person's study are only looked up, never run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.errors import BadVariable, unknown_name
from search.setup.adapted import fit_parameters
from search.setup.mistakes import mistakes_of
from search.setup.stored_study import read_identity
from search.strategies.carry_over import WarmSource, order_trials
from search.strategies.warm import spread
from search.study import Study
from search.trials.stored_names import choose_stored, read_stored_names
from search.words import format_count, join_words, show_text
from storage.database.foreign import absolute_address, opened_to_read, show_address
from storage.database.optuna_storage import TrialStorage
from storage.errors import DatabaseUnreachable, short

MOST = 200  # trials of a source that are kept: more of them tell the sampler little
LISTED = 8  # names that a message lists
ADDRESS = re.compile("(sqlite|postgres|postgresql|journal|file)(\\+[a-z0-9]+)?:", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class WarmName:
    """What a part of WARM names.

    address: of a storage, as Optuna reads it; None: the study's own database
    study: its name there; None: the only one
    """

    address: str | None
    study: str | None

    @property
    def shown(self) -> str:
        """The same without a password."""
        if self.address is None:
            return self.study or ""
        return show_address(self.address) + (f"#{self.study}" if self.study else "")


def parse_name(written: str) -> WarmName:
    """Return what ``cae``, ``sqlite:///old.db#first`` or ``journal:old.log`` names.

    Raises `BadVariable` for an address that is none.
    """
    if not ADDRESS.match(written):
        return WarmName(address=None, study=written)
    address, hash_sign, study = written.rpartition("#")
    with _naming_warm(written):
        return WarmName(address=absolute_address(address if hash_sign else study),
                        study=study if hash_sign and study else None)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FoundSource:
    """A source, and what a person has to know of it in one line."""

    source: WarmSource
    line: str


def read_source(name: WarmName, study: Study, url: str, *, stored: str) -> FoundSource:
    """Return the trials of an earlier study as trials of ``study``.

    url: of the study's own database; stored: its name there

    Raises `BadVariable` where they can say nothing of it.
    """
    with (
        _naming_warm(name.address),
        opened_to_read(name.address or url) as storage,
        _explained(name),
    ):
        source = _load(name, storage)
        if name.address is None and source.study_name == stored:
            raise BadVariable(f"WARM={short(name.shown)} is the study itself; name an earlier one")
        _check_kind(name, source, study)
        ranked = [trial for trial in order_trials(source) if _says_something(trial)]
    if not any(trial.state is TrialState.COMPLETE for trial in ranked):
        raise BadVariable(
            f"WARM={short(name.shown)} has no complete trial, so that nothing is known of it; "
            "leave it out"
        )
    return _adapt(name, source.study_name, ranked, study)


def _load(name: WarmName, storage: BaseStorage) -> optuna.Study:
    names = optuna.get_all_study_names(storage)
    wanted = name.study if name.study is not None or len(names) != 1 else names[0]
    if name.address is None and wanted not in names and isinstance(storage, TrialStorage):
        with storage.engine.connect() as connection:  # cae may mean cae-digits
            wanted = choose_stored(read_stored_names(connection), wanted or "", None) or wanted
    if wanted is None:
        there = ", ".join(short(show_text(each)) for each in sorted(names)[:LISTED]) or "none"
        raise BadVariable(
            f"WARM={short(name.shown)} does not say which study ({there}); add # and its name"
        )
    if wanted not in names:
        place = "" if name.address is None else f" in {short(show_address(name.address))}"
        said = unknown_name("study", wanted, names) if names else f"no study {short(repr(wanted))}"
        raise BadVariable(f"WARM: {short(show_text(said))}{place}")
    return optuna.load_study(study_name=wanted, storage=storage)


def _check_kind(name: WarmName, source: optuna.Study, study: Study) -> None:
    """Raise `BadVariable` for a study of several objectives or of another family of models."""
    if len(source.directions) > 1:
        raise BadVariable(
            f"WARM={short(name.shown)} has {len(source.directions)} objectives, so that its trials "
            "have no order; name a study of one"
        )
    identity = read_identity(source)
    family = f"{study.spec.model.__module__}:{study.spec.model.__qualname__}"
    if identity is not None and identity.model != family:
        raise BadVariable(
            f"WARM={short(name.shown)} has searched {short(identity.model)}, and this study "
            f"searches {family}: what is good for one model says nothing of another; leave it out"
        )


def _says_something(trial: FrozenTrial) -> bool:
    return trial.state is TrialState.COMPLETE or bool(trial.intermediate_values)


def _adapt(name: WarmName, of: str, ranked: list[FrozenTrial], study: Study) -> FoundSource:
    """Return those of the trials, the best first, that lie in this study's space."""
    varied = sorted({each for trial in ranked for each in trial.params} & study.space.keys())
    if not varied:
        names = {each for trial in ranked for each in trial.params}
        theirs = [short(show_text(each)) for each in sorted(names)[:LISTED]]
        raise BadVariable(
            f"WARM={short(name.shown)} has no parameter of this study: there {', '.join(theirs)}; "
            f"here {', '.join(sorted(study.space))}"
        )
    found: list[tuple[int, dict[str, Any]]] = []
    with mistakes_of(study.path):
        for trial in ranked:
            parameters = fit_parameters(study, trial.params, trial.number)
            if parameters is not None:
                found.append((trial.number, parameters))
    if not found:
        raise BadVariable(
            f"WARM={short(name.shown)}: none of its {format_count(len(ranked), 'trial')} lies in "
            "this study's space; leave it out, or widen the space"
        )
    kept = found if len(found) <= MOST else [found[place] for place in spread(len(found), MOST)]
    source = WarmSource(
        name=of,
        numbers=tuple(number for number, _ in kept),
        parameters=tuple(parameters for _, parameters in kept),
        varied=tuple(varied),
    )
    return FoundSource(source=source, line=_describe(source, ranked, len(found), study))


def _describe(source: WarmSource, ranked: list[FrozenTrial], fitting: int, study: Study) -> str:
    """Say how many trials there are, and what was done to them."""
    count = len(source.numbers)
    whole = f"{count} of {fitting}" if count < fitting else str(count)
    words = [f"{whole} {'trial' if fitting == 1 else 'trials'} of {show_text(short(source.name))}"]
    if outside := len(ranked) - fitting:
        words.append(f"{outside} outside this study's space left out")
    theirs = {each for trial in ranked for each in trial.params}
    if others := sorted(theirs - study.space.keys()):
        shown = [show_text(short(each)) for each in others[:LISTED]]
        words.append(f"without its {join_words(shown)}")
    if missing := sorted(study.space.keys() - set(source.varied)):
        words.append(f"{join_words(missing)} drawn at random")
    return "; ".join(words)


@contextmanager
def _naming_warm(address: str | None) -> Iterator[None]:
    """Name WARM where its address is wrong: what reads addresses calls them STORAGE."""
    try:
        yield
    except DatabaseUnreachable as error:
        if address is None:
            raise
        said = re.sub(r"\bSTORAGE\b", "WARM", str(error))
        raise BadVariable(said if "WARM" in said else f"WARM: {said}") from error


@contextmanager
def _explained(name: WarmName) -> Iterator[None]:
    """Turn what Optuna raises at rows that it cannot read into a line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        cause = short(f"{type(error).__name__}: {error}")
        raise BadVariable(
            f"WARM={short(name.shown)} cannot be read ({cause}); leave it out"
        ) from error
