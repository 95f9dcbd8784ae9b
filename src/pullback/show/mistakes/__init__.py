"""The mistakes that a backward by hand may have, one family of hypotheses a file."""
