"""Every file of a run or record may be torn, empty, altered or lost: a sentence names it, or it is made again."""

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslbook import cli, files, papers, runs, training
from sslbook.config import Config
from sslbook.ledger import Claim, Counterexample, FromRuns, Test
from sslbook.papers.paper import Paper, Planned
from tests.test_config import example
from tests.test_training import tiny


def plan(seeds):
    return lambda profile: [Planned(tiny(epochs=2, seed=seed), {"size": "tiny"}) for seed in seeds]


def claim(id, figure):
    tests = (Test("mean of n", lambda frame: frame.groupby("seed").n.mean(), -100.0),)
    return Claim("page", id, "Here", "n is positive.", FromRuns(tests, figure=figure, seeds=2))


def measure(run, device):
    for epoch in run.snapshots:
        weight = run.method(epoch).state_dict()["projector.0.weight"]
        yield {"n": weight.abs().sum() + torch.tensor(0.0)}


PAPER = Paper(
    name="small",
    title="Small",
    plans={"main": plan([0, 1]), "other": plan([2, 3])},
    measure=measure,
    row=lambda config, arrays: {"n": float(arrays["n"])},
    claims=(
        claim("of-main", "main"),
        claim("of-other", "other"),
        Claim("page", "of-none", "Here", "One is zero.", Counterexample(lambda: 1.0)),
    ),
)
CONFIG = PAPER.plan("main")[0].config


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The runs of both figures, trained, measured and shipped once."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLBOOK_RUNS", str(folder / "runs"))
        patch.setattr(runs, "RECORDS", folder / "records")
        for run, _ in PAPER.obtain([*PAPER.plan("main"), *PAPER.plan("other")], device="cpu"):
            PAPER.arrays(run)
            run.ship()
    return folder


