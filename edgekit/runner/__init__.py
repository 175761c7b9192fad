"""On the device: loads a release (or a bundle, or a bare .tflite) and answers; numpy and an interpreter, nothing else.

from edgekit.runner import load
model = load("/path/to/release")
y = model(x)        # float in, float out: the runner owns preprocessing, scale and zero point
"""

from edgekit.runner.model import Model, load

__all__ = ["Model", "load"]
