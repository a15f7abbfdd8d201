"""The key-value cache in a graph: its operators with bodies in standard ONNX, and decoders rewritten to use them."""
