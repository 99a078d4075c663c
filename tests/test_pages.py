"""Laws of what the hooks of the book put on a page."""

import itertools
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sslbook import ledger, papers

sys.path.insert(0, str(Path(__file__).parents[1] / "book" / "_ext"))
import book_assets
import book_pages

ROOT = Path(__file__).parents[1]
FIGURE = '<figure class="sslbook" id="fig-1"><svg></svg><figcaption>caption</figcaption></figure>'


@pytest.fixture
def app(tmp_path):
    """A book with one executed notebook, which shows one named figure, and no other page."""
    cells = [
        {"source": ["# Title & more\n", "text"]},
        {"source": [], "outputs": [{"data": {"text/html": [FIGURE[:30], FIGURE[30:]]}}, {"text": "noise"}]},
    ]
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/page.ipynb").write_text(json.dumps({"cells": cells}))
    env = SimpleNamespace(docname="book/gallery", note_dependency=lambda path: None)
    pages = SimpleNamespace(docnames={"notebooks/geometry/upper-bound"})
    return SimpleNamespace(config=SimpleNamespace(executed=str(tmp_path)), env=env, project=pages)


@pytest.fixture
def judged(monkeypatch):
    """Verdicts of every kind, by paper."""
    statuses, found = itertools.cycle(book_pages.MARKS), {}
    for name in papers.names():
        for claim, status in zip(papers.paper(name).claims, statuses):
            tests = getattr(claim.evidence, "tests", ())
            outcomes = tuple(ledger.Outcome(test, 0.5, 0.25, 0.75, 3) for test in tests)
            found.setdefault(name, []).append(ledger.Verdict(claim, status, outcomes))
    monkeypatch.setattr(book_pages, "judged", lambda: found)
    return found


def read(app, text):
    source = [text]
    book_pages.read_page(app, app.env.docname, source)
    return source[0]


def test_a_figure_stands_on_another_page_as_it_is_with_a_link_to_its_own(app):
    shown = read(app, "before\n\n{{ figure notebooks/page#fig-1 }}\n")
    link = re.search(r'<div class="made-by">.*?</div>', shown)[0]
    assert shown.replace(link, "") == f"before\n\n{FIGURE}\n"
    assert 'href="../notebooks/page.html#fig-1"' in link and "Title &amp; more" in link


@pytest.mark.parametrize("address", ["notebooks/page#fig-2", "notebooks/none#fig-1"])
def test_a_figure_that_is_not_there_is_a_warning(app, address, monkeypatch):
    warned = []
    monkeypatch.setattr(book_pages.LOGGER, "warning", lambda *arguments, **where: warned.append(arguments))
    assert read(app, f"{{{{ figure {address} }}}}") == ""
    assert warned


def page(app, text, **answers):
    """The text of a page as it is parsed, whose kernel printed these answers."""
    stored = [
        {"expression": name, "result": {"status": "ok", "data": {"text/plain": a}}} for name, a in answers.items()
    ]
    cell = {"cell_type": "markdown", "source": text.splitlines(keepends=True), "metadata": {"user_expressions": stored}}
    Path(app.config.executed, "notebooks/page.ipynb").write_text(json.dumps({"cells": [cell], "metadata": {}}))
    source = ["the clean source"]
    book_pages.read_page(app, "notebooks/page", source)
    return json.loads(source[0])["cells"][0]["source"]


def test_an_answer_stands_on_another_page_as_its_own_shows_it(app, monkeypatch):
    page(app, "{eval}`rests`", rests="'a mean of -0.5'")
    assert read(app, "so {{ answer notebooks/page#rests }}.") == "so a mean of −0.5."
    warned = []
    monkeypatch.setattr(book_pages.LOGGER, "warning", lambda *arguments, **where: warned.append(arguments))
    assert read(app, "{{ answer notebooks/page#other }}") == "" and warned


def test_a_notebook_that_does_not_use_the_pages_has_no_machine_and_a_row_all_the_same(app):
    facts = {"profile": "smoke", "parameters": {}, "date": "2026-01-01", "minutes": 0.5}
    copy = Path(app.config.executed, "notebooks/geometry/upper-bound.ipynb")
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(json.dumps({"cells": [], "metadata": {"sslbook": facts}}))
    assert "Nothing is known of the machine" in book_pages.cost(json.loads(copy.read_text()))
    rows = book_pages.table(app, "")
    assert "| smoke |" in rows and "| `unknown` | ran to its end |" in rows and "- unknown, 2026-01-01:" in rows


