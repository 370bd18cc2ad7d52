"""What the README names in passing is there. test_snippets.py runs its code, test_docs.py follows its links."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_every_make_target_it_names_exists():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    named = set(re.findall(r"`?make (\w+)", README)) - {"it"}
    assert named >= {"verify", "test", "paper", "bench", "lint"}
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in named)
