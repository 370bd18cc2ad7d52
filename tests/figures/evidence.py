"""Evidence as the claims store it, written down from the laws: `n` horizons, every measurement on its prediction."""

from __future__ import annotations

import numpy as np

from figures.style import Array


def make(claim: str, n: int) -> dict[str, Array]:
    """The evidence of this claim with n horizons (and as many of whatever else a scale changes)."""
    return {name: np.array(value) for name, value in MAKERS[claim](n).items()}


def grid(*columns):
    """Every combination of the columns' values, one flat column each."""
    return [axis.ravel() for axis in np.meshgrid(*map(np.asarray, columns), indexing="ij")]


def algorithm_replay(n):
    rng = np.random.default_rng(0)
    found = {}
    sizes = {"quadratic": 3, "heads": 6, "representation": 12, "two_tensors": 5, "long_run": 3}
    for family, p in sizes.items():
        cells, runs = (1, 1) if family == "long_run" else (12, 5)
        law = 3 + np.cumsum(0.1 * rng.standard_normal((cells, runs, n + 1, p)), axis=2)
        found |= {f"{family}_phi": law, f"{family}_law": law}
    return found


def hypergradient_error(n):
    rng = np.random.default_rng(0)
    kappa, K = grid([10.0, 100.0], np.arange(n))
    law = 2.0 * (1 - 1 / kappa) ** K
    d = rng.standard_normal((n, 4))
    bound = rng.uniform(1, 3, 8 * n)
    tight = {"tight_kappa": kappa, "tight_K": K, "tight_error": law, "tight_law": law}
    share = 10 ** rng.uniform(-8, -0.1, 8 * n)
    family = np.arange(8 * n) % 4
    bounds = {"bound_error": share * bound, "bound": bound, "bound_gradient": bound, "bound_family": family}
    exact = {"identity_measured": d, "identity_predicted": d, "bilinear": d, "bilinear_exact": d}
    return {**exact, **bounds, "instances": 2 * n, **tight}


def method_bias(n):
    rng = np.random.default_rng(2)
    true, off = np.array([1.0, -2.0, 0.5, 1.0]), np.array([0.5, 0.2, -0.3, 0.1])
    found = {"gradient": true}
    for kind, names in (
        ("K", ("implicit", "unrolled", "truncated", "first order", "heavy ball")),
        ("N", ("CG", "Neumann", "Richardson")),
    ):
        cells = [(name, k, 0.9 - 0.1 * j) for k in range(2 * n) for j, name in enumerate(names)]
        d = np.stack([true + factor**k * off for _, k, factor in cells])
        counts = {f"{kind}_names": [name for name, _, _ in cells], f"{kind}_counts": [k for _, k, _ in cells]}
        found |= {**counts, f"{kind}_d": d, f"{kind}_law": d}
    law = np.outer(1 + np.arange(4), true)
    found |= {"methods_names": ["memory_reduced", "maml", "soba", "f2sa"], "methods_counts": [1, 1, 350, 350]}
    found |= {"methods_d": law * (1 + 1e-15 * np.arange(4)[:, None]), "methods_law": law}
    law = np.stack([true, 2 * true])
    names = ["forward gradient", "sampled Neumann"]
    return found | {
        "random_names": names,
        "random_d": law[:, None] + rng.standard_normal((2, 100 * n, 4)),
        "random_law": law,
    }


