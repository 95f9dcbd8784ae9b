"""The language of claims: expressions as in NumPy or as in a textbook (LaTeX or Unicode), parsed into a tree and
evaluated on arrays. Nothing of it is ever run as Python.

In `a * b` the product is elementwise, as in NumPy, and so in `a ⊙ b`. Side by side, as in `H^T g` or `g x^T`, vectors
are columns and the product is that of matrices. A vector to the left of a matrix is a row, in the numerator layout.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pullback.errors import CheckError

Array = np.ndarray[Any, Any]

LEFT, UPDATE = "=", "<-"
PATH = r"[^\W\d]\w*(?:\[(?:'[^']*'|\"[^\"]*\"|\d+)\])*"
PARTIAL = r"(?:d|∂)\s*"
TOKEN = re.compile(
    rf"""\s*(?:
    (?P<derivative>{PARTIAL}[^\W\d]\w*\s*/\s*{PARTIAL}(?P<of>{PATH}))
    | (?P<mask>I\{{0,\s*1\}})
    | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<name>[^\W\d]\w*(?:\.(?!T\b)[^\W\d]\w*)*)
    | (?P<operator>\*\*|>=|<=|<-|==|\.T\b|[-+*/@^()\[\],=<>⊙·⊺:])
    )""",
    re.VERBOSE,
)


class Token(NamedTuple):
    """A word of a claim."""

    kind: str
    text: str


class Node(NamedTuple):
    """An expression: what is done, and to what."""

    kind: str
    text: str
    parts: tuple[Any, ...] = ()


class Value(NamedTuple):
    """An array; with `row`, a vector that lies."""

    array: Any
    row: bool = False


def split_claim(claim: str) -> tuple[str, str, str]:
    """The left side, the sign between (`=` or `<-`), and the right side. Raises CheckError without a sign."""
    plain = from_latex(claim)
    for sign in (UPDATE, LEFT):
        left, found, right = plain.partition(sign)
        if found:
            return left.strip(), sign, right.strip()
    raise CheckError(f"claim {claim!r}: expected `de/dx = ...`, or an update `x <- ...`, and found no `=`")


LATEX = [
    (r"\\([{}])", r"\1"),
    (r"\$|\\left|\\right|\\[,;!: ]|\\displaystyle|&", " "),
    (r"\\(?:mathbf|boldsymbol|mathrm|mathit|operatorname|text|bm)\s*\{([^{}]*)\}", r"\1"),
    (r"\\bar\s*\{?\s*(\\?\w+)\s*\}?", r"∂e/∂\1"),
    (r"\\(?:hat|tilde)\s*\{?\s*(\\?\w+)\s*\}?", r"\1_hat"),
    (r"\\partial\s*", "∂"),
    (r"\\odot|\\circ|∘", "⊙"),
    (r"\\cdot|\\times", "·"),
    (r"\^\s*\{?\s*(?:\\top|\\intercal|T|⊤)\s*\}?(?!\w)|\^\s*\\mathsf\{T\}|⊤|ᵀ", "⊺"),
    (r"\\leftarrow|←|:=", "<-"),
    (r"_\{(\w+)\}", r"_\1"),
    (r"−", "-"),
    (r"\\([A-Za-z]+)", r"\1"),
]


def from_latex(text: str) -> str:
    """The claim without LaTeX: fractions, braces, Greek letters and signs in plain characters."""
    for pattern, replacement in LATEX[:-1]:
        text = re.sub(pattern, replacement, text)
    fraction = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
    while (found := fraction.search(text)) is not None:
        above, below = found[1].strip(), found[2].strip()
        derivative = all(re.fullmatch(rf"{PARTIAL}{PATH}", part) for part in (above, below))
        text = (
            text[: found.start()]
            + (f"{above}/{below}" if derivative else f"(({above})/({below}))")
            + text[found.end() :]
        )
    text = re.sub(*LATEX[-1], text)
    return re.sub(r"(?<!I)\{([^{}]*)\}", r"(\1)", text)


GRADIENTS = (
    rf"{PARTIAL}[^\W\d]\w*\s*/\s*{PARTIAL}(?P<of>{PATH})",  # de/dx
    rf"(?:∇|nabla)_?\s*(?P<of>{PATH})(?:\s+[^\W\d]\w*)?",  # the gradient as ∇_x e
    rf"(?:grad_|d_?)(?P<of>{PATH})",  # dx, grad_x
)
"""How a left side says that it is a gradient."""


def derivative_of(text: str) -> str | None:
    """The name x in a left side such as `de/dx`, `∇_x e` or `dx`; None for another left side."""
    found = [match["of"] for form in GRADIENTS if (match := re.fullmatch(form, text)) is not None]
    return found[0] if found else None


def tokens(text: str) -> list[Token]:
    """The words of an expression. Raises CheckError, with the place, at what is none."""
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise CheckError(f"claim: cannot read {text[at:]!r} in {text!r}")
        kind = str(match.lastgroup if match.lastgroup != "of" else "derivative")
        word = match["of"] if kind == "derivative" else match[kind]
        found.append(Token(kind, word))
        at = match.end()
    return found


class Parser:
    """Recursive descent, one method for each level of precedence."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens, self.at = text, tokens(text), 0

    def parse(self) -> Node:
        """The whole text as one expression."""
        node = self.comparison()
        if self.at < len(self.tokens):
            raise CheckError(f"claim: unexpected {self.tokens[self.at].text!r} in {self.text!r}")
        return node

    def peek(self, *texts: str) -> bool:
        if self.at >= len(self.tokens):
            return False
        token = self.tokens[self.at]
        return token.kind == "operator" and token.text in texts

    def take(self) -> Token:
        if self.at >= len(self.tokens):
            raise CheckError(f"claim: {self.text!r} ends too early")
        self.at += 1
        return self.tokens[self.at - 1]

    def expect(self, text: str) -> None:
        token = self.take()
        if token.text != text:
            raise CheckError(f"claim: expected {text!r}, got {token.text!r} in {self.text!r}")

    def comparison(self) -> Node:
        node = self.sum()
        while self.peek(">", "<", ">=", "<=", "=="):
            node = Node("binary", self.take().text, (node, self.sum()))
        return node

    def sum(self) -> Node:
        node = self.product()
        while self.peek("+", "-"):
            node = Node("binary", self.take().text, (node, self.product()))
        return node

    def product(self) -> Node:
        node = self.signed()
        while True:
            if self.peek("*", "/", "@", "⊙", "·"):
                node = Node("binary", self.take().text, (node, self.signed()))
            elif self._begins_factor():
                node = Node("binary", "·", (node, self.power()))
            else:
                return node

    def _begins_factor(self) -> bool:
        if self.at >= len(self.tokens):
            return False
        return self.tokens[self.at].kind != "operator" or self.peek("(")

    def signed(self) -> Node:
        if self.peek("-", "+"):
            sign = self.take().text
            node = self.signed()
            return Node("negative", "-", (node,)) if sign == "-" else node
        return self.power()

    def power(self) -> Node:
        node = self.atom()
        while True:
            if self.peek("**", "^"):
                self.take()
                node = Node("binary", "**", (node, self.signed()))
            elif self.peek("⊺", ".T"):
                node = Node("transpose", self.take().text, (node,))
            elif self.peek("["):
                self.take()
                node = Node("index", "", (node, self.index()))
            else:
                return node

    def index(self) -> tuple[Any, ...]:
        """What stands between brackets: numbers, ranges and commas."""
        parts: list[Any] = [[]]
        while not self.peek("]"):
            token = self.take()
            if token.text == ",":
                parts.append([])
            elif token.text in (":", "-") or token.kind == "number" or token.text == "None":
                parts[-1].append(token.text)
            else:
                raise CheckError(f"claim: an index of numbers and ranges was expected, got {token.text!r}")
        self.expect("]")
        return tuple("".join(part) for part in parts)

    def atom(self) -> Node:
        token = self.take()
        if token.kind in ("number", "derivative", "mask"):
            return Node(token.kind, token.text)
        if token.text == "(":
            node = self.comparison()
            self.expect(")")
            return node
        if token.kind == "name":
            name = token.text.removeprefix("np.").removeprefix("numpy.")
            method = name.partition(".")
            if method[1] and method[2] in FUNCTIONS and self.peek("("):
                return self.call(method[2], [Node("name", method[0])])
            if name in FUNCTIONS and self.peek("("):
                return self.call(name, [])
            return Node("name", name)
        raise CheckError(f"claim: unexpected {token.text!r} in {self.text!r}")

    def call(self, name: str, arguments: list[Any]) -> Node:
        self.expect("(")
        options: list[tuple[str, Any]] = []
        while not self.peek(")"):
            following = self.tokens[self.at + 1 : self.at + 2]
            if self.tokens[self.at].kind == "name" and following and following[0].text == "=":
                key = self.take().text
                self.expect("=")
                options.append((key, self.option()))
            else:
                arguments.append(self.comparison())
            if not self.peek(")"):
                self.expect(",")
        self.expect(")")
        return Node("call", name, (tuple(arguments), tuple(options)))

    def option(self) -> Any:
        """A whole number, a truth value, None or a tuple of numbers."""
        if self.peek("("):
            self.take()
            numbers = []
            while not self.peek(")"):
                numbers.append(self.option())
                if self.peek(","):
                    self.take()
            self.expect(")")
            return tuple(numbers)
        sign = -1 if self.peek("-") and self.take() else 1
        word = self.take().text
        known = {"True": True, "False": False, "None": None}
        if word in known:
            return known[word]
        if not word.isdigit():
            raise CheckError(f"claim: expected a whole number, True, False, None or a tuple, got {word!r}")
        return sign * int(word)


