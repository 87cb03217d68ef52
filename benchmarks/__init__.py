"""Benchmarks: each file reads one benchmark; how replies are read, scored and reported."""
