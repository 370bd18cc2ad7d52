"""The memory-reduced algorithm, its parts, and the tools that measure it."""

from convergence.adaptive import Certified
from convergence.budget import memory_limit
from convergence.certificates import Certificate, certified_error
from convergence.chunks import direction_in_chunks
from convergence.composed import Composed
from convergence.declared import Declared
from convergence.driver import resolve_device, run
from convergence.gradient_check import Agreement, Comparison, GradientCheck, check_gradient
from convergence.hypergradients import (
    Checkpointed,
    Displacement,
    Estimate,
    Estimator,
    FirstOrder,
    ForwardGradient,
    ForwardMode,
    HessianFree,
    Implicit,
    Reversed,
    Unrolled,
)
from convergence.linear_solvers import (
    ConjugateGradient,
    Direct,
    LinearSolution,
    LinearSolver,
    Neumann,
    RandomNeumann,
    Richardson,
)
from convergence.lower_solvers import GradientDescent, HeavyBall, LowerSolver
from convergence.memory import PeakBytes, peak_bytes
from convergence.memory_reduced import MemoryReduced, State
from convergence.method import Method, Step
from convergence.methods import (
    ALSET,
    ANIL,
    BOIL,
    BSA,
    F2SA,
    FOMAML,
    HFMAML,
    IMAML,
    MAML,
    SABA,
    SOBA,
    SRBA,
    STABLE,
    TTSA,
    AIDBiO,
    ClosedForm,
    ITDBiO,
    Reptile,
    StocBiO,
)
from convergence.needs import Need
from convergence.oracle import Oracle
from convergence.probes import PROBES, Probe, Snapshot
from convergence.recipes import RECIPES, Recipe
from convergence.reference import ReferenceFailed, reference
from convergence.result import Chunks, Result, RunFailed
from convergence.status import Status

__all__ = [
    "ALSET",
    "ANIL",
    "BOIL",
    "BSA",
    "F2SA",
    "FOMAML",
    "HFMAML",
    "IMAML",
    "MAML",
    "PROBES",
    "RECIPES",
    "SABA",
    "SOBA",
    "SRBA",
    "STABLE",
    "TTSA",
    "AIDBiO",
    "Agreement",
    "Certificate",
    "Certified",
    "Checkpointed",
    "Chunks",
    "ClosedForm",
    "Comparison",
    "Composed",
    "ConjugateGradient",
    "Declared",
    "Direct",
    "Displacement",
    "Estimate",
    "Estimator",
    "FirstOrder",
    "ForwardGradient",
    "ForwardMode",
    "GradientCheck",
    "GradientDescent",
    "HeavyBall",
    "HessianFree",
    "ITDBiO",
    "Implicit",
    "LinearSolution",
    "LinearSolver",
    "LowerSolver",
    "MemoryReduced",
    "Method",
    "Need",
    "Neumann",
    "Oracle",
    "PeakBytes",
    "Probe",
    "RandomNeumann",
    "Recipe",
    "ReferenceFailed",
    "Reptile",
    "Result",
    "Reversed",
    "Richardson",
    "RunFailed",
    "Snapshot",
    "State",
    "Status",
    "Step",
    "StocBiO",
    "Unrolled",
    "certified_error",
    "check_gradient",
    "direction_in_chunks",
    "memory_limit",
    "peak_bytes",
    "reference",
    "resolve_device",
    "run",
]
