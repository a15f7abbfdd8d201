"""Serve engines with NVIDIA Triton Inference Server: model repositories from what an engine itself says it takes.

options        what a person may decide, one file or a few `--set`
releases       which field of config.pbtxt came with which Triton
config         an engine's interface and the options, to a ModelConfig
rules          what neither the parser nor the server finds wrong in a ModelConfig
model_folder   a complete model folder: config.pbtxt, versions, labels
text           tokenizer -> encoder -> pooling, as an ensemble
decoder        generation over a decoder's cache, as a Python model
repository     a model folder into a live repository: whole or not at all, and back
server         the model control API, when a server's address is given
handoff        server flags, and files for perf_analyzer and Model Analyzer
"""
