"""Peer: the same study with Ray Tune and its OptunaSearch.

A `Tuner` that gives each trial one CPU; the trainable is the loop of Optuna's example with
`tune.report` once an epoch. The fixed list of configurations goes in as `points_to_evaluate`.
Prints one line of JSON: when each trial ended, and its best validation error.

    python -m tests.benchmarks.peers.ray_tune --folder /tmp/r --cores 2 --epochs 3 ...
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from tests.benchmarks.work import FOUR, one_of_four

METRIC = "val_mse"


def space(trial: optuna.Trial) -> None:
    one_of_four(trial)


def trainable(config: dict[str, Any]) -> None:
    import torch

    from tests.benchmarks.peers.fashion_mnist import loaders
    from tests.benchmarks.peers.optuna_example import network, train, validate

    torch.set_num_threads(1)
    torch.manual_seed(config["line"])
    model, optimizer = network(FOUR[config["line"]])
    batches, held_out = loaders(Path(config["data_root"]), images=config["images"])
    for _ in range(config["epochs"]):
        train(model, optimizer, batches)
        tune.report({METRIC: validate(model, held_out), "at": time.time()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for Ray's own files")
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--images", type=int, default=None)
    given = parser.parse_args()
    ray.init(
        num_cpus=given.cores,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=str(given.folder / "ray"),
    )
    fixed = {"data_root": str(given.data_root), "images": given.images, "epochs": given.epochs}
    tuner = tune.Tuner(
        tune.with_resources(lambda config: trainable({**fixed, **config}), resources={"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(
                space=space,
                metric=METRIC,
                mode="min",
                points_to_evaluate=[{"line": line} for line in range(len(FOUR))],
            ),
            num_samples=len(FOUR),
        ),
        run_config=tune.RunConfig(storage_path=str(given.folder / "results"), verbose=0),
    )
    grid = tuner.fit()
    results = [grid[index] for index in range(len(grid))]
    frames = [result.metrics_dataframe for result in results]
    if grid.num_errors or any(frame is None for frame in frames):
        raise SystemExit(f"trials failed: {grid.errors}")
    ended = {
        result.metrics["config"]["line"]: {
            "ended": float(frame["at"].max()),
            "mse": float(frame[METRIC].min()),
        }
        for result, frame in zip(results, frames, strict=True)
    }
    print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    main()