def test_answers_stand_in_the_place_of_roles_and_nowhere_else(app):
    text = "*{eval}`a`* of {eval}``b``, not `{eval}` `a`.\n\n```\n{eval}`a`\n```\n\n```{note}\n{eval}`a`\n```\n"
    shown = page(app, text, a="'two *words*'", b="7")
    assert shown == ("*two *words** of 7, not `{eval}` `a`.\n\n```\n{eval}`a`\n```\n\n```{note}\ntwo *words*\n```\n")


@pytest.mark.parametrize(
    "printed, shown",
    [
        ("-0.5", "−0.5"),
        ("'-1.2 (-3 to 4)'", "−1.2 (−3 to 4)"),
        ("1e-05", "1e-05"),
        ("'2026-01-05'", "2026-01-05"),
        ("np.float64(-0.5)", "−0.5"),
        ("np.int64(3)", "3"),
        ("nan", "nan"),
        ("True", "True"),
        ("[1, 2]", "[1, 2]"),
        ('"it\'s"', "it's"),
    ],
)
def test_an_answer_is_a_string_without_its_quotes_or_a_number_with_a_true_minus(app, printed, shown):
    assert page(app, "is {eval}`x`!", x=printed) == f"is {shown}!"


def test_a_number_that_begins_a_line_begins_no_list(app):
    assert page(app, "There are\n{eval}`n`. And\n- {eval}`n`) or {eval}`n`. End", n="1") == (
        "There are\n1\\. And\n- 1) or 1. End"
    )


def test_a_role_without_an_answer_is_a_warning_that_names_page_and_expression(app, monkeypatch):
    warned = []
    monkeypatch.setattr(book_pages.LOGGER, "warning", lambda text, *arguments, **where: warned.append(text % arguments))
    page(app, "{eval}`x + y` and {eval}`x`", x="1")
    (warning,) = warned
    assert "notebooks/page" in warning and "{eval}`x + y`" in warning


def test_the_scoreboard_counts_every_claim_once(app, judged):
    whole = read(app, "{{ scoreboard }}")
    assert sum(map(int, re.findall(r"</span> (\d+) ", whole))) == sum(map(len, judged.values()))
    line = read(app, "{{ scoreboard geometry }}")
    assert line == whole.splitlines()[list(judged).index("geometry")]
    theirs, ours = (sum(v.claim.ours is mine for v in judged["geometry"]) for mine in (False, True))
    assert f"{theirs} claims: " in line and line.count(f"; {ours} of ours: ") == 1


def test_a_paper_says_how_many_tests_would_hold_by_chance_and_what_holms_correction_leaves(app, judged):
    for name, found in judged.items():
        outcomes = [o for v in found for o in v.outcomes]
        held = sum(o.state == "holds" for o in outcomes)
        text = book_pages.chance(found)
        assert (
            f"Of {len(outcomes)} tests {held} hold" in text and f"{0.025 * len(outcomes):.1f} would by chance" in text
        )
        column = [line.rsplit("|", 2)[1].strip() for line in book_pages.claim_table(app, name, found).splitlines()[2:]]
        decided = [bool(v.outcomes) and v.status != ledger.UNDECIDED for v in found]
        assert [bool(entry) for entry in column] == decided
        stand = sum(entry == "stands" for entry in column)
        kept = [a.status == b.status for a, b in zip(found, ledger.corrected(found))]
        assert stand == sum(same for same, counts in zip(kept, decided, strict=True) if counts)
        assert f"{stand} of {sum(decided)} verdicts that tests decide stand" in text


def test_every_claim_has_its_verdict_in_words_and_by_a_mark_and_every_test_its_row(app, judged):
    page = read(app, "{{ verdicts }}")
    for name, found in judged.items():
        for verdict in found:
            mark, _ = book_pages.MARKS[verdict.status]
            (row,) = (line for line in page.splitlines() if f"`{verdict.claim.id}` | <span" in line)
            assert f">{mark}</span> <strong>{verdict.status}</strong>" in row
            linked = verdict.claim.page == "upper-bound" and name == "geometry"
            assert ("](/notebooks/" in row) == linked
            assert page.count(f"\n| `{verdict.claim.id}` |") >= len(verdict.outcomes)


def test_a_claim_is_quoted_in_the_words_of_the_ledger(app, judged):
    quoted = read(app, "- {{ verdict fig3-tracks }}")
    assert quoted.startswith(f"- {book_pages.plain(papers.claim('fig3-tracks')[1].says)} <span")
    assert read(app, "{{ verdict upper-constant }}").startswith("*Ours:* ")


def test_marks_are_those_of_the_ledger_and_tell_verdicts_apart_without_colour():
    statuses = ledger.STATUSES
    assert set(statuses) == set(book_pages.MARKS)
    assert len({mark for mark, _ in book_pages.MARKS.values()}) == len(statuses)


