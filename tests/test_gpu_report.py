"""The report of the first minutes on a GPU, at a toy size on the processor."""

import json

import pytest

from benchmarks import gpu
from sslbook import papers

pytestmark = pytest.mark.skipif(gpu.torch.cuda.is_available(), reason="the toy size is that of a machine without a GPU")


def test_every_method_is_reported():
    assert {"SimCLR", "MatchingGap", "VICReg", "SimVAE"} <= set(gpu.kinds())


def test_the_report_has_every_part_and_is_kept(tmp_path, monkeypatch, capsys):
    one = {name: config for name, config in gpu.kinds().items() if name == "SimVAE"}
    monkeypatch.setattr(gpu, "kinds", lambda: one)
    monkeypatch.setattr(papers, "names", lambda: ["geometry"])
    assert gpu.main(["--folder", str(tmp_path)]) == 0
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["part"] for row in kept["rows"]][:1] == ["Right"]
    assert {row["part"] for row in kept["rows"]} == {"Right", "Fast", "Resumed", "Records"}
    speed = {row["what"]: row["value"] for row in kept["rows"] if row["part"] == "Fast"}
    assert speed["batch 16, eager"] > 1 and 0 < speed["batch 16, eager, views"] < 1
    printed = capsys.readouterr().out.splitlines()
    assert (tmp_path / "gpu.md").read_text().splitlines()[-len(printed) :] == printed


def test_what_is_wrong_is_said_and_does_not_stop_the_rest(tmp_path, monkeypatch):
    def broken(device):
        """Right: not at all."""
        raise RuntimeError("no such kernel")
        yield

    for part in ("fast", "resumed"):
        monkeypatch.setattr(gpu, part, broken)
    monkeypatch.setattr(
        gpu, "right", lambda device: iter([{"what": "a method", "value": 1.0, "unit": "", "right": False}])
    )
    gpu.right.__doc__ = "Right: "
    monkeypatch.setattr(gpu, "records", broken)
    assert gpu.main(["--folder", str(tmp_path)]) == 1
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert len(rows) == 4 and "no such kernel" in rows[1]["what"] and "WRONG" in (tmp_path / "gpu.md").read_text()
