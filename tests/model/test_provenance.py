import pytest

from model.provenance import commit, versions


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    assert commit() == "unknown"


def test_versions_name_the_packages_and_onnx_runtime() -> None:
    assert list(versions("numpy", "onnx")) == ["numpy", "onnx", "onnxruntime"]
