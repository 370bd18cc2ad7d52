"""`python -m convergence watch DIR`: a run as it goes, from the files that it writes; nothing is locked or written.

tail        a log that grows, read from where it was left
series      a quantity over the iterations, as many means of it as a line of a terminal has use for
folders     what the files of a folder say: of a training run, several seeds, a kept `solve`, a run of `paper_checks`
view        the same as tables of Rich
"""

from convergence.watch.folders import Watched, watched

__all__ = ["Watched", "watched"]
