"""A stand-in for Triton's ONNX Runtime and TensorRT backends: ONNX Runtime in Triton's Python backend.

It reads the model file that config.pbtxt names, as the real backends do. A `model.plan` of the tests is an ONNX file,
and proves the layout of a TensorRT repository, never TensorRT.
"""

import json
import os

import triton_python_backend_utils as pb_utils  # first: it says where packages are

# isort: split
import onnxruntime


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        file = os.path.join(args["model_repository"], args["model_version"], config["default_model_filename"])
        if os.path.isdir(file):
            file = os.path.join(file, os.path.basename(file))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        if int(config["optimization"].get("graph", {}).get("level", 0)) == 2:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.outputs = [output["name"] for output in config["output"]]
        self.inputs = [given["name"] for given in config["input"]]

    def execute(self, requests):
        answers = []
        for request in requests:
            feeds = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
            found = self.session.run(self.outputs, feeds)
            tensors = [pb_utils.Tensor(name, each) for name, each in zip(self.outputs, found, strict=True)]
            answers.append(pb_utils.InferenceResponse(output_tensors=tensors))
        return answers
