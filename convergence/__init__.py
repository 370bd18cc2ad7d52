"""The memory-reduced algorithm, its parts, and the tools that measure it."""

from convergence.adaptive import Certified
from convergence.certificates import Certificate, certified_error
from convergence.chunks import direction_in_chunks
from convergence.composed import Composed
from convergence.declared import Declared
from convergence.driver import resolve_device, run
from convergence.hypergradients import Displacement, Estimate, Estimator, FirstOrder, Implicit, Unrolled
from convergence.linear_solvers import ConjugateGradient, Direct, LinearSolution, LinearSolver
from convergence.lower_solvers import GradientDescent, LowerSolver
from convergence.memory import PeakBytes, peak_bytes
from convergence.memory_reduced import MemoryReduced, State
from convergence.method import Method, Step
from convergence.methods import FOMAML, ClosedForm, ITDBiO
from convergence.needs import Need
from convergence.oracle import Oracle
from convergence.probes import PROBES, Probe, Snapshot
from convergence.recipes import RECIPES, Recipe
from convergence.reference import ReferenceFailed, reference
from convergence.result import Result, RunFailed
from convergence.status import Status

__all__ = [
    "FOMAML",
    "PROBES",
    "RECIPES",
    "Certificate",
    "Certified",
    "ClosedForm",
    "Composed",
    "ConjugateGradient",
    "Declared",
    "Direct",
    "Displacement",
    "Estimate",
    "Estimator",
    "FirstOrder",
    "GradientDescent",
    "ITDBiO",
    "Implicit",
    "LinearSolution",
    "LinearSolver",
    "LowerSolver",
    "MemoryReduced",
    "Method",
    "Need",
    "Oracle",
    "PeakBytes",
    "Probe",
    "Recipe",
    "ReferenceFailed",
    "Result",
    "RunFailed",
    "Snapshot",
    "State",
    "Status",
    "Step",
    "Unrolled",
    "certified_error",
    "direction_in_chunks",
    "peak_bytes",
    "reference",
    "resolve_device",
    "run",
]