def method_comparison(n):
    names = ["memory_reduced", "itd_bio", "fomaml", "soba", "saba", "anil"]
    floor = np.array([np.nan, 1e-2, 1.0, np.nan, np.nan, np.nan])
    factor = np.array([10.0, 3.0, 3.0, 5.0, 4.0, 1.0])
    steps, seeds = np.arange(8 * n), np.linspace(0.8, 1.25, 10)
    falling = np.maximum(5 * factor[:, None] ** -steps, np.nan_to_num(floor, nan=1e-32)[:, None])[..., None] * seeds
    found = {"methods": names, "titles": names, "exact": np.isnan(floor), "floor": floor, "auc_bound": 0.75}
    found["grid"] = 10.0 ** np.array([-2, -1.5, -1, -0.5, 0])
    found |= {"arenas": ["quadratic", "representation", "logistic", "cleaning"], "memory_K": [5, 10, 20, 40]}
    refused = {"quadratic": (4, 5), "representation": (2, 4, 5), "logistic": (5,), "cleaning": (2, 5)}
    for arena, rows in refused.items():
        sentence = np.array(["" if k not in rows else "expected a finite sum, got none" for k in range(len(names))])
        spent = 80.0 * np.outer(1 + np.arange(len(names)), steps)
        found |= {f"{arena}_refused": sentence, f"{arena}_evaluations": spent, f"{arena}_square": falling}
        found[f"{arena}_place"] = [np.nan if k in rows else float(k) for k in range(len(names))]
        found[f"{arena}_bound"] = 1e-20 if arena in ("quadratic", "representation") else 0.25
    growth = np.array([0.0, 4096, 0, 0, np.nan, np.nan])[:, None]
    found |= {"memory_peak": 2e4 + growth * np.array([5, 10, 20, 40]), "memory_law": ["flat", "linear", *4 * ["flat"]]}
    found["cleaning_auc"] = 0.5 + 0.4 * (1 - 2.0**-steps)[None, :, None] * factor[:, None, None] / 10 * np.sqrt(seeds)
    found["cleaning_accuracy"] = found["cleaning_auc"] - 0.1
    found |= {"cleaning_accuracy_all": 0.6, "cleaning_accuracy_clean": 0.8}
    found |= {"quadratic_gap": falling / 3, "quadratic_rounding": 1e-16, "floor_gap": floor / 3}
    found |= {"representation_gap": falling / 2, "representation_rounding": 0.0}
    return found | {"quadratic_iterations": np.full(6, 100.0), "quadratic_seconds": 1e-3 * (1 + np.arange(6))}


def method_rates(n):
    rng = np.random.default_rng(3)
    T = 2 ** np.arange(6, 6 + n)
    seeds = rng.uniform(0.5, 1.5, (n, 20))
    noisy = (("soba", 0.5), ("alset", 0.5), ("ttsa", 0.4), ("f2sa", 2 / 7))
    fast = np.stack([seeds / T[:, None], 0.8 * seeds / T[:, None]])
    names = ["memory_reduced", "soba", "saba"]
    sums = {"sum_names": ["soba", "saba", "srba"], "sum_T": T, "sum_start": 0.4}
    sums |= {"sum_mean": np.concatenate([fast[:1] + 0.02, fast]), "sum_late": np.ones((3, n, 20))}
    floors = {"floor_names": ["maml", "bsa"], "floor_T": T, "floor_mean": np.ones((2, n, 20))}
    found = {
        "worst_names": names,
        "worst_T": T,
        "worst_iterates": np.stack([T, T + 1.0, T + 1.0]),
        "worst_level": 2 / T,
        "floor_law": np.ones(2),
        "floor_drawn": [False, True],
        "noisy_names": [name for name, _ in noisy],
        "noisy_T": T,
        "noisy_start": 6.0,
        "noisy_mean": np.stack([(1 + 0.1 * k) * seeds * T[:, None] ** -rate for k, (_, rate) in enumerate(noisy)]),
        "noisy_rate": [rate for _, rate in noisy],
        "noisy_attained": [True, True, False, False],
        "noisy_missing": np.array([], str),
        "noisy_half_width": 0.1,
    }
    return floors | sums | found


def certificate(n):
    rng = np.random.default_rng(1)
    certified = 10 ** rng.uniform(-4, 1, 6 * n)
    cells = np.stack([np.arange(6 * n) % 3, np.ones(6 * n), np.ones(6 * n)], -1)
    found = {
        "names": ["quadratic", "prox-logistic", "huber"],
        "cells": cells,
        "size": np.ones(6 * n),
    }
    found |= {"certified": certified, "error": certified * 10 ** rng.uniform(-2, 0, 6 * n), "kappas": np.array([100.0])}
    squares = np.geomspace(1, 1e-9, n + 1)
    for start, calls in (("cold", 1000.0), ("warm", 200.0)):
        found |= {f"{start}_best_K": np.array([400]), f"{start}_best_N": np.array([8])}
        for kind, more in (("adaptive", 1.0), ("fixed", 1.5)):
            found |= {
                f"{start}_{kind}_squares_100": squares,
                f"{start}_{kind}_spent_100": more * calls * np.arange(n + 1),
            }
    return found


