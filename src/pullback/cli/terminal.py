"""Text for a terminal: names of files may hold characters that it would obey."""

from __future__ import annotations


def visible(text: str) -> str:
    """`text` with what is not printable written as escapes, such as \\x1b; ends of lines stay."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def one_line(name: str) -> str:
    """A name of a file within a line of text: its ends of lines are escapes too."""
    return visible(name).replace("\n", "\\n")
