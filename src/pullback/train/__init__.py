"""Training runs: `fit` and `resume`, `evaluate` and `predict`, and the run folder that they share."""

from pullback.train.compare import Comparison, compare
from pullback.train.config import Config, Facts, Settings, read_config
from pullback.train.evaluate import Evaluation, Prediction, evaluate, predict
from pullback.train.loop import Result, fit, resume
from pullback.train.run import Run
from pullback.train.truth import read_truth

__all__ = [
    "Comparison",
    "Config",
    "Evaluation",
    "Facts",
    "Prediction",
    "Result",
    "Run",
    "Settings",
    "compare",
    "evaluate",
    "fit",
    "predict",
    "read_config",
    "read_truth",
    "resume",
]
