"""`python -m benchmarks`: pullback beside other libraries. See `pullback.bench`."""

from pullback.bench.command import main

main()
