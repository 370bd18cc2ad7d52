"""The registered problems: one line each makes it known to the command line and to the contract tests."""

from __future__ import annotations

from collections.abc import Callable

import torch

from problems.base import Problem
from problems.counterexamples import HeavyTailed, LassoLower, QuarticLower, SingularLower
from problems.hyper_cleaning import HyperCleaning
from problems.learned_start import LearnedStart
from problems.logistic import ProxLogistic
from problems.minibatch import Minibatch
from problems.noisy import Noisy
from problems.proximal import Proximal
from problems.quadratic import Quadratic
from problems.regularisation import LogisticRegularisation
from problems.representation import Representation
from problems.softmax import ProxSoftmax
from problems.structured import Structured
from problems.tails import PowerTail, PowerWell
from problems.tight import Huber, Plateau, Zigzag

# name -> a small instance as a function of the seed
PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "quadratic": lambda seed: Quadratic.random(tasks=8, p=4, q=6, kappa=10.0, seed=seed),
    "quadratic-equal": lambda seed: Quadratic.random(tasks=8, p=4, q=4, kappa=3.0, equal_hessians=True, seed=seed),
    "quadratic-initialisation": lambda seed: Quadratic.random(
        tasks=6, p=5, q=5, kappa=10.0, initialisation=True, seed=seed
    ),
    "quadratic-learned-start": lambda seed: LearnedStart(Quadratic.random(tasks=6, p=3, q=4, kappa=10.0, seed=seed)),
    "huber": lambda seed: Huber(horizon=20, kappa=10.0, dimension=4, coupled=True, tasks=4, seed=seed),
    "plateau": lambda seed: Plateau(horizon=20, kappa=10.0, dimension=4, coupled=True, tasks=4, seed=seed),
    "zigzag": lambda seed: Zigzag(horizon=20, kappa=10.0, dimension=3, tasks=2, seed=seed),
    "power-tail": lambda seed: PowerTail(
        [0.5, 1.0], ripples=[0.0, 0.5], frequencies=[1.0, 4.0], kappa=10.0, coupled=True, tasks=4, seed=seed
    ),
    "power-well": lambda seed: PowerWell([3.0, 5.0], kappa=10.0, coupled=True, tasks=2, seed=seed),
    "proximal": lambda seed: Proximal.random(tasks=6, q=4, spectrum=(0.1, 5.0), prox=1.0, seed=seed),
    "prox-softmax": lambda seed: ProxSoftmax.random(tasks=5, classes=3, features=2, examples=20, prox=0.5, seed=seed),
    "representation": lambda seed: Representation.random(tasks=6, d=4, rank=2, examples=8, seed=seed),
    "prox-logistic": lambda seed: ProxLogistic.random(tasks=6, q=5, examples=20, seed=seed),
}

# Problems made for a million parameters
LARGE: dict[str, Callable[[int], Problem]] = {
    "structured-low-rank": lambda seed: Structured.random("low-rank", tasks=6, p=8, q=8, rank=2, kappa=10.0, seed=seed),
    "structured-circulant": lambda seed: Structured.random("circulant", tasks=6, p=12, q=6, kappa=10.0, seed=seed),
    "structured-sparse": lambda seed: Structured.random("sparse", tasks=6, p=12, q=6, kappa=10.0, seed=seed),
}

# Problems on data that scikit-learn brings along: they need the extra `data`
REAL_DATA: dict[str, Callable[[int], Problem]] = {
    "hyper-cleaning": lambda seed: HyperCleaning.digits(
        train=12, validation=6, ridge=0.1, tasks=3, classes=3, pool=4, seed=seed
    ),
    "regularisation": lambda seed: LogisticRegularisation.breast_cancer(tasks=3, ridge=1.0, seed=seed),
}

# Problems whose objectives are drawn: what a method sees of them is an unbiased estimate, what a probe sees is exact
STOCHASTIC: dict[str, Callable[[int], Problem]] = {
    "quadratic-noisy": lambda seed: Noisy(
        Quadratic.random(tasks=8, p=4, q=6, kappa=10.0, seed=seed), lower=0.5, upper=0.5, hessian=0.1
    ),
    "prox-logistic-minibatch": lambda seed: Minibatch(
        ProxLogistic.random(tasks=6, q=5, examples=20, seed=seed), lower=5, upper=5
    ),
}

# Problems that break an assumption of the theorems: no constants, no reference, no promise that a run converges
COUNTEREXAMPLES: dict[str, Callable[[int], Problem]] = {
    "quartic-lower": lambda seed: QuarticLower(
        torch.randn(5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ),
    "singular-lower": lambda seed: SingularLower(),
    "lasso-lower": lambda seed: LassoLower.random(tasks=4, p=2, q=3, lasso=0.7, seed=seed),
    "heavy-tailed": lambda seed: HeavyTailed(index=1.5),
}
