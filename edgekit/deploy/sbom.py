"""What a bundle and its runtime are made of, as a CycloneDX 1.6 document: same bundle, same bytes; no time of day in it."""

from __future__ import annotations

import uuid
from typing import Any

from edgekit import __version__
from edgekit.bundle import Bundle, Variant
from edgekit.platforms import Platform, choose_runtime

_NAMES = uuid.UUID("6f0f3a52-8f0e-5f3b-9d55-0d1a5c9f7b1e")  # of edgekit's documents


def make_sbom(bundle: Bundle, platform: Platform | None) -> dict[str, Any]:
    """The document. `platform`: the device whose runtime is listed too; None: only what every device gets.

    Raises DeviceUnsupported if there is no runtime for it.
    """
    manifest = bundle.manifest
    runtime = choose_runtime(platform).requirements if platform is not None else ()
    where = "" if platform is None else f"{platform.arch} {platform.python} {platform.libc}"
    models = [_model(bundle, variant) for variant in manifest.variants]
    named = {variant.file for variant in manifest.variants}
    files = [_file(bundle, name) for name in sorted(manifest.files) if name not in named]
    libraries = [_library("edgekit", __version__), *(_library(*each.split("==")) for each in runtime)]
    tools = [
        {"type": "application", "name": tool, "version": version} for tool, version in sorted(manifest.made_by.items())
    ]
    components = [*models, *files, *libraries]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMES, f'{bundle.digest} {where} {__version__}')}",
        "version": 1,
        "metadata": {
            "tools": {"components": tools},
            "component": {
                "type": "application",
                "bom-ref": "bundle",
                "name": manifest.name,
                "version": bundle.id,
                "hashes": _hashes(bundle.digest),
                "properties": _properties(
                    target=manifest.target, arch=manifest.arch, command=" ".join(manifest.command) or None
                ),
            },
        },
        "components": components,
        "dependencies": [
            {"ref": "bundle", "dependsOn": [each["bom-ref"] for each in components]},
            *({"ref": each["bom-ref"]} for each in components),
        ],
    }


def _model(bundle: Bundle, variant: Variant) -> dict[str, Any]:
    metrics = [
        {"type": quality.metric, "value": f"{quality.value:g}", "slice": quality.source}
        for quality in variant.qualities
    ]
    ancestors = [
        {
            "type": "data",
            "name": name,
            "hashes": _hashes(digest),
            "properties": _properties(commit=bundle.manifest.commits.get(name)),
        }
        for name, digest in sorted(bundle.manifest.made_from.items())
    ]
    return {
        **_file(bundle, variant.file),
        "type": "machine-learning-model",
        "modelCard": {
            "modelParameters": {
                "inputs": [{"format": f"{t.dtype} {list(t.shape)}"} for t in variant.inputs],
                "outputs": [{"format": f"{t.dtype} {list(t.shape)}"} for t in variant.outputs],
            },
            **({"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}),
        },
        **({"pedigree": {"ancestors": ancestors}} if ancestors else {}),
        "properties": _properties(quantization=variant.quantization),
    }


def _file(bundle: Bundle, name: str) -> dict[str, Any]:
    digest = bundle.manifest.files[name].sha256
    return {"type": "file", "bom-ref": name, "name": name, "version": digest[:16], "hashes": _hashes(digest)}


def _library(name: str, version: str) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": f"pypi/{name}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
    }


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest}]


def _properties(**values: str | None) -> list[dict[str, str]]:
    return [{"name": f"edgekit:{name}", "value": value} for name, value in values.items() if value is not None]
