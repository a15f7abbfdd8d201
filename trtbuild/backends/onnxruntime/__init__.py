"""ONNX Runtime as compiler and runner: a full backend, and the default where no TensorRT with a GPU is found.

An engine here is the model after ONNX Runtime's own optimizer, fused for this processor and saved, so that it loads
without optimizing again.

    backend    the roles: compile, run, interpret, say what runs
    lowering   the graph in the form that this processor's kernels want
    tactics    ways to fuse it, built, timed, and the fastest kept
    precision  what the built engine multiplies in
    profiling  how long each node takes
    sessions   loading a graph and running it
"""
