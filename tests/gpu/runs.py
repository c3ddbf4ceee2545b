"""Whole runs on a GPU as a person makes them: with one worker, several, and whichever GPU is shown.

python -m tests.gpu --only runs ...
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any

import torch

from tests.gpu.commands import Check, Done, Person, data_of, gpus_of, prepare, together
from tests.gpu.part import Row, Settings

# A study of genstudy in a width and with images that take seconds.
NARROW = """
'''{name} in a reduced width: the same networks, space and loss.'''
from dataclasses import replace
from search.studies import {name} as full

def suggest(trial):
    return replace(full.suggest(trial), width={width})

STUDY = replace(
    full.STUDY, suggest=suggest, references={{}}, shape={shape} or full.STUDY.shape,
    adapts={adapts},
)
"""
FAMILIES: dict[str, tuple[float, tuple[int, int, int] | None]] = {
    "vae": (0.1, None),
    "acgan": (0.1, (3, 32, 32)),
    "gan": (0.1, None),
    "stargan": (0.1, (3, 32, 32)),
}
# On images that every machine has.
ONE: dict[str, Any] = {"NAME": "cae", "DATA": "digits", "TRIALS": 1, "EPOCHS": 1, "WORKERS": 1}
NO_SUCH_MIG = "MIG-00000000-0000-0000-0000-000000000000"


def measure(settings: Settings) -> Iterator[Row]:
    prepare(settings)
    families = ["acgan"] if settings.tiny else list(FAMILIES)
    checks: list[tuple[str, Check]] = [
        ("cae, one worker", check_whole),
        ("GPUS", check_absent),
        ("no GPU is shown", partial(check_hidden, what="empty", value="")),
        *((name, partial(check_family, name=name)) for name in families),
        ("two workers", check_two),
        ("seeds", check_seeds),
        ("workers that the supervisor adds", check_packing),
    ]
    if settings.on_gpu:
        mig = partial(check_hidden, what="a MIG device that is not there", value=NO_SUCH_MIG)
        checks += [
            ("a UUID", partial(check_shown, what="UUID")),
            ("no such MIG device", mig),
            ("a number", partial(check_shown, what="number")),
        ]
    yield from together(settings, checks, at_once=8)


def cae(settings: Settings, **more: object) -> dict[str, Any]:
    """Return the variables of a small study of the autoencoder."""
    small = {"TRIALS": 2, "EPOCHS": 1} if settings.tiny else {"TRIALS": 6, "EPOCHS": 3}
    return {"NAME": "cae", "DATA": data_of(settings), **small, "RETRAIN_EPOCHS": 3, **more}


def study_of(person: Person) -> str:
    """Return the name of the one study that a person has."""
    with closing(sqlite3.connect(person.runs / "studies.db")) as connection:
        ((name,),) = connection.execute("SELECT study_name FROM studies").fetchall()
    return str(name)


def report(
    name: str, person: Person, done: Done, *, trials: int, exports: int = 0
) -> Iterator[Row]:
    """Whether a run ended well, with all its trials on the device, and with its exports."""
    trace = person.traceback()
    yield Row(
        name=f"{name}: exit code 0, nothing on stderr, no traceback in the logs",
        found=trace or done.brief,
        ok=done.code == 0 and not done.error and not trace,
        about=f"{done.seconds:.0f} s in all",
    )
    frame = person.trials(study_of(person))
    devices = sorted(set(frame["device"]))
    wanted = "cuda:0" if person.settings.on_gpu else "cpu"
    ended = int(frame["state"].isin(["COMPLETE", "PRUNED"]).sum())
    yield Row(
        name=f"{name}: its trials",
        found=f"{ended} of {trials} ended, on {', '.join(devices)}",
        ok=ended == trials == len(frame) and all(each.startswith(wanted) for each in devices),
        about=f"peak memory {frame['peak_memory_mib'].max():.0f} MiB",
    )
    if exports:
        folder = person.runs / "exports" / study_of(person) / "1"
        found = json.loads((folder / "provenance.json").read_text())
        value = float((found["test"] or {}).get(found["metric"], math.nan))
        pictures = len(found["pictures"])
        yield Row(
            name=f"{name}: its export",
            found=f"{found['metric']} {value:.4g} on test images, {pictures} pictures",
            ok=math.isfinite(value) and bool(found["pictures"]),
        )


def check_whole(settings: Settings) -> Iterator[Row]:
    person = Person(settings, "whole")
    given = cae(settings, TOP=1, WORKERS=1)
    done = person.run(**given)
    yield from report("cae, one worker", person, done, trials=given["TRIALS"], exports=1)


def check_two(settings: Settings) -> Iterator[Row]:
    person = Person(settings, "two")
    given = cae(settings, WORKERS=2)
    given |= {"TRIALS": 4, "EPOCHS": 40} if settings.tiny else {"TRIALS": 12, "EPOCHS": 20}
    done = person.run(**given)
    yield from report("cae, two workers on one device", person, done, trials=given["TRIALS"])
    frame = person.trials(study_of(person))
    count = len(set(frame["pid"]))
    yield Row(name="two workers: processes that trained", found=str(count), ok=count == 2)


def check_packing(settings: Settings) -> Iterator[Row]:
    """WORKERS is unset: the supervisor adds workers while they pay, beside other checks."""
    person = Person(settings, "packing")
    more = {} if settings.on_gpu else {"WORKERS": 1}  # else one a core
    given = cae(settings, **more)
    if not settings.tiny:
        given |= {"TRIALS": 24, "EPOCHS": 20}
    done = person.run(**given)
    yield from report("cae, WORKERS unset", person, done, trials=given["TRIALS"])
    joined = sum("joins" in line for line in done.out.splitlines())
    yield Row(
        name="workers that the supervisor chose beside other checks",
        found=f"{1 + joined}",
        about="service measures it on a card of its own",
    )


def check_family(settings: Settings, *, name: str) -> Iterator[Row]:
    """One trial, one retraining and the export of a family in a reduced width."""
    person = Person(settings, name)
    width, shape = FAMILIES[name]
    file = person.runs / f"{name}.py"
    file.write_text(NARROW.format(name=name, width=width, shape=shape, adapts=shape is None))
    data = "digits" if shape is None else f"folder:{settings.emoji / 'people'}"
    given: Mapping[str, Any] = {
        "NAME": file, "DATA": data, "TRIALS": 1, "EPOCHS": 1, "RETRAIN_EPOCHS": 1,
        "WORKERS": 1, "TOP": 1,
    }  # fmt: skip
    done = person.run(**given)
    yield from report(name, person, done, trials=1, exports=1)


# ---- which GPU ----


def check_absent(settings: Settings) -> Iterator[Row]:
    """A GPU that is not there is a mistake of whoever names it."""
    person = Person(settings, "absent")
    done = person.run(**ONE, GPUS=torch.cuda.device_count() if settings.on_gpu else 63)
    yield Row(
        name="GPUS names one that is not there: one line, exit code 2",
        found=done.brief,
        ok=done.is_error_line,
    )


def check_shown(settings: Settings, *, what: str) -> Iterator[Row]:
    """What CUDA_VISIBLE_DEVICES shows is used."""
    value = card_uuid(settings) if what == "UUID" else gpus_of(settings)
    person = Person(settings, f"shown-{what}", {"CUDA_VISIBLE_DEVICES": value})
    done = person.run(**ONE, GPUS="0")
    yield from report(f"CUDA_VISIBLE_DEVICES, {what} {value}", person, done, trials=1)


def check_hidden(settings: Settings, *, what: str, value: str) -> Iterator[Row]:
    """Where CUDA_VISIBLE_DEVICES shows no GPU, one line says so."""
    person = Person(settings, f"hidden-{what[:5].strip()}", {"CUDA_VISIBLE_DEVICES": value})
    done = person.run(**ONE, GPUS="0")
    yield Row(
        name=f"CUDA_VISIBLE_DEVICES {what}, GPUS=0: one line, exit code 2",
        found=done.brief,
        ok=done.is_error_line,
    )
    done = person.run(**ONE, GPUS="")
    yield on_cpu(f"CUDA_VISIBLE_DEVICES {what}: the CPU is used, and it is said", person, done)


def on_cpu(name: str, person: Person, done: Done) -> Row:
    """Whether a run trained on the CPU, and said why where there is a GPU."""
    said = [line.strip() for line in done.out.splitlines() if "training on the CPU" in line]
    if done.code:
        return Row(name=name, found=done.brief, ok=False)
    devices = sorted(set(person.trials(study_of(person))["device"]))
    is_right = devices == ["cpu"] and (bool(said) or not person.settings.on_gpu)
    return Row(
        name=name,
        found=f"on {', '.join(devices)}: {'; '.join(said) or 'nothing was said'}",
        ok=is_right and not done.error,
        about=done.error.strip()[:200],
    )


def card_uuid(settings: Settings) -> str:
    """Return the UUID of the card as CUDA_VISIBLE_DEVICES takes it."""
    return f"GPU-{torch.cuda.get_device_properties(settings.device).uuid}"


# ---- the same seed ----


def check_seeds(settings: Settings) -> Iterator[Row]:
    """The values of one study, made twice on the device and once on the CPU."""
    given = cae(settings, PRUNER="none", SEED=7)
    values: dict[str, list[float]] = {}
    for name, gpus in (("once", gpus_of(settings)), ("again", gpus_of(settings)), ("cpu", "none")):
        workers = 4 if name == "cpu" and not settings.tiny else 1
        person = Person(settings, f"seed-{name}")
        done = person.run(**given, GPUS=gpus, WORKERS=workers)
        if done.code:
            yield Row(name=f"the same seed, {name}", found=done.brief, ok=False)
            return
        values[name] = person.trials(study_of(person)).sort_values("number")["value"].tolist()
    several = f"{given['TRIALS']} trials of {given['EPOCHS']} epochs"
    yield Row(
        name="the same seed twice: largest relative difference of values",
        found=difference(values["again"], values["once"]),
        limit=0.0,  # the convolutions are deterministic
        about=several,
    )
    yield Row(
        name="the same seed on GPU and CPU: largest relative difference of values",
        found=difference(values["once"], values["cpu"]),
        limit=0.1,
        about=several,
    )


def difference(found: list[float], wanted: list[float]) -> float:
    """Return the largest |found - wanted| / |wanted|."""
    pairs = zip(found, wanted, strict=True)
    return max(abs(one - other) / abs(other) for one, other in pairs)
