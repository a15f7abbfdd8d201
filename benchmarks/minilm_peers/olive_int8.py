"""Microsoft Olive: dynamo export and static INT8 as one workflow with Olive's own cache."""

import common
import minilm
from olive.data.registry import Registry
from olive.workflows import run
from torch.utils.data import Dataset


class Sentences(Dataset):
    """The calibration sentences, one item a batch."""

    def __init__(self) -> None:
        self.batches = common.calibration()

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[dict, int]:
        return self.batches[index], 0


@Registry.register_dataset()
def sentences_dataset(**_: object) -> Dataset:
    """Olive finds it by its name."""
    return Sentences()


def main() -> None:
    """Write Olive's output below the folder given."""
    folder = common.output_folder()
    axes = {"0": "batch", "1": "sequence"}
    names = ["input_ids", "attention_mask"]
    run(
        {
            "input_model": {
                "type": "HfModel",
                "model_path": str(minilm.model_folder()),
                "task": "feature-extraction",
                "io_config": {
                    "input_names": names,
                    "input_shapes": [[common.BATCH, common.TOKENS]] * 2,
                    "input_types": ["int64"] * 2,
                    "output_names": ["last_hidden_state"],
                    "dynamic_shapes": dict.fromkeys(names, axes),
                },
            },
            "data_configs": [
                {
                    "name": "calibration",
                    "load_dataset_config": {"type": "sentences_dataset"},
                    "dataloader_config": {"type": "no_auto_batch_dataloader"},
                }
            ],
            "systems": {
                "here": {
                    "type": "LocalSystem",
                    "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
                }
            },
            "passes": {
                "export": {"type": "OnnxConversion", "target_opset": common.OPSET, "use_dynamo_exporter": True},
                "int8": {
                    "type": "OnnxStaticQuantization",
                    "data_config": "calibration",
                    "quant_format": "QDQ",
                    "calibrate_method": "MinMax",
                    "per_channel": True,
                },
            },
            "target": "here",
            "cache_dir": str(folder / "cache"),
            "output_dir": str(folder / "output"),
        }
    )


if __name__ == "__main__":
    main()
