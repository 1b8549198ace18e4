"""`python -m minikontext.bench`: see `--help`."""

from minikontext.bench.oracle_bench import main

main()
