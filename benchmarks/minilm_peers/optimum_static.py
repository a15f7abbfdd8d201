"""Hugging Face Optimum, static INT8 for AVX512-VNNI: folder, export, MinMax calibration, INT8 ONNX.

`OPERATORS` in the environment names the operators to quantize (`MatMul,Gather`); without it, Optimum's default: all.
"""

import os

import common
import minilm
from datasets import Dataset
from optimum.onnxruntime import (
    AutoCalibrationConfig,
    AutoQuantizationConfig,
    ORTModelForFeatureExtraction,
    ORTQuantizer,
)


def main() -> None:
    """Write `model_quantized.onnx` into the folder given."""
    folder = common.output_folder()
    ORTModelForFeatureExtraction.from_pretrained(minilm.model_folder(), export=True).save_pretrained(folder)
    rows = [
        {"input_ids": ids.tolist(), "attention_mask": mask.tolist(), "token_type_ids": [0] * len(ids)}
        for batch in common.calibration()
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    dataset = Dataset.from_list(rows)
    operators = os.environ["OPERATORS"].split(",") if "OPERATORS" in os.environ else None
    config = AutoQuantizationConfig.avx512_vnni(is_static=True, per_channel=True, operators_to_quantize=operators)
    quantizer = ORTQuantizer.from_pretrained(folder, file_name="model.onnx")
    ranges = quantizer.fit(
        dataset=dataset,
        calibration_config=AutoCalibrationConfig.minmax(dataset),
        onnx_augmented_model_name=folder / "augmented.onnx",
        operators_to_quantize=config.operators_to_quantize,
        batch_size=minilm.ROWS,
    )
    quantizer.quantize(save_dir=folder, calibration_tensors_range=ranges, quantization_config=config)


if __name__ == "__main__":
    main()
