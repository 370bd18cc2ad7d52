"""Every claim HOLDS at smoke scale, and its planted error is caught."""

import pytest

from paper_checks import CLAIMS, Outcome, Setting
from paper_checks.claim import SECTIONS


@pytest.mark.battery
@pytest.mark.parametrize("name", CLAIMS)
def test_the_claim_holds_and_its_control_is_violated(name):
    verdict, evidence = CLAIMS[name].verdict(Setting(scale="smoke", seed=0))
    assert verdict.control_outcome is Outcome.VIOLATED, verdict.control
    assert verdict.outcome is Outcome.HOLDS, verdict.reason
    assert evidence


# Without the control, which the battery judges. Not `memory`: bytes do not depend on values
@pytest.mark.battery
@pytest.mark.parametrize(
    "name", ["algorithm_replay", "hypergradient_error", "cg_rate", "cold_start_floor", "complexity"]
)
def test_the_quick_claims_hold_for_another_seed(name):
    found = CLAIMS[name].judge(CLAIMS[name].run(Setting(seed=12345)))
    assert found
    assert all(each.outcome is Outcome.HOLDS for each in found), [each.reason for each in found]


@pytest.mark.parametrize("name", CLAIMS)
def test_the_claim_says_its_statement_hypotheses_and_what_would_refute_it(name):
    claim = CLAIMS[name]
    assert set(claim.sections) == set(SECTIONS)
    assert claim.title
    assert claim.planted


@pytest.mark.gpu
@pytest.mark.parametrize("name", CLAIMS)
def test_the_claim_holds_on_a_gpu(name):
    verdict, _ = CLAIMS[name].verdict(Setting(device="cuda"))
    assert verdict.outcome is Outcome.HOLDS, verdict.reason
