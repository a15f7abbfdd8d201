"""Our own TensorRT plugins: what `plugins/` declares, compiled, chosen, launched and given to TensorRT.

One declaration, `plugin.yaml`, serves the compiler, tests, benchmarks and TensorRT.

    declaration  plugin.yaml as values
    expressions  grids and integers as text over a launch's sizes
    kernels      the variants of each kernel: which one fits, and how it is launched
    ptx          kernel.cu to the PTX that ships: `python -m trtbuild.plugins.ptx`
    glue         the same as TensorRT's quickly deployable plugins, for a build
"""
