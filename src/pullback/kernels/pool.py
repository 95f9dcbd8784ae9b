"""The threads of kernels: the caller and workers that wait in a loop of machine code, and sleep when little is to do.

An order is a number that grows, with the count of threads that it is for in its last bits. The caller writes what is to
be run, then the order, and does a share itself; a worker that sees a new order does its share and counts itself off.
Kernels follow one another within microseconds, so a worker first spins, for some tenths of a millisecond, and only then
goes to sleep, in Python, on a lock. Its flag says so: of caller and worker, who both exchange it, one sees the other's.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir

from pullback.kernels.emitter import Emitter, compiled
from pullback.kernels.instructions import INTEGER, LANE, VOID, call, integer

MOST = 1024
"""Threads that there may be."""

_LINE = 8  # words of a cache line: what different threads write is on lines of its own
_ORDER = 0
_COUNT, _ENTRY, _BITS, _SLEEPERS = range(_LINE, _LINE + 4)  # threads, what they run; workers that were asleep
_PENDING = 2 * _LINE  # workers that have not finished
_WORKERS = 3 * _LINE  # a line for each thread, of which the first is the caller's
_FLAG, _TO_WAKE, _SEEN = 0, 1, 2  # whether it sleeps; whether Python has to wake it; the last order that it saw
_AWAKE, _ASLEEP = 0, 1
_COUNT_BITS = 16
_IMPATIENT = 1_000  # turns of waiting, from which on others may have the core
_SPINS = 2_000  # turns of a worker before it sleeps


class _Writer(Emitter):
    """The function `name(state, entry or thread, arguments)`; its role: "begin", "finish" or "work"."""

    def __init__(self, role: str, name: str) -> None:
        super().__init__(name, "float32", [INTEGER] * 3)
        state, second, bits = self.arguments
        self.state = self.builder.inttoptr(state, INTEGER.as_pointer())
        {"begin": self._begin, "finish": self._finish, "work": self._work}[role](second, bits)
        self.builder.ret_void()

    def _word(self, index: Any) -> Any:
        return self.builder.gep(self.state, [integer(index) if isinstance(index, int) else index])

    def _of_worker(self, thread: Any, word: int) -> Any:
        return self._word(self.builder.add(self.builder.mul(thread, integer(_LINE)), integer(_WORKERS + word)))

    def _read(self, place: Any) -> Any:
        return self.builder.load_atomic(place, "seq_cst", 8)

    def _write(self, value: Any, place: Any) -> None:
        self.builder.store_atomic(value, place, "seq_cst", 8)

    def _exchange(self, place: Any, value: int) -> Any:
        return self.builder.atomic_rmw("xchg", place, integer(value), "seq_cst")

    def _wait(self, turns: Any) -> None:
        """A turn of a loop of waiting. After many, whoever is waited for may need this very core."""
        builder, processor = self.builder, platform.machine().lower()
        if processor in ("x86_64", "amd64"):
            call(builder, "llvm.x86.sse2.pause", VOID)
        elif processor in ("aarch64", "arm64"):
            call(builder, "llvm.aarch64.hint", VOID, ir.Constant(LANE, 1))
        if sys.platform != "win32":
            with builder.if_then(builder.icmp_signed(">", turns, integer(_IMPATIENT))):
                call(builder, "sched_yield", LANE)

    def _share(self, entry: Any, thread: Any, count: Any, bits: Any) -> None:
        kind = ir.FunctionType(VOID, [INTEGER] * 3)
        self.builder.call(self.builder.inttoptr(entry, kind.as_pointer()), [thread, count, bits])

    def _begin(self, entry: Any, bits: Any) -> None:
        """Give the order. The workers that sleep are marked, for Python to wake."""
        builder = self.builder
        count = builder.load(self._word(_COUNT))
        builder.store(entry, self._word(_ENTRY))
        builder.store(bits, self._word(_BITS))
        self._write(builder.sub(count, integer(1)), self._word(_PENDING))
        number = builder.add(builder.lshr(self._read(self._word(_ORDER)), integer(_COUNT_BITS)), integer(1))
        self._write(builder.or_(builder.shl(number, integer(_COUNT_BITS)), count), self._word(_ORDER))

        def mark(thread: Any, sleeping: Any) -> list[Any]:
            flag = self._of_worker(thread, _FLAG)
            slept = builder.icmp_signed("==", self._exchange(flag, _AWAKE), integer(_ASLEEP))
            builder.store(builder.zext(slept, INTEGER), self._of_worker(thread, _TO_WAKE))
            return [builder.add(sleeping, builder.zext(slept, INTEGER))]

        (sleeping,) = self.loop(integer(1), count, 1, mark, [integer(0)])
        builder.store(sleeping, self._word(_SLEEPERS))
        with builder.if_then(builder.icmp_signed("==", sleeping, integer(0))):
            self._finish(entry, bits)

    def _finish(self, entry: Any, bits: Any) -> None:
        """Do the caller's share, and wait for the others."""
        builder = self.builder
        self._share(entry, integer(0), builder.load(self._word(_COUNT)), bits)
        before = builder.block
        head, wait, after = (builder.append_basic_block(f"finish.{name}") for name in ("head", "wait", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        turns = builder.phi(INTEGER)
        builder.cbranch(builder.icmp_signed(">", self._read(self._word(_PENDING)), integer(0)), wait, after)
        builder.position_at_end(wait)
        self._wait(turns)
        turns.add_incoming(integer(0), before)
        turns.add_incoming(builder.add(turns, integer(1)), builder.block)
        builder.branch(head)
        builder.position_at_end(after)

    def _work(self, thread: Any, unused: Any) -> None:
        """Follow orders, and return to sleep when none has come for a while."""
        builder = self.builder
        flag, seen_word = self._of_worker(thread, _FLAG), self._of_worker(thread, _SEEN)
        before = builder.block
        head, spin, tired, awake, doze, check, share, after = (
            builder.append_basic_block(f"work.{name}")
            for name in ("head", "spin", "tired", "awake", "doze", "check", "share", "after")
        )
        first = builder.load(seen_word)
        builder.branch(head)

        builder.position_at_end(head)
        seen, turns = builder.phi(INTEGER), builder.phi(INTEGER)
        order = self._read(self._word(_ORDER))
        builder.cbranch(builder.icmp_signed("==", order, seen), spin, check)

        builder.position_at_end(spin)
        self._wait(turns)
        waited = builder.block
        more = builder.add(turns, integer(1))
        builder.cbranch(builder.icmp_signed(">", more, integer(_SPINS)), tired, head)

        builder.position_at_end(tired)
        self._exchange(flag, _ASLEEP)
        late = self._read(self._word(_ORDER))
        builder.cbranch(builder.icmp_signed("==", late, seen), doze, awake)

        builder.position_at_end(awake)  # if the caller has marked this worker, it will not sleep the next time
        self._exchange(flag, _AWAKE)
        builder.branch(check)

        builder.position_at_end(doze)
        builder.store(seen, seen_word)
        builder.branch(after)

        builder.position_at_end(check)
        new = builder.phi(INTEGER)
        new.add_incoming(order, head)
        new.add_incoming(late, awake)
        count = builder.and_(new, integer((1 << _COUNT_BITS) - 1))
        builder.cbranch(builder.icmp_signed("<", thread, count), share, head)

        builder.position_at_end(share)
        self._share(builder.load(self._word(_ENTRY)), thread, count, builder.load(self._word(_BITS)))
        builder.atomic_rmw("sub", self._word(_PENDING), integer(1), "seq_cst")
        builder.branch(head)

        for block, order_seen, so_far in (
            (before, first, integer(0)), (waited, seen, more), (check, new, turns), (share, new, integer(0)),
        ):  # fmt: skip
            seen.add_incoming(order_seen, block)
            turns.add_incoming(so_far, block)
        builder.position_at_end(after)


class Pool:
    """Workers, as many as were ever needed. One call runs at a time, others wait."""

    def __init__(self) -> None:
        words = np.zeros(_WORKERS + _LINE * (MOST + 1), np.int64)
        self._state = words[-(words.ctypes.data // 8) % _LINE :]  # so that lines are lines of the cache
        self._address = self._state.ctypes.data
        self._words = self._state.data  # of which Python reads a number faster
        self._count = 0
        self._beds: list[Any] = []  # of each worker, what it sleeps on
        self._turn = threading.Lock()

    def run(self, count: int, entry: int, arguments: bytes) -> None:
        """The C function `entry(thread, count, arguments)` for every thread below the count."""
        with self._turn:
            if self._count != count:
                self._grow(count)
            self._begin(self._address, entry, arguments)
            if self._words[_SLEEPERS]:
                for thread in range(1, count):
                    if self._words[_WORKERS + _LINE * thread + _TO_WAKE]:
                        self._beds[thread - 1].release()
                self._finish(self._address, entry, arguments)

    def _grow(self, count: int) -> None:
        self._begin, self._finish, self._work = (
            compiled(f"pool_{role}", "", partial(_Writer, role)).call for role in ("begin", "finish", "work")
        )
        self._count = self._state[_COUNT] = count
        while len(self._beds) < count - 1:
            self._beds.append(threading.Semaphore(0))
            thread = len(self._beds)
            self._state[_WORKERS + _LINE * thread + _SEEN] = self._state[_ORDER]
            threading.Thread(target=self._follow, args=(thread,), name=f"pullback-{thread}", daemon=True).start()

    def _follow(self, thread: int) -> None:
        bed = self._beds[thread - 1]
        while True:
            self._work(self._address, thread, 0)
            bed.acquire()


POOL = Pool()
"""The one of this process."""

if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=POOL.__init__)  # type: ignore[misc]
