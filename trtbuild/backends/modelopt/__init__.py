"""Calibration by NVIDIA ModelOpt: it decides the numbers, trtbuild writes the graph."""
