"""The code that may compute a study's trials: a stored study keeps each version that was accepted.

    accept_code(study, code, is_accepted=False)        # under the study's lock, before a run
    check_code(study, "9f2c...")                       # before each trial; raises `StudyChanged`
    describe_mixture(study, "9f2c...", environment)    # what a person has to know of mixed trials

Values compare only if the same code computed them. So a run with other code than that of the trials
before is refused, unless nothing was computed yet, failed trials wait for code that was mended, or
CODE=changed accepts it. Each trial keeps the version that computed it, and the packages in use.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.errors import StudyChanged
from search.trials.retries import find_mended
from search.words import format_count
from storage.database.json_texts import parse_json
from storage.errors import short

KEY = "genstudy:code"  # a system attribute of the study: versions that were accepted
CODE, ENVIRONMENT = "code", "environment"  # attributes of a trial
SHOWN = 3  # files that a message names


@dataclass(frozen=True, kw_only=True)
class StudyCode:
    """The code that computes the values of a study's trials.

    version: one word for all files; files: path -> word of what the file does
    """

    version: str
    files: Mapping[str, str]

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Return the code in ``plain``; raises `TypeError` or `KeyError` for another thing."""
        code = cls(version=plain["version"], files=dict(plain["files"]))
        if not all(isinstance(word, str) for word in (code.version, *code.files.values())):
            raise TypeError("a word of the code is no text")
        return code

    def changed_files(self, before: StudyCode) -> list[str]:
        """Return the files that differ, and after them those that are gone.

        A file that was only moved is recognised by its name and content, and does not count.
        """
        moved = Counter(
            (_name_of(path), word) for path, word in before.files.items() if path not in self.files
        )
        changed = []
        for path, word in self.files.items():
            if path in before.files:
                is_same = before.files[path] == word
            else:
                is_same = moved[_name_of(path), word] > 0
                moved[_name_of(path), word] -= is_same
            if not is_same:
                changed.append(path)
        edited = {_name_of(path) for path in changed if path not in before.files}
        return changed + [
            path
            for path, word in before.files.items()
            if path not in self.files
            and moved[_name_of(path), word] > 0
            and _name_of(path) not in edited
        ]


def _name_of(path: str) -> str:
    return path.rpartition("/")[2]


def accept_code(study: optuna.Study, code: StudyCode, *, is_accepted: bool) -> None:
    """Keep ``code`` as code of the study; the caller holds the study's lock.

    is_accepted: whether a person allows trials of several versions to mix

    Raises `StudyChanged` if they would mix and nobody has allowed it.
    """
    known = read_codes(study)
    if any(before.version == code.version for before in known):
        return
    trials = study.get_trials(deepcopy=False)
    computed = [trial for trial in trials if _has_values(trial)]
    if not computed:
        known = []
    elif known and not is_accepted and not find_mended(study, code.version):
        names = code.changed_files(known[-1])
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        changed = ", ".join(short(name) for name in names[:SHOWN])
        raise StudyChanged(
            f"study {study.study_name!r} has {format_count(len(computed), 'trial')} that other "
            f"code computed ({changed}{more} changed since): values would not compare. Put the "
            "code back to go on, start afresh with another RUNS or a renamed study file, or say "
            "CODE=changed to mix them"
        )
    written = json.dumps([asdict(each) for each in (*known, code)])
    study._storage.set_study_system_attr(study._study_id, KEY, written)


def check_code(study: optuna.Study, version: str) -> None:
    """Raise `StudyChanged` unless the study takes trials that this code computes."""
    known = read_codes(study)
    if version and known and all(code.version != version for code in known):
        raise StudyChanged(
            f"study {study.study_name!r} was begun again with other code while this run went on: "
            "trials of both would mix. The same command says which files differ"
        )


def check_joined_code(study: optuna.Study, code: StudyCode, revision: str) -> None:
    """Raise `StudyChanged` if a machine that joins a study has other code than the study's trials.

    revision: of the code with which the study was begun last
    """
    known = read_codes(study)
    if not known or any(before.version == code.version for before in known):
        return
    names = code.changed_files(known[-1])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    differing = ", ".join(short(name) for name in names[:SHOWN])
    at = f", {short(revision)}" if revision else ""
    raise StudyChanged(
        f"study {study.study_name!r} is computed with other code than this machine's ({differing}"
        f"{more} differ{'s' if len(names) == 1 else ''}): values would not compare. Bring the "
        f"code of the study here{at}"
    )


def read_codes(study: optuna.Study) -> list[StudyCode]:
    """Return the versions that were accepted, the last one last; none in older studies."""
    written = study._storage.get_study_system_attrs(study._study_id).get(KEY)
    try:
        return [StudyCode.from_plain(plain) for plain in parse_json(written)] if written else []
    except (ValueError, TypeError, KeyError):
        return []


def describe_mixture(study: optuna.Study, version: str, environment: str) -> list[str]:
    """Return lines on trials of other code, or of other packages, than a run's.

    environment: the packages of this run
    """
    computed = [trial for trial in study.get_trials(deepcopy=False) if _has_values(trial)]
    lines = []
    others = [trial for trial in computed if version not in _text(trial, CODE).split()]
    if others:
        other = "other" if any(_text(trial, CODE) for trial in others) else "other or unknown"
        lines.append(
            f"{_count_of(others, computed)} of {other} code than this run's: their values may "
            "not compare, and may not be reproduced"
        )
    places = Counter(_text(trial, ENVIRONMENT) for trial in computed)
    foreign = [place for place in places if place and place != environment]
    if foreign:
        found = [trial for trial in computed if _text(trial, ENVIRONMENT) in foreign]
        differing = compare_environments(foreign[0], environment)
        lines.append(
            f"{_count_of(found, computed)} of other packages than here "
            f"({differing}): values may differ in their last digits"
        )
    return lines


def code_attributes(before: Mapping[str, Any], version: str, environment: str) -> dict[str, str]:
    """Return what a trial keeps of the code that computes it.

    before: its attributes so far; a trial that other code began keeps both versions
    """
    versions = [*str(before.get(CODE, "")).split(), version]
    return {CODE: " ".join(dict.fromkeys(versions)), ENVIRONMENT: environment}


def _has_values(trial: FrozenTrial) -> bool:
    """Whether a trial has values that count, or will have some."""
    if trial.state == TrialState.WAITING:
        return bool(trial.intermediate_values)
    return trial.state != TrialState.FAIL


def _text(trial: FrozenTrial, name: str) -> str:
    return str(trial.user_attrs.get(name, ""))


def _count_of(some: list[FrozenTrial], of: list[FrozenTrial]) -> str:
    verb = "is" if len(some) == 1 else "are"
    return f"{len(some)} of {format_count(len(of), 'trial')} {verb}"


def compare_environments(there: str, here: str) -> str:
    """Return what differs between two environments: ``torch 2.10.0, here 2.11.0``."""
    parts = ([part.rpartition(" ") for part in words.split(", ")] for words in (there, here))
    old, new = ({name: word for name, _, word in found} for found in parts)
    found = [
        f"{name} {old.get(name, 'none')}, here {new.get(name, 'none')}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    return "; ".join(found)
