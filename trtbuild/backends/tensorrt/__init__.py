"""TensorRT as compiler and runner, through its Python API: 8.6, 10 and 11, which `trtbuild.core.dialects` tells apart.

An engine here is `engine.plan`, TensorRT's own serialized engine, with `engine.json` (which machine and versions built
it, and the digest that must hold before it is loaded), `layers.json` (what the engine inspector says of each layer)
and `nodes.json` (which products the graph had).

    backend        the roles: compile, run, say what runs
    library        TensorRT itself, found, named and listened to; the only module that imports it
    own_plugins    our own operators in a graph, handed to TensorRT as plugins
    lowering       the graph in the form that TensorRT 8.6 reads
    parsing        ONNX to TensorRT's network, errors in the graph's own words
    configuration  options to the builder's configuration
    profiles       the ranges of shapes that an engine takes
    timing_cache   measured kernel times, kept between builds
    progress       how far a build is
    memory         what a build needs, before it starts
    building       all of these, in order, to the bytes of a plan
    plan           the plan's header and its manifest; what may be loaded here
    nodes          the products of the graph
    inspection     the precision of each of them, from the engine inspector
    cuda           device memory, streams, events and graphs of CUDA's driver
    loading        a plan's bytes to an engine
    sessions       an engine, run
    element_types  TensorRT's types in numpy's words
    timing         how long a call takes on the GPU
"""
