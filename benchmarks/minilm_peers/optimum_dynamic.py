"""Hugging Face Optimum, dynamic INT8 for AVX512-VNNI: folder, export, INT8 ONNX. It needs no calibration."""

import common
import minilm
from optimum.onnxruntime import AutoQuantizationConfig, ORTModelForFeatureExtraction, ORTQuantizer


def main() -> None:
    """Write `model_quantized.onnx` into the folder given."""
    folder = common.output_folder()
    ORTModelForFeatureExtraction.from_pretrained(minilm.model_folder(), export=True).save_pretrained(folder)
    config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    ORTQuantizer.from_pretrained(folder, file_name="model.onnx").quantize(save_dir=folder, quantization_config=config)


if __name__ == "__main__":
    main()
