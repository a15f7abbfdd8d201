"""ONNX in, ONNX out: pure functions on graphs."""
