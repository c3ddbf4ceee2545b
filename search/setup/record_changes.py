"""What differs between a stored trial and this machine: images, code, packages, device.

    for line in describe_changes(recorded, identity, here, known=versions):
        print(line)                      # "torch 2.10.0, here 2.11.0"

Two trainings that differ bit for bit do so for one of these reasons, or for one that nobody keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from search.setup.stored_study import StudyIdentity, find_changes
from search.trials.recorded_trial import FUSED_EPOCHS, RecordedTrial
from search.trials.study_code import (
    CODE,
    ENVIRONMENT,
    SHOWN,
    StudyCode,
    compare_environments,
)
from search.words import format_count
from storage.errors import short


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """The code, the packages and the device with which a trial is trained here.

    revision: commit of genstudy; environment: the packages in use; device, host: by name
    """

    identity: StudyIdentity
    code: StudyCode
    revision: str
    environment: str
    device: str
    host: str


def describe_changes(
    recorded: RecordedTrial,
    stored: StudyIdentity,
    here: Surroundings,
    known: Iterable[StudyCode],
) -> list[str]:
    """Return a line for each difference; none if all that is kept is equal.

    stored: what the study was made with; known: the versions of its code that the study keeps
    """
    kept = recorded.attributes
    lines = [f"study: {change}" for change in find_changes(stored, here.identity)]
    lines += _code_lines(str(kept.get(CODE, "")).split(), here.code, list(known))
    revision = str(kept.get("revision", ""))
    if revision != here.revision:
        lines.append(f"code revision: {short(revision) or 'not kept'}, here {here.revision}")
    environment = str(kept.get(ENVIRONMENT, ""))
    if not environment:
        lines.append(f"packages: not kept, here {here.environment}")
    elif environment != here.environment:
        changed = compare_environments(environment, here.environment)
        lines.append(f"packages: {short(changed)}")
    for name, now in (("device", here.device), ("host", here.host)):
        before = str(kept.get(name, ""))
        if before != now:
            lines.append(f"{name}: {short(before) or 'not kept'}, here {now}")
    fused = kept.get(FUSED_EPOCHS)
    if isinstance(fused, int) and fused:
        epochs = format_count(fused, "epoch")
        lines.append(f"fused: {epochs} with other trials, here alone: values differ by rounding")
    return lines


def _code_lines(versions: Sequence[str], here: StudyCode, known: list[StudyCode]) -> list[str]:
    """Return which files compute other values than those that trained the trial.

    versions: words of the code that did
    """
    if not versions:
        return ["files: an older version of genstudy kept none"]
    if list(versions) == [here.version]:
        return []
    if len(versions) > 1:
        return [f"files: {len(versions)} versions of the code trained it, one after the other"]
    before = next((code for code in known if code.version == versions[0]), None)
    if before is None:
        return [f"files: their version {short(versions[0])} is not known here"]
    names = here.changed_files(before)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"files: {', '.join(map(short, names[:SHOWN]))}{more} changed since"]
