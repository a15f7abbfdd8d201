"""NVFP4 and MXFP8: numbers in blocks of 16 or 32 with one scale each, activations scaled while the engine runs."""
