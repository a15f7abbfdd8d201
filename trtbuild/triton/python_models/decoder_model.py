"""Text generation over a decoder's cache, in Triton's Python backend: one request is one row, its tokens stream back.

The cache is never copied by this model: each step's cache outputs are handed to the next step as they are, on the GPU
where the engine left them there. Triton's TensorRT backend still copies them into and out of its own bindings.
The server's Python needs `numpy`, and `tokenizers` where the model takes text.
"""

import json
import os
from typing import Any

import triton_python_backend_utils as pb_utils

# isort: split
import numpy as np

OUT = ".out"
"""Behind a cache tensor's name, the output that holds it with the new tokens."""
ELEMENTS = {"float32": np.float32, "float16": np.float16, "int8": np.int8}
UNFINISHED = "�"
"""How a tokenizer decodes bytes that are not a whole character yet."""


class TritonPythonModel:
    """`prompt` or `input_ids`, and how to sample, to a stream of tokens."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read what lies in the version's folder: the cache's description, the stop tokens, the tokenizer."""
        config = json.loads(args["model_config"])
        folder = os.path.join(args["model_repository"], args["model_version"])
        self.step_model = config["parameters"]["step_model"]["string_value"]
        with open(os.path.join(folder, "decoder.json")) as stream:
            facts = json.load(stream)
        self.capacity, self.cache, self.stop_tokens = facts["capacity"], facts["cache"], set(facts["stop_tokens"])
        self.tokenizer = None
        if any(given["name"] == "prompt" for given in config["input"]):
            from tokenizers import Tokenizer

            self.tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))

    def execute(self, requests: list[Any]) -> None:
        """Answer each request with as many responses as it gets tokens."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                for tensors in self.generate(request):
                    sender.send(pb_utils.InferenceResponse(tensors))
            except Exception as error:
                sender.send(pb_utils.InferenceResponse([], pb_utils.TritonError(str(error))))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def generate(self, request: Any) -> Any:
        """The answers to one request, one a token."""
        ids = self.prompt(request)
        wanted = int(self.setting(request, "max_new_tokens", 128))
        if not ids or len(ids) > self.capacity:
            raise ValueError(f"the prompt has {len(ids)} tokens, the cache holds 1 to {self.capacity}")
        generator = np.random.default_rng(int(self.setting(request, "seed", 0)))
        temperature, top_k = (self.setting(request, name, 0) for name in ("temperature", "top_k"))
        cache = [
            pb_utils.Tensor(name, np.zeros((1, *shape), ELEMENTS[dtype])) for name, (dtype, shape) in self.cache.items()
        ]
        written: list[int] = []
        length, told = 0, ""
        while len(written) < wanted and length + len(ids) <= self.capacity:
            logits, cache = self.advance(ids, length, cache)
            length += len(ids)
            token = choose(logits, float(temperature), int(top_k), generator)
            if token in self.stop_tokens:
                return
            written.append(token)
            ids = [token]
            answer = [pb_utils.Tensor("token", np.array([token], np.int64))]
            if self.tokenizer is not None:
                text = self.tokenizer.decode(written)
                whole = text if len(written) == wanted else text.rstrip(UNFINISHED)
                piece, told = whole[len(told) :], max(whole, told, key=len)
                answer.append(pb_utils.Tensor("text", np.array([piece.encode()], dtype=np.object_)))
            yield answer

    def advance(self, ids: list[int], length: int, cache: list[Any]) -> tuple[Any, list[Any]]:
        """The logits behind the last token, [vocabulary], and the cache with these tokens."""
        request = pb_utils.InferenceRequest(
            model_name=self.step_model,
            requested_output_names=["logits", *(name + OUT for name in self.cache)],
            inputs=[
                pb_utils.Tensor("input_ids", np.array([ids], np.int64)),
                pb_utils.Tensor("lengths", np.array([[length]], np.int64)),
                *cache,
            ],
        )
        response = request.exec()
        if response.has_error():
            raise RuntimeError(response.error().message())
        found = {tensor.name(): tensor for tensor in response.output_tensors()}
        logits = found["logits"]
        values = logits.as_numpy() if logits.is_cpu() else np.from_dlpack(logits)
        renamed = [pb_utils.Tensor.from_dlpack(name, found[name + OUT].to_dlpack()) for name in self.cache]
        return np.asarray(values, np.float32)[0, len(ids) - 1], renamed

    def prompt(self, request: Any) -> list[int]:
        """The prompt's tokens."""
        if self.tokenizer is None:
            return [int(each) for each in pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy().ravel()]
        text = pb_utils.get_input_tensor_by_name(request, "prompt").as_numpy().ravel()[0]
        return list(self.tokenizer.encode(text.decode()).ids)

    def setting(self, request: Any, name: str, default: float) -> float:
        """An optional number of a request."""
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        return default if tensor is None else tensor.as_numpy().ravel()[0]


def choose(logits: Any, temperature: float, top_k: int, generator: Any) -> int:
    """The likeliest token, or one drawn among the `top_k` likeliest."""
    if np.isnan(logits).any():
        raise ValueError("the engine's logits hold NaN")
    if temperature <= 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")[: top_k or None]
    weights = np.exp((logits[order] - logits[order[0]]).astype(np.float64) / temperature)
    return int(generator.choice(order, p=weights / weights.sum()))
