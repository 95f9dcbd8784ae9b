"""Fast float32 kernels for the CPU: arrays in, arrays out, written in Python and compiled by Numba on first use.
Importing this package imports nothing; import the module that you need, such as `pullback.kernels.convolution`.
"""
