"""The README's own code runs and does what it says."""

import re
from pathlib import Path

import torch

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_example_of_an_own_problem_converges_in_every_replica():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, object] = {}
    torch.manual_seed(0)
    exec(compile(code, "README.md", "exec"), names)
    final = names["result"].trace["grad_norm_sq"][-1]
    assert final.shape == (2,)
    assert bool((final < 1e-24).all())


def test_every_linked_file_exists():
    linked = re.findall(r"\]\(([^)]+)\)", README)
    assert linked
    assert all((Path(__file__).parent.parent / path).is_file() for path in linked)


def test_every_make_target_it_names_exists():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    named = set(re.findall(r"`?make (\w+)", README)) - {"it"}
    assert named >= {"verify", "test", "paper", "bench", "lint"}
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in named)
