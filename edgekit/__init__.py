"""edgekit puts neural networks on small computers and keeps them running there."""

__version__ = "0.1.0"
