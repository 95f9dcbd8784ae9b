"""The graph of a run: what it holds, how it is laid out, and its forms."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pullback as pb
from pullback import nn
from pullback.show.graph import Graph
from pullback.show.layers import sheets
from pullback.show.placement import place
from pullback.show.svg import sizes
from pullback.show.traced import traced

X = np.linspace(-1.0, 1.0, 12).reshape(3, 4)


def residual(x: Any, w: Any) -> Any:
    h = np.tanh(x @ w)
    return np.sum((x + h) ** 2)


def loss(model: Any, images: Any, labels: Any) -> Any:
    return nn.softmax_cross_entropy(model(images), labels)


def network() -> tuple[Any, ...]:
    model = nn.models.levels_cnn((8, 8, 3), 4, (4, 8), 2)
    return model, np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32), np.arange(2)


def test_a_run_has_the_operations_the_adjoints_and_what_is_saved() -> None:
    run = traced(residual, (X, np.eye(4)))
    assert [operation.name for operation in run.operations] == ["matmul", "tanh", "add", "square", "sum"]
    assert [operation.name for operation in run.backward()] == ["sum", "square", "add", "tanh", "matmul"]
    gradients = pb.grad(residual, (0, 1))(X, np.eye(4))
    for value, expected in zip(run.arguments, gradients, strict=True):
        np.testing.assert_allclose(value.adjoint, expected)
    tanh = run.operations[1]
    assert [(name, array is tanh.outputs[0].array) for name, array in tanh.saved] == [("y", True)]
    assert tanh.outputs[0].name == "h"


def test_operations_belong_to_modules_and_functions() -> None:
    run = traced(loss, network())
    paths = [operation.scope[-1].path if operation.scope else "" for operation in run.operations]
    assert "model.level0.conv0" in paths
    assert [box.kind for box in run.boxes if box.path == "model.level1.norm0"] == ["BatchNorm"]

    def twice(x: Any) -> Any:
        def inner(y: Any) -> Any:
            return np.sin(y) * y

        return np.sum(inner(inner(x)))

    assert [box.name for box in traced(twice, (X,)).boxes] == ["inner", "inner"]


def test_a_module_is_an_argument_of_itself() -> None:
    model, images, _ = network()
    before = {path: buffer.value.copy() for path, buffer in model.buffers().items()}
    names = [value.name for value in traced(model, (images,)).arguments]
    assert "model.output.weight" in names
    assert "x" in names
    for path, buffer in model.buffers().items():
        np.testing.assert_array_equal(buffer.value, before[path])


@given(
    st.lists(st.tuples(st.sampled_from(["sin", "add", "multiply"]), st.integers(0, 9), st.integers(0, 9)), min_size=1)
)
def test_nothing_overlaps_and_edges_go_down(steps: list[tuple[str, int, int]]) -> None:
    def program(x: Any) -> Any:
        known = [x]
        for name, i, j in steps:
            a, b = known[i % len(known)], known[j % len(known)]
            known.append(np.sin(a) if name == "sin" else getattr(np, name)(a, b))
        return np.sum(known[-1])

    run = traced(program, (X,))
    placed = place(sheets(run), set(), sizes(run, "both"))
    shapes = list(placed.shapes.values())
    for k, a in enumerate(shapes):
        assert a.x >= 0
        assert a.x + a.width <= placed.width
        for b in shapes[k + 1 :]:
            apart = a.x + a.width <= b.x or b.x + b.width <= a.x or a.y + a.height <= b.y or b.y + b.height <= a.y
            assert apart
    assert all(piece.start.y <= piece.end.y for piece in placed.pieces)


@pytest.mark.parametrize("part", ["forward", "backward", "both"])
@pytest.mark.parametrize("depth", [None, 0, 1, 9])
def test_the_svg_is_whole_and_stands_alone(part: Any, depth: int | None) -> None:
    text = pb.graph(loss, *network(), part=part, depth=depth).svg()
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert not re.search(r"(href|src)=|<script|url\(", text)
    titles = "".join(element.text or "" for element in root.iter() if element.tag.endswith("text"))
    assert ("conv2d" in titles) == (depth == 9)


def test_names_are_escaped() -> None:
    def f(parts: Any) -> Any:
        return np.sum(parts['<script>"&'])

    picture = pb.graph(f, {'<script>"&': X})
    assert "<script>" not in picture.svg()
    ElementTree.fromstring(picture.svg())
    assert '\\"&' in picture.dot()


def test_the_text_tree() -> None:
    def f(x: Any) -> Any:
        y = np.tanh(x)
        return np.sum(y * 2)

    assert pb.graph(f, X).text() == (
        "f: forward\n"
        "  x  float64[3, 4]\n"
        "  y = tanh(x)  float64[3, 4]\n"
        "  %2 = multiply(y, 2)  float64[3, 4]\n"
        "  %3 = sum(%2, axis=(0, 1))  float64[]\n"
        "  result %3 float64[]\n"
        "\n"
        "f: backward\n"
        "  sum: ∂%3 -> ∂%2  saved: nothing\n"
        "  multiply: ∂%2 -> ∂y  saved: nothing\n"
        "  tanh: ∂y -> ∂x  saved: y 96 B\n"
        "  gradient of x  float64[3, 4]"
    )
    folded = pb.graph(loss, *network(), depth=1, part="forward").text()
    assert "    level0  Sequential  [6 operations, saves " in folded
    assert "conv2d" not in folded


def test_dot_balances_and_saves_are_dashed() -> None:
    text = pb.graph(loss, *network()).dot()
    assert text.count("{") == text.count("}")
    assert "style=dashed" in text
    assert "cluster_" in text


def test_files_by_their_ending(tmp_path: Path) -> None:
    picture = pb.graph(residual, X, np.eye(4))
    for name in ("a.svg", "a.txt", "a.dot"):
        assert picture.save(tmp_path / name).read_text()
    with pytest.raises(pb.ConfigError, match=r"expected a file that ends in \.svg"):
        picture.save(tmp_path / "a.jpeg")


def test_wrong_arguments() -> None:
    with pytest.raises(pb.ConfigError, match="part must be"):
        pb.graph(residual, X, np.eye(4), part="sideways")  # type: ignore[arg-type]
    with pytest.raises(pb.ConfigError, match="depth"):
        pb.graph(residual, X, np.eye(4), depth=-1)
    with pytest.raises(pb.DtypeError, match="argument a: expected floating"):
        pb.graph(np.sum, np.arange(3))
    with pytest.raises(pb.DtypeError, match="at least one argument"):
        pb.graph(lambda: 1.0)


def test_what_gives_no_gradient_and_results_that_are_no_scalars() -> None:
    def f(x: Any) -> Any:
        return np.where(x > 0, x, 0.0), np.round(x)

    picture = pb.graph(f, X)
    assert isinstance(picture, Graph)
    assert "greater" in picture.svg()
    assert "where: ∂" in picture.text()


def test_nothing_leads_to_what_is_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 4, rng=0), nn.BatchNorm(4), nn.ReLU())
    run = traced(lambda x: np.sum(model(x)), (np.ones((5, 3)),))
    assert "batch_norm" in {operation.name for operation in run.operations}  # whose statistics are updated besides
    assert all(user in run.operations for value in run.values() for user in value.users)