def cg_rate(n):
    kappa, N, warm = grid([4.0, 10.0, 1e4], np.arange(1.0, n + 1), [0.0, 1.0])
    chi = 1 / np.cosh(N * np.arccosh((kappa + 1) / (kappa - 1)))
    bound = np.geomspace(0.9, 1e-7, 5 * n)
    ratios = {"ratio": chi, "chi": chi, "random_ratio": bound * np.linspace(0.1, 0.9, 5 * n), "random_chi": bound}
    return {"kappa": kappa, "N": N, "warm": warm, **ratios}


def lyapunov_decrease(n):
    cells = [(0, 10.0, 1, 1), (0, 100.0, 5, 2), (1, 3.6, 3, 3), (1, 1.2, 1, 1), (2, 1.3, 1, 1), (2, 1.9, 2, 2)]
    decay = np.exp(-3 * np.arange(20 * n) / (20 * n))
    squares = 2 * np.append(-np.diff(decay), 1e-3) / 0.1  # of V with beta = 0.1: the guaranteed decrease, halved below
    found = {f"V_{k}": (k + 1) * decay for k in range(6)} | {
        f"grad_norm_sq_{k}": (k + 1) * squares / 2 for k in range(6)
    }
    drift = {"drift": [0.0, 0, 0.3, 0.1, 0.2, 0.2], "allowed_drift": [np.inf, np.inf, 0.6, 4.0, 9.0, 2.0]}
    lemma = {"lemma_beta": [0.1, 0.1], "theorem_beta": [0.12, 2.0], "first_steps": [3, 4], "pull": [0.0, 30.0]}
    kept = {"direction": [0.1, 0.9], "v_error": [1e-3, 1e-3], "theta_error": [1.0, 1.0], "drift_beyond": [0.2, 1.05]}
    return {"cells": cells, **found, "beta": np.full(6, 0.1), **drift, **lemma, **kept}


def deterministic_exact(n):
    cells = [(kappa, K, N) for kappa in (2.0, 10.0) for K, N in ((1, 1), (2, 2), (5, 2))]
    decay = np.exp(-80 * np.arange(50 * n) / max(50 * n - 1, 1))  # 1 .. 1e-35
    found = {f"grad_norm_sq_{k}": (k + 1) * decay for k in range(6)} | {f"V_{k}": (k + 9) * decay for k in range(6)}
    kappa, N = grid([10.0, 100.0], np.arange(1, n + 1))
    floor = 0.5 * np.exp(-N / np.sqrt(kappa))
    floors = {"floor_kappa": kappa, "floor_N": N, "floor": floor, "floor_law": floor}
    heads = {"curved_cells": [(1, 1), (3, 2)]}
    for k in range(2):
        t = np.linspace(0, 40 * (k + 1) * n, 10)
        heads |= {f"curved_t_{k}": t, f"curved_grad_norm_sq_{k}": np.exp(-55 * t / t[-1])}
    return {"cells": cells, **found, "beta": np.full(6, 0.1), **heads, **floors}


def representation(n):
    t, starts = 10 * np.arange(20 * n), np.linspace(0.5, 1.5, 5)
    warm = np.outer(np.exp(-70 * t / t[-1]), starts)
    K = np.array([2.0, 4.0, 8.0])
    floors = 0.1 * 2.0**-K
    cold = floors[:, None, None] * (1 + np.outer(np.exp(-9 * t / t[-1]), starts))
    law = 10 * np.maximum(t, 1.0) ** (-5 / 3)
    ends = {"instance": [(20.0, 10.0, 3.0, 1.0)], "end": warm[-1:], "angle": warm[-1:]}
    floor = {"cold_K": K, "cold_t": t, "cold": cold, "cold_law": floors}
    trap = {"trap_t": t, "trap_square": law, "trap_law": law, "trap_m": [1.0], "trap_s": [8.0], "trap_replay": [8.0]}
    products = {f"{name}_alpha_L": [1.1] for name in ("warm", "cold", "trap")}
    return {"t": t, "warm": warm, **ends, **floor, **trap, **products}


def cold_start_floor(n):
    kappa, gain, K = grid([5.0, 20.0], [0.0, 1.0], np.arange(1.0, n + 1))  # instance by instance, as the claim does
    K_law = 0.1 * (1 + gain) * (1 - 1 / kappa) ** (4 * K)
    over_K = {"K_gain": gain, "K_kappa": kappa, "K": K, "K_floor": K_law, "K_law": K_law, "K_left_out": 0}
    over_K["K_bound"] = 2 * np.sqrt(K_law)
    N_kappa, N = grid([10.0, 100.0], np.arange(1.0, n + 1))
    N_law = np.exp(-2 * N / np.sqrt(N_kappa))
    return over_K | {"N_kappa": N_kappa, "N": N, "N_floor": N_law, "N_law": N_law}


