"""One operator of an ONNX graph with what it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from edgekit.errors import ConversionError


@dataclass
class Node:
    """One operator with what it is given."""

    proto: Any
    attributes: Mapping[str, Any]
    opset: int
    values: Sequence[Any]  # tensors, arrays where they are constant, None where they are left out
    tensors: list[Any] = field(default_factory=list)  # the same, constants as tensors

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute, strings as text."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def tensor(self, index: int) -> Any:
        """An input as a tensor; None if it is left out."""
        return self.tensors[index] if index < len(self.tensors) else None

    def constant(self, index: int) -> Any:
        """An input that must not depend on the model's input, as an array; None if it is left out."""
        value = self.values[index] if index < len(self.values) else None
        if torch.is_tensor(value):
            raise ConversionError(
                f"{self.proto.op_type} {self.proto.name!r}: input {index} depends on the values of the model's input",
                hint="export the model so that sizes depend on sizes alone",
            )
        return value

    def integers(self, name: str, index: int) -> list[int] | None:
        """Whole numbers that older opsets have as an attribute and newer ones as an input."""
        value = self.attributes[name] if name in self.attributes else self.constant(index)
        return None if value is None else [int(item) for item in np.ravel(value)]
