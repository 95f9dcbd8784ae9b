"""Networks of `pullback.nn` as workloads: steps of training and predictions. The peers get the very same weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pullback.bench import in_jax, in_numpy, in_torch
from pullback.bench.workload import Contender, Step, Workload
from pullback.machine import has_amx
from pullback.program.lowering import Precision

PRECISIONS: tuple[Precision, ...] = ("float32", "float32-fast", "bfloat16")
if not has_amx():  # elsewhere the program in float32-fast is that in float32
    PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Network:
    """A network, its optimiser and a batch of random images with labels."""

    build: Callable[[], Any]
    """The network in `pullback.nn`; channels are last."""
    input_shape: tuple[int, ...]
    classes: int
    batch: int
    optimiser: Literal["sgd", "adam"]
    rate: float

    def data(self) -> tuple[Any, Any]:
        """Images and labels."""
        rng = np.random.default_rng(1)
        images = rng.normal(size=(self.batch, *self.input_shape)).astype(np.float32)
        return images, rng.integers(self.classes, size=self.batch)

    @property
    def has_images(self) -> bool:
        """Whether the network takes images, so that their layout matters."""
        return len(self.input_shape) == 3


def training(name: str, summary: str, network: Network, **options: Any) -> Workload:
    """A step of training: loss, gradients, and the update of the parameters."""
    peers: dict[str, Contender] = {
        "torch-eager": functools.partial(in_torch.training, network),
        "torch-compile": functools.partial(in_torch.training, network, compiled=True),
        "jax": functools.partial(in_jax.training, network),
    }
    if network.has_images:
        peers["torch-channels-last"] = functools.partial(in_torch.training, network, channels_last=True)
    else:
        peers["numpy"] = functools.partial(in_numpy.training, network)
        peers["autograd"] = functools.partial(in_numpy.training_by_autograd, network)
    reduced = {
        "torch-bf16": functools.partial(in_torch.training, network, channels_last=network.has_images, bfloat16=True)
    }
    ours: dict[str, Contender] = {each: functools.partial(train, network, each) for each in PRECISIONS}
    return Workload(name, summary, ours, peers, reduced, **options)


def inference(name: str, summary: str, network: Network, **options: Any) -> Workload:
    """The logits of one batch."""
    peers: dict[str, Contender] = {
        "torch-eager": functools.partial(in_torch.inference, network),
        "torch-compile": functools.partial(in_torch.inference, network, compiled=True),
        "jax": functools.partial(in_jax.inference, network),
    }
    if network.has_images:
        peers["torch-channels-last"] = functools.partial(in_torch.inference, network, channels_last=True)
    else:
        peers["numpy"] = functools.partial(in_numpy.inference, network)
    reduced = {
        "torch-bf16": functools.partial(in_torch.inference, network, channels_last=network.has_images, bfloat16=True)
    }
    ours: dict[str, Contender] = {each: functools.partial(predict, network, each) for each in PRECISIONS}
    return Workload(name, summary, ours, peers, reduced, **options)


def train(network: Network, precision: Precision) -> Step:
    """Steps of training by `pb.compile`, parameters and moments updated in place."""
    import pullback as pb
    from pullback import nn, optim

    optimiser = optim.adam(network.rate) if network.optimiser == "adam" else optim.sgd(network.rate)

    def loss(model: Any, images: Any, labels: Any) -> Any:
        return nn.softmax_cross_entropy(model(images), labels)

    @pb.compile(donate=(0, 1), precision=precision)
    def update(model: Any, state: Any, images: Any, labels: Any) -> Any:
        value, gradients = pb.value_and_grad(loss)(model, images, labels)
        updates, state = optimiser.update(gradients, state, model)
        return optim.apply_updates(model, updates), state, value

    model = network.build()
    state = optimiser.init(model)
    images, labels = network.data()

    def step() -> Any:
        nonlocal model, state
        model, state, value = update(model, state, images, labels)
        return value

    return step


def predict(network: Network, precision: Precision) -> Step:
    """Logits by `pb.compile`."""
    import pullback as pb

    model = pb.compile(network.build().eval(), precision=precision)
    images, _ = network.data()
    return lambda: model(images)


# -- the networks that are measured ----------------------------------------------------------------------------------
def mlp(*hidden: int) -> Callable[[], Any]:
    def build() -> Any:
        from pullback.nn.models import mlp

        return mlp((3072,), 10, hidden)

    return build


def cifar_cnn() -> Any:
    from pullback.nn.models import cifar_cnn

    return cifar_cnn()


def levels(size: int, classes: int, widths: tuple[int, ...], repeats: int) -> Callable[[], Any]:
    def build() -> Any:
        from pullback.nn.models import levels_cnn

        return levels_cnn((size, size, 3), classes, widths, repeats)

    return build


MLP_SMALL = Network(mlp(100), (3072,), 10, 200, "sgd", 0.05)
MLP_LARGE = Network(mlp(600, 600, 200), (3072,), 10, 400, "adam", 3e-4)
CIFAR_CNN = Network(cifar_cnn, (32, 32, 3), 10, 32, "adam", 1e-4)
CNN64 = Network(levels(64, 1000, (32, 64, 128, 256), 3), (64, 64, 3), 1000, 32, "adam", 1e-4)


def with_batch(network: Network, batch: int) -> Network:
    """The network with another size of batch."""
    return Network(network.build, network.input_shape, network.classes, batch, network.optimiser, network.rate)


WORKLOADS = [
    training("mlp-small", "training step, 3072-100-10, batch 200, gradient descent", MLP_SMALL),
    training("mlp-large", "training step, 3072-600-600-200-10, batch 400, Adam", MLP_LARGE),
    training("cifar-cnn", "training step, cifar-cnn on 32x32 pixels, batch 32, Adam", CIFAR_CNN),
    training("cnn64", "training step, levels 32, 64, 128, 256 of 3, 1000 classes, 64x64, batch 32, Adam", CNN64),
    *(
        inference(f"mlp-inference-{n}", f"logits of mlp-large's network, batch {n}", with_batch(MLP_LARGE, n))
        for n in (1, 256)
    ),
    *(inference(f"cnn-inference-{n}", f"logits of cifar-cnn, batch {n}", with_batch(CIFAR_CNN, n)) for n in (1, 256)),
]