def _softmax(x: Any, axis: int = -1) -> Any:
    e = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return e / np.sum(e, axis=axis, keepdims=True)


def _sigmoid(x: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-x))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(np, name)
    for name in (
        "exp", "log", "log1p", "expm1", "sqrt", "square", "abs", "sign", "sin", "cos", "tan", "tanh", "sinh", "cosh",
        "arctan", "sum", "mean", "var", "std", "max", "min", "maximum", "minimum", "outer", "dot", "matmul", "inner",
        "where", "diag", "ones_like", "zeros_like", "transpose", "flip", "cumsum", "prod", "trace",
    )
} | {
    "softmax": _softmax, "sigmoid": _sigmoid, "sigma": _sigmoid, "relu": lambda x: np.maximum(x, 0.0),
    "eye": lambda n: np.eye(int(n)), "ones": lambda n: np.ones(int(n)), "len": len,
    "sech": lambda x: 1.0 / np.cosh(x), "ReLU": lambda x: np.maximum(x, 0.0),
}  # fmt: skip
"""What may be called in a claim."""

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "@": np.matmul, "+": np.add, "-": np.subtract, "*": np.multiply, "⊙": np.multiply, "/": np.divide, "**": np.power,
    ">": np.greater, "<": np.less, ">=": np.greater_equal, "<=": np.less_equal, "==": np.equal,
}  # fmt: skip


