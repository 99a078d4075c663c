"""A paper that the library has never seen goes from plan to run, measurement, frame, verdict and page.

It lies in `tests/papers`, which `SSLBOOK_PAPERS` names, and needs all that a method may ask for: labels, noise, a
moving average, a queue, a decoder inside its method, another policy for each view, images of one channel.
"""

import importlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch

from sslbook import cli, data, files, notebooks, pages, papers, runs, training
from sslbook.config import Config
from sslbook.ledger import value
from tests.laws import assert_two_train_as_one, in_parts, same, weights

HERE = Path(__file__).parent / "papers"


@pytest.fixture(scope="module")
def toy():
    """The paper's module, known to this process and to those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLBOOK_PAPERS", str(HERE))
        patch.setattr(papers, "__path__", [*papers.__path__, str(HERE)])
        yield importlib.import_module("sslbook.papers.toy")


@pytest.fixture(scope="module")
def plan(toy):
    return toy.PAPER.plan("main", "laptop")


@pytest.fixture(scope="module")
def alike(plan):
    return plan[0].config


@pytest.fixture(scope="module")
def unlike(plan):
    return plan[1].config


@pytest.fixture(scope="module")
def folder(toy, plan, tmp_path_factory):
    """The runs of the plan, trained once."""
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLBOOK_RUNS", str(folder))
        patch.setattr(runs, "RECORDS", folder / "records")
        list(toy.PAPER.obtain(plan, device="cpu"))
        yield folder


def test_a_paper_is_found_by_its_folder(toy):
    assert "toy" in papers.names() and papers.paper("toy") is toy.PAPER
    with pytest.raises(ValueError, match="The paper is 'nothing'; allowed are 'geometry'"):
        papers.paper("nothing")


@pytest.mark.parametrize("views", ["alike", "unlike"])
def test_nested_parts_survive_json(toy, views, request):
    config = request.getfixturevalue(views)
    values = json.loads(json.dumps(config.to_dict()))
    assert Config.from_dict(values) == config and Config.from_dict(values).id == config.id
    assert values["method"] == {"kind": "Echo", "decoder": {"kind": "Back", "width": 24}}
    wider = config.replace(method=config.method.replace(decoder=toy.Back(25)))
    assert wider.id != config.id
    values["method"]["decoder"]["kind"] = "Front"
    with pytest.raises(ValueError, match=r"decoder.kind is 'Front'; allowed are .*Back"):
        Config.from_dict(values)
    with pytest.raises(ValueError, match=r"Echo.decoder is Flat.*; allowed kinds are .*Back"):
        toy.Echo(toy.Flat())


def test_labels_go_from_the_plan_to_the_frame_the_line_and_the_verdict(toy, plan, folder):
    found = toy.PAPER.find(plan)
    frame = toy.PAPER.frame(found)
    assert frame.groupby("views").seed.unique().map(list).to_dict() == {"alike": [1, 2, 3], "unlike": [1, 2, 3]}
    assert sorted(frame.epoch.unique()) == [0, 1, 2, 4] and {"knn", "rank", "run"} <= set(frame)
    assert "runs: 3 alike, 3 unlike" in papers.facts(found, "laptop").line
    spectra = toy.PAPER.entries(found, "spectrum")
    assert len(spectra) == 6 * 4 * 8 and spectra["index"].max() == 8
    verdicts = toy.PAPER.verdicts("laptop")
    assert [v.status for v in verdicts] == ["reproduced", "reproduced", "false as stated", "not testable here"]
    assert set(verdicts[0].runs) == {config.id for config, _ in plan}
    assert [v.scale for v in verdicts] == ["at laptop scale", "in a toy", "", ""]


def test_a_page_tells_means_by_label_as_the_frame_has_them(toy, plan, folder, monkeypatch):
    monkeypatch.setattr("sslbook.pages._facts", {})
    page = pages.Page("toy")
    assert page.moments == {"start": 0, "half": 2, "end": 4}
    table = page.through({"rank": "Rank", "knn": "Accuracy"}, "views")
    for views in ("alike", "unlike"):
        for when in page.moments:
            assert table.loc[views, ("Rank", when)] == pytest.approx(
                value(page.frame, "rank", when, views=views).mean()
            )
    at_end = page.means("views")["rank"]
    assert page.trend("rank", "views") == ("rises" if at_end["unlike"] > at_end["alike"] else "falls")
    assert page.trend("epoch", "views") == "varies"  # the same for both
    assert pages.listed({"alike": 0.125, "unlike": -2}, "+.1f") == "+0.1 (alike), -2.0 (unlike)"


def test_a_page_says_the_scale_of_a_toy_and_measures_without_a_verdict(toy, plan, folder, monkeypatch):
    monkeypatch.setattr("sslbook.pages._facts", {})
    page = pages.Page("toy")
    assert set(page.verdicts("toy-rank", "toy-draws").data.verdict) == {
        "reproduced at laptop scale",
        "reproduced in a toy",
    }
    assert page.verdict("toy-rank") == "reproduced" and page.verdict("toy-draws") == "reproduced in a toy"
    one = pages.Page("toy", seeds=[2])
    table = one.measured("toy-rank").data
    assert table["test says"].tolist() == ["open"] and "verdict" not in table and "toy-rank" not in one.judged


def test_a_figure_of_two_precisions_is_refused_before_anything_is_trained(toy, tmp_path, monkeypatch, capsys):
    def of_seed(seed, precision):
        monkeypatch.setenv("SSLBOOK_PRECISION", precision)
        return list(toy.PAPER.obtain(toy.PAPER.plan(seeds=[seed]), device="cpu"))

    monkeypatch.setenv("SSLBOOK_RUNS", str(tmp_path))
    here, id = of_seed(1, "bfloat16"), toy.PAPER.plan(seeds=[2])[0].config.id
    monkeypatch.setenv("SSLBOOK_PRECISION", "float32")
    sentence = "A figure needs runs of one precision, and there are 2 in bfloat16, 4 to be trained in float32."
    with pytest.raises(ValueError, match=sentence):
        pages.Page("toy", device="cpu")
    assert cli.main(["run", "--paper", "toy", "--device", "cpu", "--id", id]) == 1
    assert sentence in capsys.readouterr().err
    assert {path.name for path in runs.local()} == {run.config.id for run, _ in here}
    assert len(pages.Page("toy", seeds=[1]).found) == 2  # those that are there need no training
    with pytest.raises(ValueError, match="there are 2 in bfloat16, 2 in float32"):
        papers.facts(here + of_seed(2, "float32"), "laptop")


def test_the_facts_of_a_copy_are_those_of_its_first_page(toy, plan, folder, monkeypatch):
    monkeypatch.setattr("sslbook.pages._facts", {})
    pages.Page("toy")
    pages.Page("toy", seeds=[2])
    assert json.loads(pages.provenance())["seeds"] == [1, 2, 3]


def test_spectra_are_means_over_runs_and_relative_to_the_largest_if_asked(toy, plan, folder):
    page = pages.Page("toy")
    lines = page.spectra("spectrum", "views", {"end": "last", "start": "first"}).axes[0].lines
    expected = toy.PAPER.entries(page.found, "spectrum").query("epoch == 4 and views == 'alike'")
    assert lines[0].get_ydata() == pytest.approx(expected.groupby("index").value.mean().to_numpy())
    relative = page.spectra("spectrum", "views", relative=True).axes[0].lines
    assert [line.get_ydata()[0] for line in relative[:2]] == pytest.approx([1, 1])


def test_a_limit_of_panels_that_share_an_axis_cuts_no_curve(toy, plan, folder):
    page = pages.Page("toy")
    figure, axes = page.panels({"knn": "small", "rank": "large"}, "views", sharey=True, ylim=(0, None))
    assert axes[0].get_ylim()[0] == 0 and axes[0].get_ylim()[1] > page.frame["rank"].max() > 1
    assert [ax.get_legend() is None for ax in figure.axes] == [False, True]


def test_the_second_view_comes_from_its_own_policy(unlike):
    images = data.load_train(unlike.data).images[:8].expand(-1, 3, -1, -1).repeat(2, 1, 1, 1)
    draws = unlike.views.draw(16, (16, 16), torch.Generator().manual_seed(0))
    small, weak = unlike.views.views
    parts = [type(draws)(*(part.chunk(2)[k] for part in draws)) for k in range(2)]
    expected = torch.cat([policy.apply(images[:8], part) for policy, part in zip((small, weak), parts, strict=True)])
    assert torch.equal(unlike.views.apply(images, draws), expected)
    assert (parts[0].box[:, 2:] >= 13).all() and (parts[1].box[:, 2:] < 13).any()  # little is cut by small ones
    with pytest.raises(ValueError, match="15 views are asked of 2 policies"):
        unlike.views.draw(15, (16, 16))


def test_the_cost_counts_decoder_classifier_and_target(alike):
    """Multiply-adds of an image, from the sizes of the layers: the twin's forward pass alone costs as many as one."""
    pixels, dim, width, classes, queue = 256, 8, 24, 12, 64
    trained = pixels * dim + dim * width + width * pixels + dim * classes
    forward = trained + dim * queue + pixels * dim  # crowding, target
    backward = 2 * trained - pixels * dim + dim * queue  # no gradient of the pixels, none of the queue
    assert training.flop(alike) == 2 * (forward + backward)


