"""Text to token ids, in Triton's Python backend. The server's Python needs `tokenizers` and `numpy`.

Requests that the server hands over together get one length, so that the encoder behind can batch them too.
"""

import json
import os
from typing import Any

import triton_python_backend_utils as pb_utils

# isort: split
import numpy as np
from tokenizers import Tokenizer


class TritonPythonModel:
    """`TEXT`, strings [batch, 1], to the token ids and masks that config.pbtxt lists, [batch, tokens]."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load `tokenizer.json` from the version's folder."""
        config = json.loads(args["model_config"])
        folder = os.path.join(args["model_repository"], args["model_version"])
        settings = {name: int(each["string_value"]) for name, each in config["parameters"].items()}
        self.multiple = settings["pad_to_multiple"]
        self.longest = settings["max_length"]
        self.tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.longest)
        self.pad_id = settings["pad_id"]
        self.outputs = {
            output["name"]: pb_utils.triton_string_to_numpy(output["data_type"]) for output in config["output"]
        }

    def execute(self, requests: list[Any]) -> list[Any]:
        """Tokenize the requests that came together."""
        texts = [
            [text.decode() for text in pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy().ravel()]
            for request in requests
        ]
        encoded = self.tokenizer.encode_batch([text for each in texts for text in each])
        longest = max(len(each.ids) for each in encoded)
        length = min(self.longest, -(-longest // self.multiple) * self.multiple)
        answers, begin = [], 0
        for each in texts:
            rows = encoded[begin : begin + len(each)]
            begin += len(each)
            arrays = {
                "input_ids": self.padded([row.ids for row in rows], length, self.pad_id),
                "attention_mask": self.padded([row.attention_mask for row in rows], length, 0),
                "token_type_ids": self.padded([row.type_ids for row in rows], length, 0),
            }
            answers.append(
                pb_utils.InferenceResponse(
                    [pb_utils.Tensor(name, arrays[name].astype(dtype)) for name, dtype in self.outputs.items()]
                )
            )
        return answers

    def padded(self, rows: list[list[int]], length: int, filler: int) -> np.ndarray[Any, Any]:
        """Rows of one length."""
        return np.array([[*row, *[filler] * (length - len(row))] for row in rows], dtype=np.int64)
