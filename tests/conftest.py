"""Settings of the whole suite: the Hypothesis profile, one thread a worker, and the `gpu` marker."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings
from threadpoolctl import threadpool_limits
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

# No deadline, no health check of time: the machine is shared, and no test may depend on its speed.
settings.register_profile("local", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

torch.set_num_threads(1)  # pytest -n 2 on two cores
threadpool_limits(1)  # numpy's linear algebra as well

# A device that knows shapes and types but no values (tests/convergence/test_devices.py). Autograd asks which devices
# there are in the first backward pass of the process, so that it must be there by then
FAKE_DEVICE = "fakegpu"
_module = _DummyBackendModule()
_module.get_amp_supported_dtype = lambda: [torch.bfloat16]
_setup_privateuseone_for_python_backend(FAKE_DEVICE, backend_module=_module)


def pytest_configure(config: pytest.Config) -> None:
    if "s" not in config.option.reportchars:
        config.option.reportchars += "s"  # a skipped test is named at the end, with its reason


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    reason = "needs a CUDA device: torch.cuda.is_available() is False on this machine"
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))
