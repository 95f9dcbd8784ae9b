"""The optimisers by their names, each a short chain: to make another one, chain other parts."""

from __future__ import annotations

from pullback.optim.gradients import Mask, add_decayed_weights, scale_by_learning_rate
from pullback.optim.moments import scale_by_adam, scale_by_rms, trace
from pullback.optim.schedules import LearningRate
from pullback.optim.transform import Transform, chain


def sgd(
    lr: LearningRate,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    mask: Mask | None = None,
) -> Transform:
    """Stochastic gradient descent (Robbins and Monro, 1951), with momentum.

        g <- gradient + weight_decay * p
        m <- momentum * m + g
        p <- p - lr * m                        (nesterov: p - lr * (g + momentum * m))

    `lr` is a number or a schedule; `mask` says by its path which parameter is decayed.
    """
    return chain(
        add_decayed_weights(weight_decay, mask),
        trace(momentum, nesterov),
        scale_by_learning_rate(lr),
    )


def rmsprop(
    lr: LearningRate,
    decay: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    mask: Mask | None = None,
) -> Transform:
    """RMSprop (Tieleman and Hinton, 2012), with momentum on the normalised gradient as in Graves (2013) and PyTorch.

    g <- gradient + weight_decay * p
    v <- decay * v + (1 - decay) * g^2
    m <- momentum * m + g / (sqrt(v) + eps)
    p <- p - lr * m
    """
    return chain(
        add_decayed_weights(weight_decay, mask),
        scale_by_rms(decay, eps),
        trace(momentum),
        scale_by_learning_rate(lr),
    )


def adam(
    lr: LearningRate,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    mask: Mask | None = None,
) -> Transform:
    """Adam (Kingma and Ba, 2015); the weight decay is an L2 penalty, inside the moments, as in PyTorch's Adam.

    g <- gradient + weight_decay * p
    p <- p - lr * u                        (u: see `scale_by_adam`)
    """
    return chain(
        add_decayed_weights(weight_decay, mask),
        scale_by_adam(b1, b2, eps),
        scale_by_learning_rate(lr),
    )


def adamw(
    lr: LearningRate,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    mask: Mask | None = None,
) -> Transform:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

        p <- p - lr * (u + weight_decay * p)   (u: see `scale_by_adam`)

    As in PyTorch the decay is multiplied by the learning rate; in the paper it has a rate of its own, scheduled alike.
    """
    return chain(
        scale_by_adam(b1, b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(lr),
    )
