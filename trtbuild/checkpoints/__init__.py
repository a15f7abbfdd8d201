"""Weights from a checkpoint into a module of ours, by name: nothing is run, nothing is guessed, every difference named.

reading      the tensors of a file, or of a folder's shards, each read when it is asked for
weight_norm  a weight from its magnitude and direction
quantized    codes and scales of weights that were quantized before
opening      a checkpoint in floats, however it is stored
loading      into a module's parameters and buffers
"""

from trtbuild.checkpoints.loading import load_checkpoint
from trtbuild.checkpoints.opening import open_checkpoint

__all__ = ["load_checkpoint", "open_checkpoint"]
