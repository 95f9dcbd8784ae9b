"""Networks: modules, layers, losses, initial values, and networks by name."""

from pullback.nn import init, models
from pullback.nn.activations import GELU, LeakyReLU, PReLU, ReLU, ReLU6, Sigmoid, Softmax, Tanh
from pullback.nn.containers import Flatten, Residual, Sequential
from pullback.nn.conv import Conv2d
from pullback.nn.dropout import Dropout
from pullback.nn.linear import Embedding, Linear
from pullback.nn.losses import binary_cross_entropy_with_logits, mse, softmax_cross_entropy
from pullback.nn.module import Buffer, Module, count_parameters
from pullback.nn.norm import BatchNorm, LayerNorm
from pullback.nn.pool import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from pullback.nn.recurrent import GRUCell, LSTMCell, Recurrent, RNNCell

__all__ = [
    "GELU", "AvgPool2d", "BatchNorm", "Buffer", "Conv2d", "Dropout", "Embedding", "Flatten", "GRUCell",
    "GlobalAvgPool2d", "LSTMCell", "LayerNorm", "LeakyReLU", "Linear", "MaxPool2d", "Module", "PReLU", "RNNCell",
    "ReLU", "ReLU6", "Recurrent", "Residual", "Sequential", "Sigmoid", "Softmax", "Tanh",
    "binary_cross_entropy_with_logits", "count_parameters", "init", "models", "mse", "softmax_cross_entropy",
]  # fmt: skip