def step_size_limit(n):
    kappa, s, opposed = grid([5.0, 100.0], np.linspace(0.3, 0.99, n), [0.0, 1.0])
    law = np.where(opposed == 0, 2 - s, 1 / kappa) * (1 - s)
    critical = {"critical_kappa": kappa, "critical_s": s, "critical_opposed": opposed}
    critical |= {"critical": law, "critical_law": law}
    code, beta = grid([0.0, 1.0], np.geomspace(0.01, 10, 2 * n))
    growth = 1 + (beta - 0.2) * (1 + code) / 2
    curve = {"growth_opposed": code, "growth_beta": beta, "growth": growth, "growth_law": growth}
    K, share = grid(np.arange(1.0, 2 * n), [0.1, 10.0])
    H = 0.01 - 0.09 * 0.9**K
    cold = {"cold_kappa": 10.0 + 0 * K, "cold_s": 0.9 + 0 * K, "cold_K": K, "cold_beta": share}
    law, times = np.array([30.0, 1e-2, 1e-5]), np.arange(20.0)
    floors = {"floor_K": [22, 30, 60], "floor_trace": law[:, None] * (1 + 2.0**-times), "floor_law": law}
    warm = {"warm_kappa": [4.0], "warm_s": [0.5], "warm_trace_0": np.exp(-np.arange(50.0 * n) / n)}
    return critical | curve | cold | {"cold_H": H, "cold_law": H} | floors | warm


def itd_floor(n):
    instance, gain, K = grid([0.0, 1.0], [0.0, 1.0], np.arange(1.0, n + 1))
    law = 0.2 * (1 + gain) * (0.5 + 0.3 * instance) ** K
    cancelling = np.arange(1.0, 3 * n + 1)
    floors = {"instance": np.append(instance, -np.ones(3 * n)), "gain": np.append(gain, np.zeros(3 * n))}
    floors |= {"kappa": np.append(5 + 15 * instance, np.full(3 * n, 10.0)), "K": np.append(K, cancelling)}
    law = np.append(law, 10.0 / cancelling)
    bound = np.random.default_rng(0).uniform(1, 3, 8 * n)
    bounds = {"bound_error": bound * np.geomspace(1e-5, 0.7, 8 * n), "bound": bound, "bound_gradient": bound}
    bounds |= {"bound_logistic": np.arange(8 * n) % 2}
    return floors | {"floor": law, "law": law, "implicit_from": 2.5} | bounds


def growing_lower_steps(n):
    t = np.arange(40 * n)
    K = np.ceil(np.log2(t + 2))
    law = 4 * 4.0**-K
    first = {"first": [3.0, 9.0], "fixed": 1e-2 + 0.9 ** (t + 1), "fixed_law": 1e-2}
    runs = {"K": K, "grad_norm_sq": law, "law": law, "error": 2.0**-K, "delta": 2.2 * 2.0**-K}
    return first | {f"{name}_{k}": (1 + k) * values for name, values in runs.items() for k in (0, 1)}


def worst_case_sdp(n):
    kind, h, N, eps = grid([0.0, 1.0], [0.5, 1.0], np.arange(1.0, n + 1), [0.0, 0.1, 0.3])
    law = 2 / (2 * N * (1 - eps) * h + 1 + kind)
    found = {"sdp_kind": kind, "sdp_h": h, "sdp_N": N, "sdp_eps": eps, "sdp": law, "sdp_dual": law, "sdp_law": law}
    own = eps > 0
    for prefix in ("tight", "run"):
        columns = {"kind": kind, "h": h, "N": N, "eps": eps, "min": law, "law": law, "sdp": law, "error": eps}
        found |= {f"{prefix}_{name}": column[own] for name, column in columns.items()}
    family = np.arange(own.sum()) % 3.0
    return found | {"run_family": family, "run_min": law[own] * (0.2 + 0.25 * family), "run_error": 0.7 * eps[own]}


