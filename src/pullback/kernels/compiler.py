"""Kernels into object code, by Numba. Imported when a kernel is compiled and not before: that takes half a second."""

from __future__ import annotations

import ast
import inspect
import operator
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler import Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher, CPUTarget, cpu_target
from numba.core.typing.templates import make_intrinsic_template
from numba.core.typing.typeof import typeof_impl
from numba.extending import models, overload, register_model

from pullback.kernels import simd
from pullback.kernels.language import Inline, Intrinsic
from pullback.kernels.target import WIDTH, generator

_OPTIONS = {"nopython": True, "_nrt": False, "error_model": "numpy", "fastmath": {"contract", "nsz"}}
"""No reference counts."""


# -- Numba without its execution engine ------------------------------------------------------------------------------
class _Library(JITCodeLibrary):  # type: ignore[misc]
    """LLVM instructions, of which no machine code is made here, and which are improved once: in the kernel, whole.

    Numba would do both for every function that is used inside a kernel.
    """

    whole = False

    def _optimize_final_module(self) -> None:
        if self.whole:
            super()._optimize_final_module()

    def _finalize_specific(self) -> None:
        pass

    def get_pointer_to_function(self, name: str) -> int:
        return 0


class _Codegen(JITCPUCodegen):  # type: ignore[misc]
    _library_class = _Library

    def _add_module(self, module: Any) -> None:
        pass

    def set_env(self, name: str, environment: Any) -> None:
        pass


class _Target(CPUTarget):  # type: ignore[misc]
    """The CPU, of which all is as Numba has it but what becomes of the instructions."""

    @cached_property
    def target_context(self) -> Any:
        return cpu_target.target_context.subtarget(_internal_codegen=_Codegen("pullback"))

    @property
    def typing_context(self) -> Any:
        return cpu_target.typing_context


_TARGET = _Target("cpu")


class _Dispatcher(CPUDispatcher):  # type: ignore[misc]
    targetdescr = _TARGET


# -- the language, in Numba's terms ----------------------------------------------------------------------------------
class _Vector(types.Type):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name=f"float32x{WIDTH}")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, simd.VECTOR)


_VECTOR = _Vector()
_RESULTS = {
    "vector": _VECTOR,
    "floats": types.CPointer(types.float32),
    "bytes": types.CPointer(types.uint8),
    "integers": types.CPointer(types.int64),
    "doubles": types.CPointer(types.float64),
    "integer": types.intp,
    "float": types.float32,
    "double": types.float64,
    "nothing": types.void,
}


def _argument(kind: Any) -> Any:
    """The type in which an intrinsic gets an argument."""
    if isinstance(kind, types.Integer | types.Boolean):
        return types.intp
    return types.float32 if isinstance(kind, types.Float) else kind


