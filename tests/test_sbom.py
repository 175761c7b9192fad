"""The bill of materials: complete, the same every time, and what CycloneDX's own validator accepts."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from edgekit.cli.main import main

DEVICE = ["--python", "3.11", "--arch", "aarch64"]


def printed(capsys, *words):
    assert main(["sbom", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_every_file_and_the_runtime_are_listed_with_their_hashes(tiny_bundle, capsys):
    found = json.loads(printed(capsys, tiny_bundle.path, *DEVICE))
    components = {each["name"]: each for each in found["components"]}

    assert set(components) == {"models/int8.tflite", "golden.npz", "edgekit", "ai-edge-litert", "numpy"}
    assert components["models/int8.tflite"]["type"] == "machine-learning-model"
    for name, file in tiny_bundle.manifest.files.items():
        assert components[name]["hashes"] == [{"alg": "SHA-256", "content": file.sha256}]
    assert components["ai-edge-litert"]["purl"] == "pkg:pypi/ai-edge-litert@2.3.0"
    assert found["metadata"]["component"]["version"] == tiny_bundle.id


def test_the_same_bundle_is_the_same_document(tiny_bundle, other_bundle, capsys):
    first, again = (printed(capsys, tiny_bundle.path) for _ in range(2))

    assert first == again
    assert json.loads(first)["serialNumber"] != json.loads(printed(capsys, other_bundle.path))["serialNumber"]


def test_a_device_without_a_runtime_is_said(tiny_bundle, capsys):
    assert main(["sbom", str(tiny_bundle.path), "--python", "3.7"]) == 4
    assert main(["sbom", str(tiny_bundle.path), "--python", "three"]) == 2
    assert "'three' is not like 3.11" in capsys.readouterr().err


def test_cyclonedx_accepts_the_document(tiny_bundle, capsys):
    pytest.importorskip("cyclonedx.validation", reason="pip install 'cyclonedx-python-lib[json-validation]'")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(printed(capsys, tiny_bundle.path, *DEVICE))

    assert wrong is None
