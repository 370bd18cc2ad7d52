from __future__ import annotations

import sys

import pytest
import torch

from problems.bundled import bundled, other_shares, with_bias


@pytest.mark.parametrize(("name", "shape", "classes"), [("digits", (1797, 64), 10), ("breast_cancer", (569, 30), 2)])
def test_the_data_are_those_that_scikit_learn_brings_along(name, shape, classes):
    inputs, labels = bundled(name)
    assert (tuple(inputs.shape), inputs.dtype, labels.dtype) == (shape, torch.float64, torch.int64)
    assert labels.shape == shape[:1]
    assert labels.unique().tolist() == list(range(classes))
    assert torch.isfinite(inputs).all()


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match="data set digits needs scikit-learn: install the extra data"):
        bundled("digits")


def test_a_bias_is_a_last_column_of_ones():
    assert with_bias(torch.tensor([[2.0, 3.0]])).tolist() == [[2.0, 3.0, 1.0]]


def test_each_task_has_all_shares_but_its_own():
    assert other_shares(6, 3).tolist() == [[2, 3, 4, 5], [0, 1, 4, 5], [0, 1, 2, 3]]
