"""PyTorch as a peer: the same network with the same weights, in its best layouts, with its fused optimisers."""

from __future__ import annotations

import contextlib
import importlib
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from pullback.bench.workload import Step
from pullback.core import tree

if TYPE_CHECKING:
    from pullback.bench.networks import Network


def load() -> Any:
    """The library, set to the CPUs that this process may run on."""
    return importlib.import_module("torch")


def training(network: Network, channels_last: bool = False, compiled: bool = False, bfloat16: bool = False) -> Step:
    """Steps of training; with `compiled`, loss and gradients by `torch.compile`; `bfloat16` by autocast."""
    torch = load()
    model, images, labels = _prepared(network, channels_last)
    model.train()
    optimisers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    optimiser = optimisers[network.optimiser](model.parameters(), lr=network.rate, fused=True)

    def loss_of(images: Any, labels: Any) -> Any:
        with _arithmetic(torch, bfloat16):
            return torch.nn.functional.cross_entropy(model(images), labels)

    loss_of = _compiled(torch, loss_of) if compiled else loss_of

    def step() -> Any:
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of(images, labels)
        loss.backward()
        optimiser.step()
        return loss.detach().numpy()

    return step


def inference(network: Network, channels_last: bool = False, compiled: bool = False, bfloat16: bool = False) -> Step:
    """The logits of a batch."""
    torch = load()
    model, images, _ = _prepared(network, channels_last)
    model.eval()
    predict = _compiled(torch, model) if compiled else model

    def step() -> Any:
        with torch.inference_mode(), _arithmetic(torch, bfloat16):
            return predict(images).float().numpy()

    return step


def _compiled(torch: Any, f: Any) -> Any:
    if not any(map(shutil.which, ("g++", "c++", "clang++"))):
        raise ImportError("torch.compile needs a C++ compiler")
    return torch.compile(f)


def _arithmetic(torch: Any, bfloat16: bool) -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16) if bfloat16 else contextlib.nullcontext()


def _prepared(network: Network, channels_last: bool) -> tuple[Any, Any, Any]:
    torch = load()
    model = twin(network.build())
    pixels, labels = network.data()
    images = torch.from_numpy(pixels)
    if pixels.ndim == 4:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        images = images.permute(0, 3, 1, 2).contiguous(memory_format=layout)
        model = model.to(memory_format=layout)
    return model, images, torch.from_numpy(labels)


def twin(module: Any) -> Any:
    """The module of PyTorch that does what one of ours does, with copies of its weights."""
    torch = load()
    kind = type(module).__name__
    if kind == "Sequential":
        return torch.nn.Sequential(*[twin(module[i]) for i in range(len(module))])
    if kind == "Linear":
        layer = torch.nn.Linear(module.inputs, module.outputs)
        return _filled(layer, weight=module.weight.T, bias=module.bias)
    if kind == "Conv2d":
        (top, _), (left, _) = module.padding
        layer = torch.nn.Conv2d(
            module.inputs, module.outputs, module.kernel, module.stride, (top, left), bias=module.bias is not None
        )
        return _filled(layer, weight=module.weight.transpose(3, 2, 0, 1), bias=module.bias)
    if kind == "BatchNorm":
        layer = torch.nn.BatchNorm2d(module.features, eps=module.eps, momentum=module.momentum)
        return _filled(layer, weight=module.gamma, bias=module.beta)
    if kind == "MaxPool2d":
        (top, _), (left, _) = module.padding
        return torch.nn.MaxPool2d(module.window, module.stride, (top, left))
    if kind == "GlobalAvgPool2d":
        return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return {"ReLU": torch.nn.ReLU, "Flatten": torch.nn.Flatten}[kind]()


def _filled(layer: Any, **values: Any) -> Any:
    torch = load()
    with torch.no_grad():
        for name, value in values.items():
            if value is not None:
                getattr(layer, name).copy_(torch.from_numpy(np.array(value)))
    return layer


# -- functions -------------------------------------------------------------------------------------------------------
def gradient(f: Any, arguments: Any, with_value: bool = False, compiled: bool = False) -> Step:
    """The gradient of f(torch, *arguments), by all arrays; or its value and the gradients."""
    torch = load()
    leaves, structure = tree.flatten(arguments)
    tensors = [torch.tensor(leaf, requires_grad=True) for leaf in leaves]
    run = _compiled(torch, f) if compiled else f

    def step() -> Any:
        value = run(torch, *structure.unflatten(tensors))
        gradients = torch.autograd.grad(value, tensors)
        return (value if with_value else gradients[0]).detach().numpy()

    return step


def value(f: Any, arguments: Any, compiled: bool = False) -> Step:
    """f(torch, *arguments)."""
    torch = load()
    tensors = [torch.from_numpy(each) for each in arguments]
    run = _compiled(torch, f) if compiled else f

    def step() -> Any:
        with torch.inference_mode():
            return run(torch, *tensors).numpy()

    return step