class Names(NamedTuple):
    """What the words of a claim stand for."""

    values: Mapping[str, Any]
    gradients: Callable[[str], Any]
    mask: Callable[[], Any]

    def value(self, name: str) -> Any:
        """The value of a name; raises CheckError, with those that are known."""
        if name in self.values:
            return self.values[name]
        if name in ("mask", "m"):
            return self.mask()
        if name == "I":
            raise _IdentityError
        raise CheckError(f"claim: unknown name {name!r}; known are {', '.join(self.values)}, and d.../d of these")


class _IdentityError(Exception):
    """An identity matrix, whose size is that of what it meets."""


def evaluate(node: Node, names: Names) -> Value:
    """The value of an expression. Raises CheckError for unknown names and shapes that do not fit."""
    try:
        return _evaluate(node, names)
    except ValueError as error:
        if isinstance(error, CheckError):
            raise
        raise CheckError(f"claim: {error}") from None


def _evaluate(node: Node, names: Names) -> Value:
    if node.kind == "number":
        return Value(np.float64(node.text))
    if node.kind == "derivative":
        return Value(names.gradients(node.text))
    if node.kind == "mask":
        return Value(np.diag(np.ravel(names.mask()).astype(float)))
    if node.kind == "name":
        return Value(names.value(node.text))
    if node.kind == "negative":
        inner = _evaluate(node.parts[0], names)
        return Value(-np.asarray(inner.array)[()], inner.row)
    if node.kind == "transpose":
        inner = _evaluate(node.parts[0], names)
        if np.ndim(inner.array) == 1:  # in NumPy a vector is its own transpose; on paper it lies down
            return inner if node.text == ".T" else Value(inner.array, not inner.row)
        return Value(np.swapaxes(inner.array, -1, -2) if np.ndim(inner.array) else inner.array)
    if node.kind == "index":
        return Value(_evaluate(node.parts[0], names).array[_index(node.parts[1])])
    if node.kind == "call":
        arguments = [_evaluate(part, names).array for part in node.parts[0]]
        options = dict(node.parts[1])
        if node.text in ("sum", "mean", "max", "min", "softmax", "cumsum") and len(arguments) == 2:
            options["axis"] = int(arguments.pop())
        return Value(FUNCTIONS[node.text](*arguments, **options))
    return _binary(node, names)


def _binary(node: Node, names: Names) -> Value:
    left, right = (_operand(part, names) for part in node.parts)
    if left is None or right is None:
        return _with_identity(node.text, left, right)
    if node.text == "·":
        return product(left, right)
    both = BINARY[node.text](left.array, right.array)
    return Value(both, (left.row or right.row) and np.ndim(both) == 1)


def _operand(node: Node, names: Names) -> Value | None:
    try:
        return _evaluate(node, names)
    except _IdentityError:
        return None


def _with_identity(operator: str, left: Value | None, right: Value | None) -> Value:
    other = left if left is not None else right
    if other is None:
        raise CheckError("claim: the size of I is not known where it meets no array")
    if operator in ("·", "@"):
        return other
    identity = Value(np.eye(np.shape(other.array)[-1]))
    pair = (identity, other) if left is None else (other, identity)
    return Value(BINARY[operator](pair[0].array, pair[1].array))


def product(left: Value, right: Value) -> Value:
    """The product of matrices, with vectors as columns or rows, and numbers as numbers."""
    a, b = left.array, right.array
    if np.ndim(a) == 0 or np.ndim(b) == 0:
        return Value(a * b, left.row or right.row)
    if np.ndim(a) == 1 and np.ndim(b) == 1:
        if left.row:
            return Value(a @ b)
        return Value(np.outer(a, b)) if right.row else Value(a * b)
    if np.ndim(a) == 1:
        return Value(a @ b, True)
    if np.ndim(b) == 1 and right.row:
        return Value(a @ b[None, :])
    return Value(a @ b)


def _index(parts: Sequence[str]) -> Any:
    return tuple(
        None
        if part == "None"
        else slice(*(int(n) if n else None for n in part.split(":")))
        if ":" in part
        else int(part)
        for part in parts
    )
