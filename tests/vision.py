"""A small convolutional network that has learned something, so that its accuracy means something.

The task: name the orientation of a noisy grating, one of eight. It is learned in seconds on one core.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.tensor_file import Array
from trtbuild.graph import canonical, document

torch = pytest.importorskip("torch")

SIDE, CLASSES = 16, 8


def gratings(count: int, seed: int) -> tuple[Array, Array]:
    """Images [count, 3, 16, 16] of sine gratings in noise, and the class [count] of each one's orientation."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    angle = labels * np.pi / CLASSES + rng.normal(0, 0.09, count)
    frequency, phase = rng.uniform(0.8, 1.4, count), rng.uniform(0, 2 * np.pi, count)
    y, x = np.mgrid[:SIDE, :SIDE]
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    waves = np.sin(frequency[:, None, None] * along + phase[:, None, None])
    images = waves[:, None] * rng.uniform(0.5, 1.5, (count, 3, 1, 1)) + rng.normal(0, 1.5, (count, 3, SIDE, SIDE))
    return images.astype(np.float32), labels


class Residual(torch.nn.Module):
    """Two convolutions around which the input goes, strided where the channels grow."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = torch.nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = torch.nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = torch.nn.BatchNorm2d(outputs), torch.nn.BatchNorm2d(outputs)
        self.shortcut = torch.nn.Identity() if stride == 1 else torch.nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.shortcut(x) + self.norm2(self.conv2(y)))


class Gratings(torch.nn.Module):
    """Stem, two residual blocks, global average pooling, linear head: 7 modules with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = torch.nn.Conv2d(3, 24, 3, 1, 1, bias=False), torch.nn.BatchNorm2d(24)
        self.block1, self.block2 = Residual(24, 24), Residual(24, 32)
        self.head = torch.nn.Linear(32, CLASSES)

    def forward(self, image):
        x = torch.relu(self.norm(self.stem(image)))
        x = self.block2(self.block1(x))
        return self.head(x.mean((2, 3)))


@cache
def trained() -> Gratings:
    """The network after 50 steps of Adam, in inference mode."""
    torch.manual_seed(0)
    model = Gratings().train()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for step in range(50):
        images, labels = gratings(64, seed=1000 + step)
        loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(images)), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def export(folder: Path, *, opset: int = 21) -> OnnxModel:
    """The trained network as canonical ONNX with a dynamic batch axis; input `image`, output `scores`."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = folder / "raw.onnx"
    torch.onnx.export(
        trained(), (torch.from_numpy(gratings(2, 0)[0]),), raw, dynamo=True, opset_version=opset, verbose=False,
        input_names=["image"], output_names=["scores"], external_data=False, dynamic_shapes=({0: "batch"},),
    )  # fmt: skip
    model = document.load(raw)
    canonical.canonicalize(model)
    raw.unlink()
    document.save(model, OnnxModel(folder))
    return OnnxModel(folder)
