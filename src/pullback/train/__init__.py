"""Training runs: `fit` and `resume`, `evaluate` and `predict`, and the run folder that they share."""

from pullback.train.config import Config, Facts, Settings, read_config
from pullback.train.evaluate import Evaluation, Prediction, evaluate, predict
from pullback.train.loop import Result, fit, resume
from pullback.train.run import Run

__all__ = [
    "Config",
    "Evaluation",
    "Facts",
    "Prediction",
    "Result",
    "Run",
    "Settings",
    "evaluate",
    "fit",
    "predict",
    "read_config",
    "resume",
]
