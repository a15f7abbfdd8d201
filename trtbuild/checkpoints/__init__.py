"""Weights from a checkpoint into a module of ours, by name: nothing is run, nothing is guessed, every difference named.

reading      the tensors of a file, or of a folder's shards, each read when it is asked for
weight_norm  a weight from its magnitude and direction
loading      into a module's parameters and buffers
"""

from trtbuild.checkpoints.loading import load_checkpoint
from trtbuild.checkpoints.reading import open_checkpoint

__all__ = ["load_checkpoint", "open_checkpoint"]
