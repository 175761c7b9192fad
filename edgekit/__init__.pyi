# What type checkers see: the package edgekit.convert can be called, and what is called is this function.
from edgekit.convert.api import convert as convert
from edgekit.convert.pipeline import ConversionResult as ConversionResult

__version__: str
