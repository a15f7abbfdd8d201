"""Calibration of ONNX graphs by `modelopt.onnx.quantization`, read back into the plan that every source gets."""
