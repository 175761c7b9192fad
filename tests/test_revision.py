"""Which commit a file is of: real repositories, made with git itself."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess

import numpy as np
import pytest

from edgekit.convert.revision import revision

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git")


def git(folder, *words):
    names = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **names, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(["git", *words], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(params=["sha1", "sha256"])
def repository(tmp_path, request):
    """Two commits: the model and the photos of the first, the text of the second."""
    folder = tmp_path / "repository"
    (folder / "photos" / "cat").mkdir(parents=True)
    git(folder, "init", "-q", f"--object-format={request.param}")
    (folder / "net.keras").write_bytes(b"\x00\r\n" * 100)
    (folder / "photos" / "cat" / "a b.png").write_bytes(b"one")
    (folder / "photos" / "two.png").write_bytes(b"two")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")
    (folder / "README.md").write_text("text\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "two")
    return folder


def test_it_is_the_commit_that_changed_the_file_last(repository):
    first, second = git(repository, "rev-parse", "HEAD~1"), git(repository, "rev-parse", "HEAD")

    assert revision(repository / "net.keras") == first
    assert revision(repository / "photos") == revision(repository / "photos" / "cat") == first
    assert revision(repository / "README.md") == second
    assert revision(repository / "README.md") in git(repository, "log", "--format=%H", "-1")


def test_another_commit_and_other_files_change_nothing(repository):
    before = revision(repository / "net.keras"), revision(repository / "photos")
    (repository / "README.md").write_text("other\n")
    (repository / "bundle").mkdir()
    git(repository, "commit", "-qam", "three")
    (repository / "README.md").write_text("not committed\n")

    assert (revision(repository / "net.keras"), revision(repository / "photos")) == before


@pytest.mark.parametrize("change", ["content", "more", "less"])
def test_what_is_not_as_in_its_commit_says_so(repository, change):
    first = git(repository, "rev-parse", "HEAD~1")
    (repository / "net.keras").write_bytes(b"other")
    if change == "content":
        (repository / "photos" / "two.png").write_bytes(b"2")
    elif change == "more":
        (repository / "photos" / "three.png").write_bytes(b"three")
    else:
        (repository / "photos" / "two.png").unlink()

    assert revision(repository / "net.keras") == revision(repository / "photos") == f"{first}, changed since"


def test_ends_of_lines_that_git_changed_are_no_change(repository):
    (repository / "README.md").write_bytes(b"text\r\n")

    assert revision(repository / "README.md") == git(repository, "rev-parse", "HEAD")


def test_a_file_that_git_lfs_keeps_elsewhere_is_known_by_its_pointer(repository):
    content = os.urandom(5000)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
    (repository / "big.keras").write_text(pointer.format(hashlib.sha256(content).hexdigest(), len(content)))
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "pointer")
    (repository / "big.keras").write_bytes(content)
    whole = revision(repository / "big.keras")
    (repository / "big.keras").write_bytes(content + b"!")

    assert whole == git(repository, "rev-parse", "HEAD")
    assert revision(repository / "big.keras") == f"{whole}, changed since"


def test_what_git_does_not_know_has_no_commit(repository, tmp_path, monkeypatch):
    (repository / "new.keras").write_bytes(b"new")
    (tmp_path / "outside.keras").write_bytes(b"outside")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "-q")
    (tmp_path / "empty" / "x").write_bytes(b"x")

    for path in (repository / "new.keras", tmp_path / "outside.keras", tmp_path / "empty" / "x", tmp_path / "nowhere"):
        assert revision(path) is None


def test_without_git_there_is_no_commit(repository, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert revision(repository / "net.keras") is None


def test_a_hook_that_runs_us_does_not_say_which_repository_it_is(repository, monkeypatch, tmp_path):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))

    assert len(revision(repository / "net.keras")) in (40, 64)


def test_names_are_names_and_no_patterns(repository):
    (repository / "net*").write_bytes(b"x")
    (repository / ":(glob)net.keras").write_bytes(b"x")

    assert revision(repository / "net*") is None
    assert revision(repository / ":(glob)net.keras") is None


def test_nothing_that_a_repository_brings_along_is_run(repository, tmp_path):
    witness = tmp_path / "ran"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {witness}\ncat\n")
    script.chmod(0o755)
    for key in ("core.fsmonitor", "filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "core.pager",
                "core.hooksPath", "gpg.program", "diff.external", "core.sshCommand", "diff.evil.textconv"):  # fmt: skip
        git(repository, "config", key, str(script))
    git(repository, "config", "log.showSignature", "true")
    (repository / ".gitattributes").write_text("* filter=evil diff=evil\n")
    (repository / "net.keras").write_bytes(b"changed")
    found = revision(repository / "net.keras")

    assert found.endswith(", changed since")
    assert not witness.exists()


def test_a_bundle_says_of_which_commit_it_is(repository, tmp_path, capsys):
    pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")
    from handmade_model import classifier

    import edgekit
    from edgekit.cli.main import main
    from edgekit.deploy.sbom import make_sbom

    (repository / "net.tflite").write_bytes(classifier(dtype="float32"))
    np.savez(repository / "samples.npz", x=np.random.default_rng(0).random((20, 8, 8, 1)).astype(np.float32))
    git(repository, "add", "net.tflite")
    git(repository, "commit", "-qm", "model")
    commit = git(repository, "rev-parse", "HEAD")
    result = edgekit.convert(repository / "net.tflite", repository / "bundle", repository / "samples.npz")
    git(repository, "add", "bundle")
    git(repository, "commit", "-qm", "bundle")
    again = edgekit.convert(repository / "net.tflite", repository / "bundle", repository / "samples.npz", report=False)
    (ancestor, _) = make_sbom(again.bundle, None)["components"][0]["pedigree"]["ancestors"]
    assert main(["inspect", str(again.bundle.path)]) == 0

    assert result.bundle.manifest.commits == {"net.tflite": commit}
    assert result.bundle.id == again.bundle.id
    assert f"net.tflite (git {commit[:12]}), samples.npz" in capsys.readouterr().out.replace("\n           ", " ")
    assert ancestor["properties"] == [{"name": "edgekit:commit", "value": commit}]
    assert f"git commit {commit}" in result.report.read_text()