def sublinear_rate(n):
    family, kappa, T, h = grid([0.0, 1.0, 2.0], [1.0, 10.0, 100.0], 10.0 * np.arange(1, n + 1), [0.5, 1.0])
    law = (1 + 0.2 * family) / (T * h)
    return {"family": family, "kappa": kappa, "T": T, "h": h, "min": law, "law": law, "sum": T / (2 * T - 1)}


def sublinear_tail(n):
    kind, exponent = [0.0, 0.0, 1.0, 2.0], np.array([0.1, 1.0, 1.0, 4.0])
    a = np.where(np.array(kind) == 2, -exponent, exponent)
    e = 2 * (a + 1) / (a + 2)
    t = 32.0 * np.arange(4 * n + 1)
    law = np.maximum(t, 1)[:, None] ** -e
    local_t = 32 * 4.0 ** np.arange(n)
    curves = {"t": t, "square": law, "law": law, "leading": law[-1], "local_t": local_t, "local": np.tile(e, (n, 1))}
    return {"kind": kind, "exponent": exponent, "e": e, **curves, "shift": np.full(4, 0.3), "allowed": 1e-2}


def batch_size_decay(n):
    iid, batch = grid([1.0, 0.0], 2.0 ** np.arange(n))
    pool = 2.0**n
    zeta = np.where(iid == 1, 1 / batch, (pool - batch) / (batch * (pool - 1)))
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (len(batch), 20))
    trace = np.exp(-75 * np.arange(10 * n) / (10 * n))
    moments = {"law": 4 * zeta, "moment": 4 * zeta[:, None] * (1 + noise - noise.mean(-1, keepdims=True))}
    direction = np.random.default_rng(1).standard_normal((2, 50 * n, 4)) / np.array([1.0, 1.5])[:, None, None]
    distance = np.square(direction).sum(-1)
    means = {"direction": direction + 3, "direction_mean": np.full(4, 3.0), "direction_distance": distance}
    everything = {"all_tasks": trace[-1], "all_tasks_trace": trace, "direction_law": distance.mean(-1)}
    return {"batch": batch, "iid": iid, "zeta": zeta, **moments, **means, **everything}


def stationary_moment(n):
    family, zeta = grid([0.0, 1.0, 2.0, 3.0], 2.0 ** -np.arange(n))
    law = (1 + family) * zeta
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (len(zeta), 20))
    cells = {"family": family, "batch": 1 / zeta, "iid": np.ones(4 * n), "zeta": zeta, "law": law}
    cells["moment"] = law[:, None] * (1 + noise - noise.mean(-1, keepdims=True))
    curve = (1 + np.arange(4.0)[:, None]) * (1 + 9 * np.exp(-np.arange(5 * n)))
    cells |= {"curve": curve, "curve_error": 0.01 * curve, "curve_law": curve}
    s, share = grid([0.4, 0.8, 1.5], zeta[:n])
    limit = 2 / (1 + share * s**2)
    cells |= {"limit_s": s, "limit_zeta": share, "limit": limit, "limit_law": limit}
    t = np.arange(n + 1)
    cells |= dict.fromkeys(("path_mean", "path_mean_law"), (-0.3) ** t) | {"sample_square": 1.17 ** t[1:]}
    return cells | dict.fromkeys(("path_square", "path_square_law"), 1.17**t)


def stale_warm_start(n):
    instance = np.stack(grid([2.0, 20.0], [1.0, 5.0], 1.0 + np.arange(n)), axis=-1)
    bound = np.geomspace(1, 100, 4 * n)
    cells = {"instance": instance, "bound": bound, "average": 0.4 * bound, "average_law": 0.4 * bound}
    K, batch = grid([1.0, 5.0], 1.0 + np.arange(n))
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (2 * n, 20))
    noise = 1 + noise - noise.mean(-1, keepdims=True)
    law = (1 + 1 / K) / batch
    cells |= {"K": K, "batch": batch, "law": law, "exact_theta_law": 1 / batch, "moment": law[:, None] * noise}
    N, batch = grid(1.0 + np.arange(n), [1.0, 2.0])
    cells |= {"N": N, "N_batch": batch, "N_law": 1 / batch, "N_moment": (1 + 0.1 / N / batch)[:, None] * noise, "q": n}
    traces = {f"all_tasks_{N}": np.exp(-np.arange(60.0) / (1 + 0.1 * N)) for N in range(1, n + 1)}
    return cells | traces | {"counts": np.arange(1, n + 1)}