def test_a_stopped_run_continues_to_the_same_bits(toy, plan, unlike, folder, tmp_path):
    """With noise, labels, a moving average and a queue."""
    images = data.load_train(unlike.data)
    (history, *_), _ = in_parts(lambda **limit: training.train(unlike, images, tmp_path, **limit))
    whole = toy.PAPER.find(plan[1:2])[0].run
    assert whole.history.equals(pd.DataFrame(history))
    last = weights(files.snapshot_path(tmp_path, 4))
    assert same(last, weights(whole.snapshots[4]))
    assert last["queue"].abs().sum(1).min() > 0  # the queue has been filled
    assert not torch.equal(last["target.1.weight"], last["encoder.1.weight"])


def test_two_processes_train_as_one(unlike, tmp_path):
    assert_two_train_as_one({"unlike": unlike}, tmp_path, lambda name: dict(rtol=1e-3, atol=1e-5))


def test_a_term_that_is_no_number_is_named(alike, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "logsumexp", lambda x, dim: x.sum(dim) * float("nan"))
    with pytest.raises(training.Diverged, match="The loss became nan and crowding became nan at epoch 1, step 1 of 3"):
        training.train(alike, data.load_train(alike.data), tmp_path)


def test_the_command_line_lists_its_labels_and_stops_silently_when_nobody_reads(folder, capsys):
    assert cli.main(["list", "--paper", "toy"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 6 and "here" in listed[0] and "gray views=alike epochs 4 batch 32 seed 1" in listed[0]
    command = shlex.join([sys.executable, "-m", "sslbook", "list", "--paper", "toy"])
    closed = subprocess.run(f"{command} | head -n 1", shell=True, capture_output=True, text=True, env=os.environ)
    assert closed.stdout.splitlines() == listed[:1] and closed.stderr == ""


TEXT = """# A toy

The rank goes from {eval}`f"{start:.2f}"` to {eval}``f"{page.means('views')['rank']['unlike']:.2f}"``."""
NOTEBOOK = [
    ("markdown", TEXT),
    ("parameters", 'profile: str = "laptop"\ndataset: str = None\nseeds: list[int] = None\ndevice: str = None'),
    (
        "code",
        "from sslbook.pages import Page\n"
        'page = Page("toy", profile=profile, dataset=dataset, seeds=seeds, device=device)\n'
        'start = page.means("views", "start")["rank"]["alike"]',
    ),
    (
        "code",
        'told = page.told("rank", "views")\n'
        'page.show(page.draw("rank", "views"), caption="Mean ± one standard deviation.", alt=told, name="rank")',
    ),
    ("code", 'page.verdicts("toy-rank", "toy-false")'),
    ("markdown", "It is *{eval}`page.status('toy-rank')`*."),
]


def test_its_notebook_is_executed_with_figure_verdict_and_numbers_in_the_text(toy, plan, folder, tmp_path):
    make = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    cells = [make.get(kind, nbformat.v4.new_code_cell)(source) for kind, source in NOTEBOOK]
    cells[1].metadata["tags"] = ["parameters"]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), tmp_path / "page.ipynb")
    notebooks.execute(tmp_path / "page.ipynb", "laptop", tmp_path / "copy.ipynb")
    copy = nbformat.read(tmp_path / "copy.ipynb", 4)
    frame = toy.PAPER.frame(toy.PAPER.find(plan))
    ends = frame[(frame.views == "alike") & frame.epoch.isin([0, 4])].groupby("epoch")["rank"].mean()
    answers = [a["result"]["data"]["text/plain"] for a in copy.cells[0].metadata["user_expressions"]]
    assert answers[0] == f"'{ends[0]:.2f}'"
    assert copy.cells[-1].metadata["user_expressions"][0]["result"]["data"]["text/plain"] == "'reproduced'"
    html = "".join(out.data.get("text/html", "") for cell in copy.cells for out in cell.get("outputs", []))
    assert f"alike from {ends[0]:.3f} to {ends[4]:.3f}" in html and "runs: 3 alike, 3 unlike" in html
    facts = copy.metadata["sslbook"]
    assert facts["data"] == "gray" and facts["seeds"] == [1, 2, 3]
    assert facts["result"] == "toy-rank reproduced; toy-false false as stated"
