"""Training over a grid of ridges and CG steps, chosen by validation: part (d) of `few_shot_assumption`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from convergence.recipes import RECIPES, Recipe
from convergence.training import Trained, evaluate, train
from paper_checks.claim import Comparison, Evidence, Setting, mean_at_least
from problems.few_shot import Conv4, SoftmaxHead
from problems.few_shot.glyphs import glyphs

RIDGES = (0.0, 0.01, 0.1, 1.0)
COUNTS = (1, 5, 10, 20)
NO_RIDGE = (0.0, 20)
SEEDS = 3


def train_grid(setting: Setting) -> Evidence:
    """Validation accuracies (cells, seeds) of all cells, test accuracies (3, seeds) of those chosen by them.

    The chosen ones are the best cell, the best without a ridge, and no ridge with the published N = 20. All cells have
    centred features and lower steps of 2 / (L_i + mu): the recipe `published` differs in these as well.
    """
    cells = [(ridge, N) for ridge in RIDGES for N in COUNTS]
    runs = [(cell, setting.seed + seed) for cell in cells for seed in range(SEEDS)]
    trained = [_train(setting, *cell, seed) for cell, seed in setting.track(runs, "ridges, CG steps and seeds")]
    validation = np.array([run.metrics[-1]["validation_accuracy"] for run in trained]).reshape(len(cells), SEEDS)
    order = np.argsort(-validation.mean(axis=1), kind="stable")
    without = next(k for k in order if cells[k][0] == 0)
    chosen = [int(order[0]), int(without), cells.index(NO_RIDGE)]
    tests = [
        [evaluate(run).accuracy for run in trained[k * SEEDS : (k + 1) * SEEDS]]
        for k in setting.track(chosen, "tests of the chosen")
    ]
    ridge, N = np.array(cells, float).T
    return {
        "grid_ridge": ridge,
        "grid_N": N,
        "grid_validation": validation,
        "grid_chosen": np.array([cells[k] for k in chosen]),
        "grid_test": np.array(tests),
    }


def judge_grid(evidence: Evidence) -> list[Comparison]:
    """The cell chosen beats no ridge with N = 20 on test episodes."""
    if "grid_test" not in evidence:  # smoke scale does not train
        return []
    best, _, published = evidence["grid_test"]
    ridge, N = evidence["grid_chosen"][0]
    quantity = f"test accuracy of ridge {ridge:g}, N {N:.0f} - of no ridge, N 20"
    return [mean_at_least(quantity, best - published, 0.0, whole=True)]


def _train(setting: Setting, ridge: float, N: int, seed: int) -> Trained:
    return train(
        _recipe(setting, ridge, N),
        glyphs(progress=False),
        embedding=Conv4(16),
        iterations=100,
        learning_rate=3e-3,
        validate_every=100,
        seed=seed,
        device=setting.device,
    )


def _recipe(setting: Setting, ridge: float, N: int) -> Recipe:
    method = setting.method(lower_steps=20, cg_steps=N, warm_start=False)
    recipe = RECIPES["memory_reduced"]
    return replace(recipe, method=method, head=lambda way: SoftmaxHead(way=way, ridge=ridge), breakdowns=True)