def complexity(n):
    eps = np.geomspace(1e-1, 1e-3, n)
    huber = np.ceil((2 / eps + 1) / 2)
    hit = np.ceil(12 / eps)
    counts = np.array([84.0, 84, 21, 21, 84, 63, 21, 21, 84, 63, 21, 21])
    quadratics = {"eps": eps, "hit": hit, "T_eps": np.ceil(20 / eps), "calls_at_hit": 50 * hit, "average": 1 / hit}
    calls = dict.fromkeys(("counted", "declared", "stated"), np.tile(counts, 2)) | {"evaluated": counts}
    calls |= dict.fromkeys(("graph_evaluated", "graph_stated"), np.array([126.0, 42, 105, 126, 42, 84, 126, 42, 84]))
    return {"huber_eps": eps, "huber_hit": huber, "huber_law": huber, **quadratics, **calls}


def sample_complexity(n):
    found = {"sigma_sq": 1.0, "gap": 3.0}
    for name, order in (("iid", 2), ("pool", 1)):
        eps = np.geomspace(0.5, 0.02, n)
        samples, hits = 20 / eps**order, 9 / eps
        found |= {f"{name}_eps": eps, f"{name}_samples": samples, f"{name}_samples_law": samples}
        found[f"{name}_samples_resampled"] = samples * np.linspace(0.9, 1.1, 20)[:, None]
        found |= {f"{name}_rule_eps": eps, f"{name}_hit": hits, f"{name}_hit_law": hits, f"{name}_capped": 0 * eps}
    average = 1 + 30 / np.arange(1, 40 * n + 1)
    return found | {"fixed_law": 1.0, "fixed_average": average, "fixed_average_law": average}


def memory(n):
    counts, K = np.arange(1, n + 1), 2 * np.arange(1, n + 1)
    flat = {"counts": counts, "over_K": np.full(n, 21052.0), "over_N": np.full(n, 21052.0)}
    found = {**flat, "unrolled_K": K, "cuda": False}
    for size, law in enumerate((3552.0, 4512.0)):
        found |= {f"unrolled_{size}": 1e4 + law * K, f"tape_{size}": 1e5 + law * K, f"law_{size}": law}
    return found


def few_shot_cost(n):
    K = 2 ** np.arange(n)
    found = {"K": K, "N": K, "tasks": [2, 6], "channels": 8, "shape": [1, 16, 16], "cuda": False}
    found |= {"plain_seconds": [[0.07, 0.08], [0.08, 0.07]], "plain_peak": [8e5, 16e5]}
    laws = {"itd_once": (0, 2e3), "itd_anew": (77e4, 77e4), "maml": (13e5, 13e5)}
    for k, name in enumerate(("memory_reduced", "recompute", "anew", "itd_once", "itd_anew", "maml")):
        slope = laws.get(name, (0, 0))[0]
        passes = np.stack([1 + (slope > 0) * K / 2, 1 + 0.1 * k + (slope > 0) * K], -1)
        found |= {f"{name}_peak": (1 + k) * 1e6 + slope * K, f"{name}_passes": passes, f"{name}_passes_law": passes}
        found[f"{name}_seconds"] = 0.07 * (1 + 0.2 * k + 1e-6 * slope * K[:, None]) * np.array([1.0, 1.1])
    return found | {f"{name}_law": law for name, law in laws.items()}


def few_shot_assumption(n):
    task, ridge, N = grid(np.arange(3.0), [0.0, 0.01, 0.1, 1.0], [*np.geomspace(1, 20, n + 1), 100.0])
    v = np.where(ridge > 0, 1 / np.maximum(ridge, 1e-9), 2.0**N) * (1 + 0.1 * task)
    bound = np.where(ridge > 0, np.exp(-ridge * N), 0.5)
    found = {"ridge": ridge, "N": N, "v": v, "v_law": np.where(N < 100, v, np.nan), "bound": bound}
    found |= {"residual": np.where(ridge > 0, 0.5, 1 + N) * bound}
    found |= {"d_precision": 1e-7 * N, "d_order": 1e-16 * N}
    cells = np.stack(grid([0.0, 1.0], [0.0, 1.0], [0.0, 0.1]), -1)
    contraction = np.tile(np.array([0.99, 1.1, 0.95, 0.98] * 2)[:, None], 3)
    ratio = 0.9 * contraction[..., None] ** np.arange(n + 1)
    lower = {"lower_cells": cells, "lower_contraction": contraction, "lower_ratio": ratio}
    grid_ridge, grid_N = grid([0.0, 0.01, 0.1, 1.0], [1.0, 5.0, 10.0, 20.0])
    validation = (0.6 + 0.1 * (grid_ridge > 0) - 0.005 * grid_N * (grid_ridge == 0))[:, None] + [0.0, 0.01, 0.03]
    tested = {"grid_chosen": [(0.1, 10.0), (0.0, 1.0), (0.0, 20.0)], "grid_test": [[0.7, 0.71, 0.72]] * 3}
    return found | lower | {"grid_ridge": grid_ridge, "grid_N": grid_N, "grid_validation": validation} | tested