@cache
def _intrinsic(marked: Intrinsic) -> Any:
    def declare(typing: Any, *arguments: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            value = marked.emit(builder, *values)
            return context.get_dummy_value() if marked.result == "nothing" else value

        kinds = [_argument(kind) for kind in arguments]
        return (kinds[0] if marked.result == "pointer" else _RESULTS[marked.result])(*kinds), emit

    declare.__signature__ = inspect.signature(marked.emit)  # type: ignore[attr-defined]  # of as many parameters
    # As numba.extending.intrinsic does, but for the registry, which would have to be read again after each.
    return types.Function(make_intrinsic_template(marked, declare, marked.emit.__name__))


@cache
def _inline(marked: Inline) -> Any:
    return _Dispatcher(
        marked.function, targetoptions={**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    )


@typeof_impl.register(Intrinsic)
def _of_intrinsic(marked: Intrinsic, context: Any) -> Any:
    return _intrinsic(marked)


@typeof_impl.register(Inline)
def _of_inline(marked: Inline, context: Any) -> Any:
    return types.Dispatcher(_inline(marked))


def _let_vectors_take_part(name: str, marked: Intrinsic) -> None:
    """An operator on two vectors, or on a vector and a number."""
    broadcast = simd.broadcast

    def choose(left: Any, right: Any) -> Any:
        if isinstance(left, _Vector) and isinstance(right, _Vector):
            return lambda left, right: marked(left, right)
        if isinstance(left, _Vector):
            return lambda left, right: marked(left, broadcast(np.float32(right)))
        if isinstance(right, _Vector):
            return lambda left, right: marked(broadcast(np.float32(left)), right)
        return None

    overload(getattr(operator, name), strict=False)(choose)  # strict would compare our annotations with the lambdas


for _name, _marked in simd.OPERATORS.items():
    _let_vectors_take_part(_name, _marked)


# -- kernels ---------------------------------------------------------------------------------------------------------
def compiled(name: str, share: Callable[..., None], kinds: list[str]) -> bytes:
    """Object code with a C function of a name, (thread, threads, arguments as 64-bit integers), which does a share.

    `share` takes the thread, the number of threads, and arguments of these kinds, as `runtime.Kernel` names them.
    """
    arguments = types.int64, types.int64, types.CPointer(types.int64)
    flags = Flags()
    _TARGET.options.parse_as_flags(flags, _OPTIONS)
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = flags.no_compile = True
    with global_compiler_lock:
        typing, target = _TARGET.typing_context, _TARGET.target_context
        made = compile_extra(typing, target, _entry_point(share, kinds), arguments, types.void, flags, {})
        made.library.add_ir_module(_called(name, made, target))
        made.library.whole = True
        made.library.finalize()
        module = made.library._final_module
        for value in (*module.functions, *module.global_variables):
            if not value.is_declaration and value.name != name:
                value.linkage = "internal"  # Numba's names are numbers in a process, and those of another would clash
        code: bytes = generator().emit_object(module)
    return code


def _called(name: str, made: Any, target: Any) -> Any:
    """A module with the C function, which calls what Numba has made; a kernel raises nothing, so how it ended is left.

    Numba's own would need the interpreter to report errors, and so Numba itself where the code is only run.
    """
    module = made.library.create_ir_module(name)
    kinds = [target.get_value_type(kind) for kind in made.fndesc.argtypes]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    builder = ir.IRBuilder(function.append_basic_block())
    native = target.declare_function(module, made.fndesc)
    target.call_conv.call_function(builder, native, made.fndesc.restype, made.fndesc.argtypes, function.args)
    builder.ret_void()
    return module


_DECODERS = {
    "Floats": "floats_of(bits[{}])",
    "Bytes": "bytes_of(bits[{}])",
    "Integers": "integers_of(bits[{}])",
    "Doubles": "doubles_of(bits[{}])",
    "int": "bits[{}]",
    "bool": "bits[{}] != 0",
    "float": "double_from(bits[{}])",
}
_DECODER_NAMES = {
    name: getattr(simd, name) for name in ("floats_of", "bytes_of", "integers_of", "doubles_of", "double_from")
}


def _entry_point(share: Callable[..., None], kinds: list[str]) -> Callable[..., None]:
    """The share with the signature (thread, threads, bits), its arguments unpacked by its first lines.

    It is the function's own text that changes, as Numba would compile a function that calls it twice over.
    """
    lines, first = inspect.getsourcelines(share)
    tree = ast.parse("".join(lines))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    names = [argument.arg for argument in definition.args.args]
    unpack = [
        f"{name} = {_DECODERS[kind].format(index)}\n"
        for index, (name, kind) in enumerate(zip(names[2:], kinds, strict=True))
    ]
    template = ast.parse(f"def entry(thread, threads, bits):\n    {'    '.join(unpack)}").body[0]
    assert isinstance(template, ast.FunctionDef)
    definition.args = template.args
    definition.body[:0] = template.body
    definition.decorator_list.clear()
    ast.increment_lineno(tree, first - 1)
    namespace = {**share.__globals__, **_DECODER_NAMES}
    exec(compile(tree, inspect.getsourcefile(share) or share.__name__, "exec"), namespace)
    function: Callable[..., None] = namespace[share.__name__]
    return function
