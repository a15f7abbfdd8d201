"""Checkpoints whose weights are quantized already: their codes and scales as they are, and the floats that they say.

weight              what a quantized weight is, here
config              who quantized it, by the checkpoint's own word
words               small integers out of 32-bit words
awq                 AutoAWQ: `qweight` packed along the outputs
gptq                AutoGPTQ and GPTQModel: `qweight` packed along the inputs
compressed_tensors  `weight_packed` of compressed-tensors
modelopt            INT4 of ModelOpt's Hugging Face export: two outputs a byte
scaled              INT8 and FP8 beside a `weight_scale`: compressed-tensors, ModelOpt, LightX2V, DeepSeek
layouts             which of these a checkpoint has
"""

from trtbuild.checkpoints.quantized.layouts import in_floats
from trtbuild.checkpoints.quantized.weight import FloatsOnly, QuantizedWeight

__all__ = ["FloatsOnly", "QuantizedWeight", "in_floats"]