def few_shot_accuracy(n):
    t = 50 * np.arange(1, n + 1)
    names = ("memory_reduced", "itd_bio", "protonet", "anil", "published", "r2d2", "fo_anil", "fomaml", "maml")
    found = {"recipes": names, "bar_recipe": names[:2], "bar_iterations": [t[-1]] * 2, "bar_least": [0.7, 0.65]}
    for k, name in enumerate(names):
        seeds = 3 if k < 4 else 1
        curve = (0.8 - 0.04 * k) * (1 - 0.7 * np.exp(-t / 100))[:, None] + 0.01 * np.arange(seeds)
        test = np.stack([0.25 + 0 * curve[:1], curve[-1:]])[:, 0, :, None] + np.linspace(-0.2, 0.2, 20)
        found |= {f"{name}_iterations": t, f"{name}_validation": curve}
        found |= {f"{name}_tested": [0, t[-1]], f"{name}_test": test}
    found |= {"found": ["cifar-fs"], "missing": ["fc100"]}
    for name in ("memory_reduced", "published", "itd_bio", "anil", "maml"):
        found |= {f"cifar-fs_{name}": 0.68 + np.linspace(-0.1, 0.1, 20), f"cifar-fs_{name}_reported": 0.69}
    return found


def counterexamples(n):
    K, t, moves = np.arange(1.0, n + 1), np.arange(1.0, n + 1), 8.2 ** np.arange(2 * n + 1)
    index, batch = grid([1.2, 3.0], 16 * 4.0 ** np.arange(n))
    median = batch ** (1 / np.minimum(index, 2) - 1)
    rng = np.random.default_rng(0)
    theta = {"diverging_K": K, "diverging": 1.2**K, "diverging_law": 1.2**K}
    quartic = {"quartic_K": 10**K, "quartic": (0.4 * 10**K) ** -0.5, "quartic_law": (0.4 * 10**K) ** -0.5}
    singular = {"singular_phi": 2.0**-K, "singular": 2.0**K + 2.0**-K, "singular_law": 2.0**K + 2.0**-K}
    heavy = {"heavy_index": index, "heavy_batch": batch, "heavy_median": median, "heavy_law": median}
    noisy = {"noisy_t": t, "noisy": np.sqrt(1.4 ** t[:, None]) * rng.choice([-1, 1], (n, 20)), "noisy_law": 1.4**t}
    upper = {**noisy, "mean": 0.2**t, "mean_law": 0.2**t, "coupled_moves": moves, "coupled_moves_law": moves}
    ends = {"quartic_shift": 0 * K, "singular_status": 2 + 0 * K, "coupled_law": 8.2, "coupled_status": 3.0}
    more = {"heavy_exponent": -2 * (1 - 1 / np.minimum(index, 2)), "heavy_below": rng.random((len(index), 20)) < 0.5}
    return {**theta, **quartic, **singular, **heavy, **upper, **ends, **more}


MAKERS = {
    maker.__name__: maker
    for maker in (
        algorithm_replay,
        hypergradient_error,
        certificate,
        cg_rate,
        lyapunov_decrease,
        deterministic_exact,
        representation,
        cold_start_floor,
        step_size_limit,
        itd_floor,
        growing_lower_steps,
        worst_case_sdp,
        sublinear_rate,
        sublinear_tail,
        batch_size_decay,
        stationary_moment,
        stale_warm_start,
        complexity,
        sample_complexity,
        memory,
        method_bias,
        method_rates,
        method_comparison,
        few_shot_cost,
        few_shot_assumption,
        few_shot_accuracy,
        counterexamples,
    )
}
