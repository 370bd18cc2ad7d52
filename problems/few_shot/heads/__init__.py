"""Heads: what a task learns on top of the features, a strongly convex lower level with closed forms.

Z (B, n, d) are the features of n images of each of B tasks, y (B, n) their classes, Y (B, n, way) the same as unit
vectors. theta (B, q) is a matrix W for each task, (way, d), row after row.
"""

from problems.few_shot.heads.head import CLOSED_FORMS, Head
from problems.few_shot.heads.prototype import PrototypeHead
from problems.few_shot.heads.ridge import RidgeHead
from problems.few_shot.heads.softmax import SoftmaxHead

__all__ = ["CLOSED_FORMS", "Head", "PrototypeHead", "RidgeHead", "SoftmaxHead"]
