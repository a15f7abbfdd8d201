"""NVIDIA ModelOpt's ONNX quantization: dynamo export, calibration on the CPU, INT8 QDQ beside FP32."""

import common
import numpy as np
from modelopt.onnx.quantization import quantize

LENGTH = 64
"""ModelOpt takes one array an input, so every sentence is padded to the longest."""


def main() -> None:
    """Write `int8.onnx` into the folder given."""
    folder = common.output_folder()
    common.export(folder / "fp32.onnx")
    batches = common.calibration()
    padded = {
        name: np.concatenate([np.pad(batch[name], ((0, 0), (0, LENGTH - batch[name].shape[1]))) for batch in batches])
        for name in ("input_ids", "attention_mask")
    }
    quantize(
        str(folder / "fp32.onnx"),
        quantize_mode="int8",
        calibration_data=padded,
        calibration_shapes=",".join(f"{name}:16x{LENGTH}" for name in padded),
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(folder / "int8.onnx"),
    )


if __name__ == "__main__":
    main()
