"""The networks of the suite: which there are, where each is built, and by what it is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "suite"  # trained networks are kept here
SEED = 7
CALIBRATION = 100  # samples that every converter gets, the same ones


@dataclass(frozen=True)
class Network:
    """One row of the table. `suites.FAMILY.NAME()` gives what is to be trained."""

    name: str
    family: str  # the module
    metric: str  # one of suites.scores
    quick: bool = False  # small enough for CI


NETWORKS: Mapping[str, Network] = {
    network.name: network
    for network in (
        Network("resnet8", "pictures", "top1"),
        Network("dscnn", "pictures", "top1", quick=True),
        Network("mobilenetv2", "pictures", "top1"),
        Network("efficientnetb0", "pictures", "top1"),
        Network("tcn", "sequences", "top1"),
        Network("transformer", "sequences", "top1"),
        Network("lstm", "sequences", "top1"),
        Network("gru", "sequences", "top1", quick=True),
        Network("unet", "scenes", "iou"),
        Network("detector", "scenes", "ap50"),
        Network("pair", "several", "top1"),
        Network("tokens", "several", "top1"),
        Network("regression", "several", "mae", quick=True),
    )
}
