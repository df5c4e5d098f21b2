"""A run from data to pictures: train → predict → metrics → write → draw; one run, or all folds of a cross-validation.

The only code that knows all rooms. `job.py` loads without PyTorch; what computes imports it.
"""
