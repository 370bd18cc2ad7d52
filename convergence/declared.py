"""What a method says of itself. Tests and claims hold each entry against a measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Memory = Literal["flat", "root", "linear"]


@dataclass(frozen=True, kw_only=True)
class Declared:
    """The entries of a method's row in the table of methods; its calls are `declared_calls`.

    title       as it is printed
    estimates   the law of d on quadratics with all tasks, a name in `paper_checks.method_laws.LAWS`: in the limit of
                many iterations at which phi is held; the expectation, where the method draws numbers
    warm        theta is carried over, so that where phi is held it tends to theta*
    bias        in words and symbols, what of E d - grad Phi is left with K lower steps and N steps for v; "" for none
    memory      bytes of one iteration as a function of K: "flat"; "root", of the order of sqrt K; "linear"
    exact       with all tasks, exact objectives, constant small steps and any K >= 1, phi tends to a zero of grad Phi
    rate        r: mean_{t<T} |grad Phi|^2 is O(T^-r) in that setting; None where phi tends to another point
    noisy_rate  r: E |grad Phi|^2 is O(T^-r) with stochastic objectives of fixed variance (of finite sums, where it
                needs those) and the step sizes, terms of a series and lower steps of the source, which may depend on
                T; None where the source has no such theorem
    source      where it is published
    """

    title: str
    estimates: str
    bias: str
    memory: Memory
    warm: bool = False
    exact: bool
    rate: float | None
    noisy_rate: float | None = None
    source: str

    def __post_init__(self) -> None:
        if self.exact and self.rate is None:
            raise ValueError(f"expected a rate of {self.title}, which is declared exact, got None")
