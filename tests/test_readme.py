"""The README's own code runs and does what it says."""

import re
from pathlib import Path

import torch

README = (Path(__file__).parent.parent / "README.md").read_text()


OWN, PARTS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def final(code: str) -> torch.Tensor:
    """|grad Phi|^2 at the end of the run that the code leaves behind, for each replica."""
    names: dict[str, object] = {}
    torch.manual_seed(0)
    exec(compile(code, "README.md", "exec"), names)
    return names["result"].trace["grad_norm_sq"][-1]


def test_the_example_of_an_own_problem_converges_in_every_replica():
    found = final(OWN)
    assert found.shape == (2,)
    assert bool((found < 1e-24).all())


def test_the_example_of_parts_settles_at_its_noise():
    found = final(PARTS)
    assert found.shape == (10,)
    assert 1e-3 < float(found.median()) < 1


def test_every_linked_file_exists():
    linked = re.findall(r"\]\(([^)]+)\)", README)
    assert linked
    assert all((Path(__file__).parent.parent / path).is_file() for path in linked)


def test_every_make_target_it_names_exists():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    named = set(re.findall(r"`?make (\w+)", README)) - {"it"}
    assert named >= {"verify", "test", "paper", "bench", "lint"}
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in named)
