"""Coral's Edge TPU, seen from a workstation: what its compiler would map, and what a compiled model says of itself."""