def test_every_run_behind_a_verdict_is_listed_once_with_its_labels(app):
    found = papers.verdicts("laptop", "fig1-order", "upper-constant")["geometry"]
    text = book_pages.run_list("geometry", found)
    for id in {id for verdict in found for id in verdict.runs}:
        (line,) = (line for line in text.splitlines() if f"`{id}`" in line)
        assert "strength=" in line
    assert text.count(":::{dropdown}") == 1 and "epochs 64" in text


def test_an_excerpt_holds_the_sections_of_a_page_and_their_text_alone():
    page = """<main role="main"><nav>menu</nav><article class="bd-article"><section id="a"><h1>One &amp; two
        <a class="headerlink" href="#a" title="Link">#</a></h1><script>no</script><svg><title>no</title></svg>
        <p>a <b>word</b></p><section id="b">x</section></section></article></main>"""
    expected = '<main role="main"><section id="a">One &amp; two a word<section id="b">x</section></section></main>'
    assert book_assets.excerpt(page) == expected


def named(page):
    """The hooks of a page of the book by name, each with the list of its arguments."""
    found = {}
    for name, argument in re.findall(r"\{\{ (\w+) (\S+) \}\}", (ROOT / "book" / page).read_text()):
        found.setdefault(name, []).append(argument)
    return found


def test_every_finding_has_its_verdict_its_numbers_and_a_command_that_exists(app, judged):
    hooks = named("what-is-new.md")
    assert len(hooks["evidence"]) >= 6 and set(hooks["evidence"]) == set(hooks["verdict"])
    for id in hooks["evidence"]:
        shown = read(app, f"{{{{ evidence {id} }}}}")
        paper, claim = papers.claim(id)
        tests = getattr(claim.evidence, "tests", ())
        for unit in ("seeds", "methods"):
            assert shown.count(f"| 0.5 (0.25 to 0.75) | 3 {unit} |") == sum(test.unit == unit for test in tests)
        assert f"`sslbook verdicts {id}`" in shown
        figure = getattr(claim.evidence, "figure", None)
        retrain = re.search(r"`pages\.Page\('(\w+)', '(\w+)', seeds=\[(.+?)\]\)\.measured\('(\S+)'\)`", shown)
        assert bool(retrain) == (figure is not None)
        if retrain:
            seeds = set(map(int, retrain[3].split(", ")))
            assert retrain.groups()[::3] == (paper.name, id) and retrain[2] == figure and len(seeds) == 3
            planned = {config.seed for of_paper in paper.plans for config, _ in paper.plan(of_paper)}
            assert not seeds & planned


def test_a_finding_without_runs_says_so(app, monkeypatch):
    paper, claim = papers.claim("fig1-collapse")
    monkeypatch.setattr(book_pages, "judged", lambda: {paper.name: [ledger.Verdict(claim, ledger.UNDECIDED)]})
    monkeypatch.setattr(book_pages, "scale", lambda: "paper")
    monkeypatch.setattr(papers.Paper, "find", lambda self, planned: [])
    shown = read(app, "{{ evidence fig1-collapse }}")
    assert f"; of {len(paper.plan('main', 'paper'))} declared runs 0 are there." in shown
    assert "*Scale:* profile paper." in shown


def test_the_explorer_of_training_is_alive_on_a_page_that_is_no_notebook(app):
    shown = read(app, "before\n\n{{ training main }}\n\nafter")
    scripts = re.findall(
        r'^<script type="application/vnd.jupyter.widget-(\w+)\+json">(.+)</script>$', shown, re.MULTILINE
    )
    parts = {kind: json.loads(text) for kind, text in scripts}
    state = parts["state"]["state"][parts["view"]["model_id"]]
    (data,) = state["buffers"]
    assert state["state"]["epoch"] == papers.paper("geometry").plan("main")[0].config.epochs
    assert "export default explorer" in state["state"]["_esm"] and len(data["data"]) > 10_000
    assert shown.count('<figure class="sslbook" id="training">') == 1 and "\n\n" not in shown[8:-8]


def test_an_explorer_whose_runs_are_not_there_is_a_warning(app, monkeypatch):
    warned = []
    monkeypatch.setattr(book_pages.LOGGER, "warning", lambda text, *arguments, **where: warned.append(text % arguments))
    monkeypatch.setattr(papers.Paper, "find", lambda self, planned: [])
    assert read(app, "{{ training main }}") == ""
    assert warned == [f"0 of {len(papers.paper('geometry').plan())} runs behind main are there"]
