"""The closed core: values, traces, primitives and pytrees. Knows nothing of NumPy's functions, networks or files."""
