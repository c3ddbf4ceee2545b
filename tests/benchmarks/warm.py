"""Whether trials of an earlier study help a new one, and what they cost where they mislead it.

    python -m tests.benchmarks.warm SEEDS=40        # about ten minutes of one core

Searches of a made objective with six parameters, TPE and no training. Its sources have 60 trials of
the same space, drawn at random or by TPE:

    shifted     the optimum of each parameter lies 7 % of its range beside, values are 1,000 times
                as large
    unrelated   another objective
    reversed    what is good here was bad there

Each search is run cold, with the best trial of the source as its first one (``shared``), and with
that and the source shown to the sampler (``WARM``). What is counted is the true value of the
trial with the best value so far: 0 is perfect.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from search.setup.warm import Warm
from search.strategies.carry_over import WarmSource, as_numbers
from search.strategies.samplers import make_sampler
from search.strategies.warm import with_warm

TRIALS, SOURCE_TRIALS = 40, 60
AFTER = (3, 5, 10, 15, 20, 30, 40)  # trials
SHIFT = 0.07
SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
    "latent": IntDistribution(4, 64, log=True),
    "width": FloatDistribution(0.1, 1.0),
    "decay": FloatDistribution(1e-6, 1e-2, log=True),
    "optimizer": CategoricalDistribution(["sgd", "adam", "rmsprop"]),
    "batch": CategoricalDistribution([32, 64, 128, 256]),
}
NUMBERS = ("lr", "latent", "width", "decay")

Parameters = Mapping[str, Any]
Objective = Callable[[Parameters], float]


def make_objective(seed: int, *, shift: float = 0.0) -> Objective:
    """Return an objective whose value at its optimum is 0: how far the numbers are from it, and
    what the choices cost.

    shift: of each number's optimum, in either direction, as a share of its range
    """
    random = np.random.default_rng(seed)
    optimum = random.uniform(0.15, 0.85, len(NUMBERS))
    weights = np.array([3, 1.5, 1, 0.4]) * random.uniform(0.7, 1.3, len(NUMBERS))
    optimizers = dict(
        zip(["sgd", "adam", "rmsprop"], random.permutation([0, 0.15, 0.4]), strict=True)
    )
    batches = dict(zip([32, 64, 128, 256], random.permutation([0, 0.05, 0.1, 0.2]), strict=True))
    optimum = optimum + shift * random.choice([-1, 1], len(NUMBERS))

    def value(parameters: Parameters) -> float:
        place = [as_numbers(SPACE[name], parameters[name])[0] for name in NUMBERS]
        away = np.array(place) - optimum
        together = 0.8 * abs(away[0] * away[1])
        choices = optimizers[parameters["optimizer"]] + batches[parameters["batch"]]
        return float((weights * away**2).sum() + together + choices)

    return value


def search(
    objective: Objective,
    seed: int,
    *,
    sampler: str = "tpe",
    trials: int = TRIALS,
    shared: Sequence[Parameters] = (),
    sources: Sequence[WarmSource] = (),
) -> optuna.Study:
    """Search with noise of 2 % in the values, as seeds make it; return the study."""
    drawing = with_warm(make_sampler(sampler, seed=seed, space=SPACE), sources, SPACE)
    study, random = optuna.create_study(sampler=drawing), np.random.default_rng(seed)
    for parameters in shared:
        study.enqueue_trial(dict(parameters))
    for _ in range(trials):
        trial = study.ask(SPACE)
        true = objective(trial.params)
        trial.set_user_attr("true", true)
        study.tell(trial, true * (1 + 0.02 * random.normal()) + 0.006 * random.normal())
    return study


def best_so_far(study: optuna.Study) -> np.ndarray:
    """Return the true value of the trial that has the best value after each trial: (trials,)."""
    values = [trial.value or 0.0 for trial in study.trials]
    true = [trial.user_attrs["true"] for trial in study.trials]
    return np.array([true[int(np.argmin(values[: n + 1]))] for n in range(len(values))])


def make_source(objective: Objective, seed: int, sampler: str, *, sign: float = 1) -> WarmSource:
    """Return the trials of a search of ``objective``; sign: of its values."""
    study = search(
        lambda found: sign * objective(found), seed + 1000, sampler=sampler, trials=SOURCE_TRIALS
    )
    ranked = sorted(study.trials, key=lambda trial: trial.value or 0.0)
    return WarmSource(
        name="source",
        numbers=[trial.number for trial in ranked],
        parameters=[trial.params for trial in ranked],
        varied=sorted(SPACE),
    )


def measure(seed: int) -> dict[tuple[str, str, str], np.ndarray]:
    """Return the best so far of all searches of one objective, by source and by what it was used
    for."""
    here = make_objective(seed)
    beside = make_objective(seed, shift=SHIFT)
    found = {("none", "", "cold"): best_so_far(search(here, seed))}
    for kind, objective, sign in (
        ("shifted", beside, 1000.0),
        ("unrelated", make_objective(seed + 5000), 1.0),
        ("reversed", here, -1.0),
    ):
        for sampler in ("random", "tpe"):
            source = make_source(objective, seed, sampler, sign=sign)
            shared = list(Warm(sources=[source]).shared.values())
            for used, shown in (("shared", []), ("WARM", [source])):
                study = search(here, seed, shared=shared, sources=shown)
                found[kind, sampler, used] = best_so_far(study)
    return found


def main() -> None:
    """Print the table."""
    seeds = int(dict(word.split("=", 1) for word in sys.argv[1:]).get("SEEDS", "40"))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    found = []
    for seed in range(seeds):
        found.append(measure(seed))
        print(f"{seed + 1} of {seeds} objectives", file=sys.stderr, flush=True)
    print("| source | drawn by | used | " + " | ".join(f"after {n}" for n in AFTER) + " |")
    print("|---" * (3 + len(AFTER)) + "|")
    for key in found[0]:
        curves = np.array([each[key] for each in found])
        mean, error = curves.mean(0), curves.std(0, ddof=1) / np.sqrt(seeds)
        cells = [f"{mean[n - 1]:.3f} ± {error[n - 1]:.3f}" for n in AFTER]
        print("| " + " | ".join([*key, *cells]) + " |")


if __name__ == "__main__":
    main()
