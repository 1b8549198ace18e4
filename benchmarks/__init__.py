"""What measures or makes one table of this repository, and what only a machine of its own can tell.

Run from a clone, as `python -m benchmarks.NAME`; an installed package has none of it.
"""
