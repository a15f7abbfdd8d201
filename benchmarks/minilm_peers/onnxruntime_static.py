"""ONNX Runtime's own `quantize_static`: dynamo export, its pre-processing, MinMax calibration, QDQ per channel.

Symbolic shape inference is skipped: ONNX Runtime's script ends with "Incomplete symbolic shape inference" here.
"""

import common
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Sentences(CalibrationDataReader):
    """The calibration sentences, batch by batch."""

    def __init__(self) -> None:
        self.batches = iter(common.calibration())

    def get_next(self) -> dict | None:
        """The next batch, None after the last."""
        return next(self.batches, None)


def main() -> None:
    """Write `int8.onnx` into the folder given."""
    folder = common.output_folder()
    common.export(folder / "fp32.onnx")
    quant_pre_process(folder / "fp32.onnx", folder / "prepared.onnx", skip_symbolic_shape=True)
    quantize_static(
        folder / "prepared.onnx",
        folder / "int8.onnx",
        Sentences(),
        quant_format=QuantFormat.QDQ,
        calibrate_method=CalibrationMethod.MinMax,
        per_channel=True,
    )


if __name__ == "__main__":
    main()
