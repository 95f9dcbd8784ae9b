"""Why a line holds, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pullback.core.primitive import Elementwise, Fused, Multilinear, Primitive, Selection

if TYPE_CHECKING:
    from pullback.show.running import Variable
    from pullback.show.walk import Edge, Walk

NAME = "{name}"  # stands in a reason for the variable that the line is about
_COUNT = {2: "twice", 3: "three times", 4: "four times"}
_SAID = {
    "add": "addition passes the gradient on",
    "subtract": "a difference passes the gradient on, with its sign",
    "multiply": "multiplication switches: each factor receives the other",
    "divide": "the rule of the quotient",
    "sum": "a sum gives its gradient to each of its terms",
    "mean": "a mean gives each of its terms an equal share",
    "matmul": "linear in this factor: multiply by the other, transposed",
    "getitem": "reading a part: the gradient goes back to its place",
    "index_update": "writing a part: the gradient splits between old and new",
    "concatenate": "joined parts: each takes its share",
    "where": "a choice: the gradient goes the way that was chosen",
    "maximum": "the maximum selects: the gradient goes to the larger",
    "minimum": "the minimum selects: the gradient goes to the smaller",
    "relu": "ReLU: the gradient passes where the unit is active",
    "conv2d": "convolution is linear in this factor: its adjoint puts each product back at its shift",
}


def reason(walk: Walk, v: Variable) -> str:
    """Why the adjoint of a variable is what its line says."""
    edges = walk.edges[v]
    for edge in edges:
        if edge.problem:
            return edge.problem
    told = "; ".join(dict.fromkeys(_through(_telling(walk, edge)) for edge in edges))
    if len(edges) > 1:
        times = _COUNT.get(len(edges), f"{len(edges)} times")
        told = f"{NAME} is used {times}: its gradients add"
    kinks = sum(edge.kinks for edge in edges)
    return f"{told} (not differentiable at {kinks} of the values)" if kinks else told


def _telling(walk: Walk, edge: Edge) -> Edge:
    """The first step on the way that does more than to move or scale numbers."""
    y = edge.step.outputs[0]
    on = y in walk.hidden and walk.moves(edge.step) and walk.edges[y]
    return _telling(walk, walk.edges[y][0]) if on else edge


def _through(edge: Edge) -> str:
    primitive = edge.step.primitive
    return _SAID.get(primitive.name) or _by_kind(primitive)


def _by_kind(primitive: Primitive) -> str:
    name = primitive.name.replace("_", " ")
    if isinstance(primitive, Elementwise):
        return f"{name} acts on each element: multiply by its derivative"
    if isinstance(primitive, Selection):
        return f"{name} selects: the gradient goes to what was selected"
    if isinstance(primitive, Fused):
        return f"the rule of {name}"
    if isinstance(primitive, Multilinear):
        return f"{name} is linear in this factor: apply its adjoint"
    return f"{name} is linear: apply its adjoint"