@pytest.fixture(params=["runs", "records"])
def folder(request, made, tmp_path, monkeypatch):
    """A copy of the finished runs, here or shipped, to be damaged."""
    shutil.copytree(made / request.param, tmp_path / request.param)
    monkeypatch.setenv("SSLBOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(runs, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(papers, "names", lambda: ["small"])
    monkeypatch.setattr(papers, "paper", lambda name: PAPER)
    return tmp_path / request.param


def flipped(content):
    return content[:-9] + bytes(byte ^ 0x5A for byte in content[-9:-1]) + content[-1:]


DAMAGES = {
    "empty": lambda content: b"",
    "torn": lambda content: content[: len(content) * 2 // 3],
    "cut by a byte": lambda content: content[:-1],
    "noise": lambda content: bytes(range(256)),
    "flipped": flipped,
    "another kind": lambda content: b"[]\n",
    "incomplete": lambda content: b"{}\n",
}
UNSEEN = {("config.json", "cut by a byte"), ("provenance.json", "cut by a byte"), ("small.safetensors", "flipped")}
"""A line break less, which loses nothing; and other values in a file of values, which no format shows."""


def use(run):
    """Everything of a run that figures, verdicts and listings read."""
    kept = run.snapshots
    return run.history, run.provenance, PAPER.arrays(run), [run.method(epoch).state_dict() for epoch in kept]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["config.json", "history.csv", "provenance.json", "small.safetensors"])
def test_a_damaged_file_is_named_or_made_again(folder, name, damage):
    path = folder / CONFIG.id / name
    whole = use(runs.find(CONFIG))
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    if (name, damage) in UNSEEN:
        use(runs.find(CONFIG))
    elif name == "small.safetensors" and folder.name == "runs":
        assert torch.equal(use(runs.find(CONFIG))[2]["n"], whole[2]["n"])  # made again …
        assert runs.find(CONFIG)._kept(path, PAPER.version) is not None  # … and kept
    else:
        with pytest.raises(files.Damaged) as found:
            use(runs.find(CONFIG))
        sentence = str(found.value)
        assert str(path) in sentence and f"ove {path.parent} away to train it anew." in sentence
        assert "\n" not in sentence


@pytest.mark.parametrize("folder", ["runs"], indirect=True)  # a record has no weights
@pytest.mark.parametrize("damage", [*(name for name in DAMAGES if name != "flipped"), "lost"])
def test_damaged_weights_are_named(folder, damage):
    run = runs.find(CONFIG)
    (run.path / "small.safetensors").unlink()
    path = files.snapshot_path(run.path, 1)
    path.write_bytes(DAMAGES.get(damage, bytes)(path.read_bytes()))
    if damage == "lost":
        path.unlink()
    with pytest.raises(
        files.Damaged, match=rf"^{path} (is missing|cannot be read \(.+\)); move {run.path} away to train"
    ):
        PAPER.arrays(run)
    assert not (run.path / "small.safetensors").exists()


def test_a_lost_file_is_named(folder):
    for name in ("config.json", "provenance.json"):
        path = folder / CONFIG.id / name
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(files.Damaged, match=f"^{path} cannot be read"):
            use(runs.find(CONFIG))
        path.write_bytes(content)


def test_epochs_that_a_measurement_lacks_are_missed(folder):
    run = runs.find(CONFIG)
    arrays = {name: values[:-1].clone() for name, values in PAPER.arrays(run).items()}
    for altered in (arrays, arrays | {"epoch": torch.tensor([0, 1, 2])}, {"n": torch.zeros(3)}):
        content = safetensors.torch.save(altered, {"version": "1"})
        (run.path / "small.safetensors").write_bytes(content)
        with pytest.raises(
            files.Damaged, match=r"small\.safetensors does not hold all epochs .*; delete it to measure"
        ):
            PAPER.arrays(run)


@pytest.mark.parametrize("name", ["config.json", "history.csv", "provenance.json"])
def test_verdicts_status_and_list_go_on_with_the_others(folder, name, capsys):
    path = folder / CONFIG.id / name
    path.write_bytes(b"{")
    needed = name != "history.csv"
    assert cli.main(["verdicts"]) == (1 if needed else 0)
    out, error = capsys.readouterr()
    state = "not decided" if needed else "reproduced"
    assert f"of-main (Here): {state}" in out and "of-other (Here): reproduced" in out and "false as stated" in out
    assert (str(path) in error and error.count("\n") == 1) == needed
    assert cli.main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    if folder.name == "runs":
        assert [line.startswith(f"{CONFIG.id}  not readable: {path}") for line in lines].count(True) == 1
        assert sum(line.endswith("finished") for line in lines) == 3
    assert cli.main(["list", "--paper", "small"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [CONFIG.id in line and "damaged" in line and str(path) in line for line in lines] == [
        needed,
        False,
    ]


def test_a_damaged_measurement_of_a_record_leaves_its_figure_undecided(folder, capsys):
    path = folder / CONFIG.id / "small.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    here = folder.name == "runs"
    assert cli.main(["verdicts"]) == (0 if here else 1)
    out, error = capsys.readouterr()
    assert f"of-main (Here): {'reproduced' if here else 'not decided'}" in out and "of-other (Here): reproduced" in out
    assert (str(path) in error) != here
    with pytest.raises(files.Damaged) if not here else pytest.MonkeyPatch.context():
        papers.verdicts()  # a book is not made of them


def test_who_trained_an_interrupted_run_may_be_lost(folder):
    path = runs.folder() / tiny(epochs=2, seed=9).id
    with pytest.raises(training.TimeLimit):
        runs.ensure(tiny(epochs=2, seed=9), device="cpu", time_limit=0)
    (path / "provenance.json").write_text("{")
    with pytest.warns(UserWarning, match=f"^{path / 'provenance.json'} is torn or altered; what trained"):
        run = runs.ensure(tiny(epochs=2, seed=9), device="cpu")
    assert run.provenance["earlier"] == [{}] and isinstance(run.history, pd.DataFrame)
    with pytest.raises(ValueError, match=r"there are 1 in an unknown precision and (float32|bfloat16)\."):
        runs.require_one_precision([run], "A figure")


def writes(path, environment):
    """A process that is writing `path`, and does not come to an end."""
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom sslbook import files\n"
        "with files.replacing(Path(sys.argv[1])) as beside:\n    beside.write_bytes(b'part')\n    print('on')\n"
        "    sys.stdout.flush(); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline() == "on\n"
    return process


def test_what_a_killed_write_left_goes_with_the_next_and_what_is_being_written_stays(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    killed, alive = (writes(tmp_path / name, environment) for name in ("a.json", "b.json"))
    try:
        killed.kill(), killed.wait()
        (tmp_path / ".mine").touch()
        assert len(list(tmp_path.iterdir())) == 3
        files.write_whole(tmp_path / "c.json", b"whole")
        (part,) = tmp_path.glob(".*.b.json")
        assert {path.name for path in tmp_path.iterdir()} == {".mine", "c.json", part.name}
        assert part.read_bytes() == b"part"
    finally:
        alive.kill(), alive.wait()


def test_a_terminal_that_knows_few_characters_gets_all_verdicts(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr(papers, "names", lambda: ["small"])
    monkeypatch.setattr(papers, "paper", lambda name: PAPER)
    says = dataclasses.replace(PAPER.claims[2], where="Eq. μ²")
    monkeypatch.setitem(PAPER.__dict__, "claims", (says, *PAPER.claims[:2]))
    assert cli.main(["verdicts"]) == 0
    lines = out.buffer.getvalue().decode("ascii").splitlines()
    assert lines[0] == r"of-none (Eq. \u03bc\xb2): false as stated"
    assert sum("not decided" in line for line in lines) == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["kind", "name", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def nodes(value, at=()):
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from nodes(inner, (*at, key))


WHOLE = json.loads(json.dumps(example(method=tiny().method).to_dict()))


@given(st.sampled_from(list(nodes(WHOLE))), JSON, st.booleans())
def test_any_json_is_a_configuration_or_refused_with_a_sentence(place, value, remove):
    changed = json.loads(json.dumps({"": WHOLE}))
    *path, last = ("", *place)
    inner = changed
    for key in path:
        inner = inner[key]
    inner[last] = value
    if remove and isinstance(inner, dict) and last:
        del inner[last]
    try:
        assert isinstance(Config.from_dict(changed[""]), Config)
    except ValueError as error:
        assert len(str(error)) > 10 and "\n" not in str(error)
