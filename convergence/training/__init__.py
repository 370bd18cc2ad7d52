"""Long few-shot runs: training, validation, checkpoints, evaluation; as functions and from the command line."""

from convergence.training.evaluation import Evaluation
from convergence.training.plan import Plan
from convergence.training.run import TrainingFailed
from convergence.training.train_evaluate import Trained, evaluate, load, train

__all__ = ["Evaluation", "Plan", "Trained", "TrainingFailed", "evaluate", "load", "train"]
