"""F2SA: the value function as a penalty, by gradients alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from convergence.arguments import integer, non_negative, positive
from convergence.declared import Declared
from convergence.method import Step
from convergence.methods.decaying_steps import DecayingSteps, failures
from convergence.needs import POOL, Need
from convergence.oracle import Calls, Oracle, per_task
from convergence.pool_rows import rows, with_rows
from problems import Parameters, Tasks


class State(NamedTuple):
    """t, and of every task of the pool theta_i, after g_i, and y_i, after f_i + lambda g_i, (..., M, q)."""

    iteration: int
    theta: Tensor
    y: Tensor


@dataclass(frozen=True, kw_only=True)
class F2SA(DecayingSteps):
    """Fully first-order stochastic approximation. With lambda_t = lambda (t + 1)^a, K times each on a fresh sample

        theta_i <- theta_i - rho grad_theta g_i(phi, theta_i)
        y_i     <- y_i - rho [ grad_theta g_i + grad_theta f_i / lambda_t ](phi, y_i),    and then

        phi' = phi - beta mean_i [ grad_phi f_i(., y_i) + lambda_t (grad_phi g_i(., y_i) - grad_phi g_i(., theta_i)) ].

    It goes down  Phi_lambda = mean_i [ min_y (f_i + lambda g_i) - lambda min_theta g_i ], off Phi by the order of
    1 / lambda. On quadratics, theta and y settled,

        d - grad Phi = -1/lambda mean_i C_i'A_i^-1 Q_i (A_i + Q_i / lambda)^-1 Q_i (theta_i* - u_i),

    and with a = 0 it ends where  mean_i [ R_i + C_i'S_i J_i ] phi = mean_i [ R_i w_i - C_i'S_i (A_i^-1 b_i - u_i) ],
    S_i = (A_i + Q_i / lambda)^-1 Q_i.

    lower_steps         K >= 0
    multiplier          lambda > 0, more than ell / mu: below, f + lambda g need not be convex, nor 2 / (L + mu) small
                        enough for y
    multiplier_growth   a >= 0; with a > 0 the bias vanishes
    lower_step_size, lower_decay, upper_step_size, upper_decay   as in `DecayingSteps`

    No second derivatives: g may have kinks in theta. Step.v is lambda (theta - y), which tends to H^-1 grad_theta f.
    Cost a task and iteration: 2 K + 2 lower gradients, K + 1 upper gradients. Memory: 2 M q numbers are kept.
    Source: Kwon, Kwon, Wright, Nowak, ICML 2023, Algorithm 1 (F2SA). Differs: y_i moves by rho / lambda of
    f_i + lambda g_i, the paper's alpha; lambda grows like a power of t; a step of theta and y sees one sample of g for
    both, and so does d (there a sample for each), so that noise of grad_phi g enters d as its change from theta to y,
    about v / lambda, times lambda, and not as lambda times itself.
    """

    lower_steps: int
    multiplier: float = 10.0
    multiplier_growth: float = 0.0

    needs: ClassVar[tuple[Need, ...]] = (POOL,)
    declared: ClassVar[Declared] = Declared(
        title="F2SA",
        estimates="penalty",
        bias="-1/lambda C'A^-1 Q (A + Q/lambda)^-1 Q (theta* - u) on quadratics, O(1/lambda)",
        memory="flat",
        warm=True,
        exact=False,
        rate=None,
        noisy_rate=2 / 7,
        source="Kwon, Kwon, Wright, Nowak, ICML 2023",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        integer("lower_steps", self.lower_steps, least=0)
        positive("multiplier", self.multiplier)
        non_negative("multiplier_growth", self.multiplier_growth)

    def start(self, oracle: Oracle, phi: Parameters) -> State:
        """theta0 for theta and y of every task of the pool."""
        theta = oracle.theta0(phi, oracle.pool).clone()
        return State(0, theta, theta)

    def step(self, oracle: Oracle, phi: Parameters, tasks: Tasks, state: State) -> Step:
        """phi_{t+1} from phi_t and the tasks of iteration t."""
        t, z = state.iteration, oracle.embed(phi, tasks, keep_graph=True)
        multiplier = self.multiplier * (t + 1) ** self.multiplier_growth
        theta, y = rows((state.theta, state.y), tasks, oracle)
        rho = self.lower_size(oracle, z, tasks, t)
        for _ in range(self.lower_steps):
            at, sample = oracle.draw(z, tasks)
            theta = theta - rho * oracle.lower_gradient(at, theta, sample)
            slope = oracle.lower_gradient(at, y, sample) + oracle.upper_gradient(at, y, sample) / multiplier
            y = y - rho * slope
        at, sample = oracle.draw(z, tasks)
        d = oracle.penalty_gradient(at, y, theta, multiplier, sample)
        oracle.count("lower_gradient", sample, times=2)  # at y and at theta, in phi alone
        oracle.count("upper_gradient", sample)
        kept = with_rows((state.theta, state.y), (theta, y), tasks, oracle)
        phi, v = self.descended(phi, d, t), multiplier * (theta - y)
        return Step(phi, State(t + 1, *kept), d, theta, v, failures(theta, y))

    def declared_calls(self, batch: int) -> Calls:
        """Oracle calls of one upper iteration on a batch of tasks, in one replica."""
        K = self.lower_steps
        return per_task(
            lower_gradient=batch * (2 * K + 2),
            upper_gradient=batch * (K + 1),
        )
