"""Optimisers and learning-rate schedules, composed as in optax: an optimiser is a chain of transformations."""

from pullback.optim.gradients import (
    ScheduleState,
    add_decayed_weights,
    clip_by_global_norm,
    clip_by_value,
    global_norm,
    scale,
    scale_by_learning_rate,
    scale_by_schedule,
)
from pullback.optim.moments import (
    AdamState,
    AverageState,
    RmsState,
    TraceState,
    average_parameters,
    scale_by_adam,
    scale_by_rms,
    trace,
)
from pullback.optim.optimisers import adam, adamw, rmsprop, sgd
from pullback.optim.schedules import (
    LearningRate,
    Schedule,
    constant,
    exponential,
    one_cycle,
    staircase,
    warmup_cosine,
)
from pullback.optim.transform import Transform, apply_updates, chain, identity, stateless

__all__ = [
    "AdamState",
    "AverageState",
    "LearningRate",
    "RmsState",
    "Schedule",
    "ScheduleState",
    "TraceState",
    "Transform",
    "adam",
    "adamw",
    "add_decayed_weights",
    "apply_updates",
    "average_parameters",
    "chain",
    "clip_by_global_norm",
    "clip_by_value",
    "constant",
    "exponential",
    "global_norm",
    "identity",
    "one_cycle",
    "rmsprop",
    "scale",
    "scale_by_adam",
    "scale_by_learning_rate",
    "scale_by_rms",
    "scale_by_schedule",
    "sgd",
    "staircase",
    "stateless",
    "trace",
    "warmup_cosine",
]
