"""Storms: what must hold when a machine or a stranger does its worst. `benchmarks/storm.py` starts them."""
