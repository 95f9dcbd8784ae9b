"""The memory plan: values that live at one moment never overlap, and places are used again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pullback.program.memory import Span, allocate

spans = st.lists(
    st.builds(
        lambda size, first, length: Span(size, first, first + length),
        st.integers(1, 50),
        st.integers(0, 30),
        st.integers(1, 10),
    ),
    max_size=40,
)


@given(spans=spans, alignment=st.sampled_from([1, 8]))
def test_what_lives_together_does_not_overlap(spans, alignment):
    offsets, size = allocate(spans, alignment)
    for k, (a, at) in enumerate(zip(spans, offsets, strict=True)):
        assert at % alignment == 0
        assert at + a.size <= size
        for b, other in zip(spans[:k], offsets[:k], strict=True):
            together = a.first < b.last and b.first < a.last
            assert not together or at + a.size <= other or other + b.size <= at


def test_a_place_is_used_again_and_neighbours_are_joined():
    assert allocate([Span(10, 0, 1), Span(10, 1, 2), Span(10, 2, 3)]) == ([0, 0, 0], 10)
    assert allocate([Span(4, 0, 1), Span(6, 0, 1), Span(10, 1, 2)])[1] == 10
    assert allocate([Span(10, 0, 2), Span(10, 1, 3)])[1] == 20
