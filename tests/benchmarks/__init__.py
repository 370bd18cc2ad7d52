"""Speeds, as ratios within one process. Not tests: run by `make bench`."""
