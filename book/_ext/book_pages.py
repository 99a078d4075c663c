"""What the pages of the book are made of besides their text.

A page under `notebooks/` is read from its executed copy, so that buttons lead to the clean source, and the answers kept
there stand in the place of the `{eval}` roles in its text. Elsewhere

- `{{ executed notebooks }}` becomes the table of executed copies,
- `{{ figure notebooks/a/b#name }}` the figure that `plotting.show` displayed under that name in an executed copy,
- `{{ scoreboard }}` the number of claims by verdict, decided by the finished runs of the profile, statements of ours
  apart; of one paper with its name, as in `{{ scoreboard geometry }}`,
- `{{ verdicts }}` the tables of claims and of the tests and runs that decide them, and what chance alone would do,
- `{{ verdict id }}` a claim and its verdict,
- `{{ evidence id }}` what was measured for a claim, at what scale, and the commands that could refute it,
- `{{ training figure }}` the explorer of the runs behind a figure of the geometry paper, epoch by epoch,
- `{{ functions of sslbook.x }}` the documentation of that module, its docstrings read as Markdown; `papers` for x gives
  that of the modules of all papers,
- `{{ summary of sslbook.x }}` the first line of its docstring,
- `{{ repository }}` the address of the repository in `_config.yml`.
"""

import ast
import functools
import html
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import sys
from collections import Counter
from pathlib import Path

from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
MARKS = {
    "reproduced": ("✔", "success"),
    "partly": ("◐", "info"),
    "mixed": ("±", "info"),
    "not reproduced": ("✘", "danger"),
    "false as stated": ("≠", "warning"),
    "not decided": ("?", "muted"),
    "not testable here": ("–", "muted"),
}
"""Of each verdict: a mark, which needs no colour, and the colour of its frame."""


def keep_together(app, pagename, templatename, context, doctree):
    """No line breaks between a formula in the text and the mark before or behind it."""
    formula, after = r'<span class="math[^>]*>[^<]*</span>', "[.,;:!?)”’]"
    pattern = rf"[(“]{formula}{after}*|{formula}{after}+"
    context["body"] = re.sub(pattern, r'<span class="with-math">\g<0></span>', context.get("body", ""))


def set_folder(app, config):
    """The executed copies: `$SSLBOOK_EXECUTED` (`_build/executed`) / `$SSLBOOK_PROFILE` (`laptop`)."""
    sys.path.insert(0, str(app.srcdir))  # the library documented is that of this checkout
    folder = os.environ.get("SSLBOOK_EXECUTED") or Path(app.srcdir, "_build/executed")
    config.executed = str(library("files").absolute(folder) / profile())


def profile():
    return os.environ.get("SSLBOOK_PROFILE") or "laptop"


def read_page(app, docname, source):
    """Replace a page's source before it is parsed."""
    if docname.startswith("notebooks/"):
        notebook = executed(app, docname)
        if notebook is not None:
            for cell in notebook["cells"]:
                if "injected-parameters" in cell["metadata"].get("tags", []):
                    cell["metadata"]["tags"].append("remove-cell")
                for output in cell.get("outputs", []):
                    polish(output)
                if cell["cell_type"] == "markdown":
                    cell["source"] = answered(docname, cell)
            notebook["cells"].append({"cell_type": "markdown", "id": "cost", "metadata": {}, "source": cost(notebook)})
            source[0] = json.dumps(notebook)
        return
    source[0] = HOOK.sub(lambda found: HOOKS[found[1]](app, *found.groups()[1:]), source[0])


def polish(output):
    """No empty heads in the tables of pandas."""
    data = output.get("data", {})
    if "text/html" in data:
        data["text/html"] = "".join(data["text/html"]).replace("<th></th>", "<td></td>")


def true_minus(text):
    return re.sub(r"(?<!\w)-(?=\d)", "−", text)


def answered(docname, cell):
    """The text of a Markdown cell with the kernel's answers, which are read as Markdown too, instead of its roles."""
    text = "".join(cell["source"])
    stored = {answer["expression"]: answer["result"] for answer in cell["metadata"].get("user_expressions", [])}
    for place, expression in reversed(library("notebooks").roles(text)):
        before, role, after = text[: place.start], text[place], text[place.stop :]
        answer = stored.get(expression, {}).get("data", {}).get("text/plain")
        if answer is None:
            LOGGER.warning("the executed copy of %s has no answer to %s", docname, role, location=docname)
        starts_a_list = re.search(r"^\s*$", before.rpartition("\n")[2]) and re.match(r"[.)]\s", after)
        text = before + shown(answer or "") + ("\\" if starts_a_list else "") + after
    return text


def shown(answer):
    """What the kernel prints of a value: a string without its quotes, a number of numpy as one of Python."""
    answer = re.sub(r"^np\.\w+\(([^()]*)\)$", r"\1", "".join(answer))
    try:
        value = ast.literal_eval(answer)
    except (ValueError, SyntaxError):
        value = None
    return true_minus(value if isinstance(value, str) else answer)


def executed(app, docname):
    """The executed copy of a page as a dictionary, or None with a warning if there is none."""
    path = Path(app.config.executed, f"{docname}.ipynb")
    app.env.note_dependency(str(path))
    if not path.is_file():
        LOGGER.warning("%s has no executed copy %s", docname, path, location=docname)
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError:
        LOGGER.warning("%s is torn or altered: delete it, and it is executed again", path, location=docname)


def cost(notebook):
    """The closing line of a notebook's page: what it took to make it."""
    facts = notebook["metadata"].get("sslbook", {})
    if "hardware" not in facts:
        return "```{admonition} This page\nNothing is known of the machine that executed it.\n```"
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    return (
        "```{admonition} This page\n:class: note\n"
        f"took {minutes(facts)} with profile `{facts['profile']}` on {facts['hardware']}, at commit "
        f"`{facts['commit']}`, on {facts['date']}, with {versions}.\n```"
    )


def minutes(facts):
    return f"{60 * facts['minutes']:.0f} s" if facts["minutes"] < 2 else f"{facts['minutes']:.0f} min"


def table(app, _):
    """The executed copies, one row per notebook."""
    rows = ["| Notebook | Profile | Data | Seeds | Time | Commit | Result |", "|---|---|---|---|---|---|---|"]
    machines = {}
    for docname in sorted(name for name in app.project.docnames if name.startswith("notebooks/")):
        notebook = executed(app, docname)
        facts = (notebook or {}).get("metadata", {}).get("sslbook")
        if facts is None:
            rows.append(f"| [](/{docname}) | | | | | | not executed |")
            continue
        seeds = ", ".join(map(str, facts.get("seeds", [])))
        machines.setdefault((facts.get("hardware", "unknown"), facts["date"]), []).append(f"[](/{docname})")
        rows.append(
            f"| [](/{docname}) | {facts['profile']} | {facts.get('data', '')} | {seeds} | {minutes(facts)} "
            f"| `{facts.get('commit', 'unknown')}` | {facts.get('result', 'ran to its end')} |"
        )
    lines = [f"- {hardware}, {date}: {', '.join(pages)}." for (hardware, date), pages in machines.items()]
    return "\n".join(rows) + "\n\nHardware and day:\n\n" + "\n".join(lines)


def figure(app, address):
    """A named figure of an executed copy, with a link to its page below."""
    docname, name = address.split("#")
    notebook = executed(app, docname) or {"cells": []}
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    pages = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
    found = next((page for page in pages if page.startswith(f'<figure class="sslbook" id="{name}">')), None)
    if found is None:
        LOGGER.warning("%s shows no figure named %s", docname, name, location=app.env.docname)
        return ""
    heading = html.escape(re.search(r"^# (.+)", "".join(notebook["cells"][0]["source"]))[1])
    target = "../" * app.env.docname.count("/") + f"{docname}.html#{name}"
    link = f'<div class="made-by">Computed in <a href="{target}">{heading}</a></div>'
    return found.replace("</figcaption>", f"{link}</figcaption>")


def answer(app, address):
    """What an executed copy answered to an expression of its text."""
    docname, expression = address.split("#")
    notebook = executed(app, docname) or {"cells": []}
    answers = (one for cell in notebook["cells"] for one in cell["metadata"].get("user_expressions", []))
    found = next((one["result"] for one in answers if one["expression"] == expression), {})
    if "data" not in found:
        LOGGER.warning("%s has no answer to %s", docname, expression, location=app.env.docname)
        return ""
    return shown(found["data"]["text/plain"])


@functools.cache
def judged():
    """The verdicts by paper."""
    return library("papers").verdicts(scale())


def library(name):
    """A module of the library, which is on the path once the configuration is read."""
    return importlib.import_module(f"sslbook.{name}")


def scale():
    return profile().split("-")[0]


def badge(status, text):
    mark, colour = MARKS[status]
    mark = f'<span aria-hidden="true">{mark}</span>'
    return f'<span class="sd-badge sd-outline-{colour}">{mark} {text}</span>'


def verdict(app, id):
    """A claim in our words, and its verdict."""
    library("papers").claim(id)  # which names those spelt alike
    v = next(v for found in judged().values() for v in found if v.claim.id == id)
    mine = "*Ours:* " if v.claim.ours else ""
    return f"{mine}{plain(v.claim.says)} {badge(v.status, v.status)} {v.scale}".strip()


def evidence(app, id):
    """What the tests of a claim found, over how many seeds, at what scale, and how to find it otherwise."""
    name, v = next((name, v) for name, found in judged().items() for v in found if v.claim.id == id)
    papers, rows = library("papers"), library("ledger").rows([v])
    page, again = f"notebooks/{folder(name)}/{v.claim.page}", f"`sslbook verdicts {id}`"
    found = f"*Measured:* {': '.join(filter(None, (plain(rows[0].test), rows[0].value())))}."
    about = f"*Scale:* {v.scale or 'mathematics'}, no training; {again} computes it again."
    figure = getattr(v.claim.evidence, "figure", None)
    if figure is not None:
        planned = papers.paper(name).plan(figure, scale())
        there = papers.paper(name).find(planned)
        found = f"*Measured:* nothing that decides; of {len(planned)} declared runs {len(there)} are there."
        at = plain(papers.facts(there, scale()).scale if there else f"profile {scale()}")
        fresh = f"pages.Page('{name}', '{figure}', seeds=[101, 102, 103]).measured('{id}')"  # seeds that no plan names
        again = f"{again} measures these runs again. In Python `{fresh}` trains fresh seeds and applies the rule"
        if there:
            one = sum(run.provenance["seconds"] for run, _ in there) / len(there)
            runs = 3 * len(planned) / len({config.seed for config, _ in planned})
            again += f", about {runs * one / 60:.0f} min of a core like ours"
        about = (
            f"*Scale:* {at}. *To refute it:* {again}. "
            "The verdict does not change by it: it counts the declared runs alone."
        )
    if v.outcomes:
        lines = [f"| {plain(row.test)} | {true_minus(row.value())} | {row.seeds} {row.unit} |" for row in rows]
        found = "\n".join(["| Measured | Mean (95 % interval) | Over |", "|---|---|---|", *lines, ""])
    return f"{found}\n{about} *Page:* {link(app, page, '') or v.claim.page}."


def training(app, figure):
    """The explorer `TrainingScrubbed` with the runs behind a figure, at their end."""
    papers, geometry = library("papers"), library("papers").paper("geometry")
    planned = geometry.plan(figure, scale())
    found = geometry.find(planned)
    if len(found) < len(planned):
        LOGGER.warning("%s of %s runs behind %s are there", len(found), len(planned), figure, location=app.env.docname)
        return ""
    explorer = library("widgets").TrainingScrubbed(found, epoch=found[0].run.config.epochs)
    return explorer.html(
        caption="Left (above, where the page is narrow): singular values of the projector $W$ or of the encoder's "
        "features, or distances to the nearest negative, at one kept epoch, mean over seeds. Right: a measure "
        "through training, mean ± one standard deviation over seeds.",
        alt="Two panels with a line for small, moderate and large augmentations in each: singular values of the "
        "projector at the end of training, and its effective rank through training.",
        made_by=papers.facts(found, scale()).line,
        name="training",
    )


def scoreboard(app, only):
    """The number of claims by verdict, an item for each paper, or for one; those of ours are counted apart."""
    items = []
    for paper, found in judged().items():
        theirs, ours = ([v for v in found if v.claim.ours is mine] for mine in (False, True))
        score = f"{len(theirs)} claims: {badges(theirs)}" + f"; {len(ours)} of ours: {badges(ours)}" * bool(ours)
        if only in (None, paper):
            items.append(f"- {link(app, f'book/{folder(paper)}', title(paper))}, {score}")
    return "\n".join(items)


def badges(found):
    """How many of these verdicts are of each kind."""
    counts = Counter(v.status for v in found)
    return " ".join(badge(status, f"{counts[status]} {status}") for status in MARKS if counts[status])


def folder(paper):
    return paper.replace("_", "-")


def title(paper):
    return library("papers").paper(paper).title


def link(app, docname, text):
    """`text`, as a link where the page is part of the book."""
    return f"[{text}](/{docname})" if docname in app.project.docnames else text


def verdicts(app, _):
    """For each paper the claims with their verdicts, the tests behind them, and the runs behind these."""
    tests = "### The tests behind the verdicts"
    parts = (
        (
            f"## {title(paper)}",
            chance(found),
            claim_table(app, paper, found),
            tests,
            test_table(found),
            run_list(paper, found),
        )
        for paper, found in judged().items()
    )
    return "\n\n".join(map("\n\n".join, parts))


def chance(found):
    """How many of a paper's tests would hold by chance, and what Holm's correction leaves."""
    ledger = library("ledger")
    outcomes = [outcome for v in found for outcome in v.outcomes]
    held = [outcome.state for outcome in outcomes].count("holds")
    left = sum(ledger.holm(outcome.p for outcome in outcomes) < ledger.LEVEL)
    kept = [entry == "stands" for entry in after_holm(found) if entry]
    return (
        f"Of {len(outcomes)} tests {held} hold; if no test had anything to find, "
        f"{ledger.LEVEL * len(outcomes):.1f} would by chance. After Holm's correction over these tests {left} still "
        f"hold, and {sum(kept)} of {len(kept)} verdicts that tests decide stand."
    )


def after_holm(found):
    """What Holm's correction leaves of each verdict: "stands", another status, or "" where no test decided anything."""
    ledger = library("ledger")
    changed = ["stands" if new.status == v.status else new.status for v, new in zip(found, ledger.corrected(found))]
    return [said if v.outcomes and v.status != ledger.UNDECIDED else "" for v, said in zip(found, changed)]


def claim_table(app, paper, found):
    ledger = library("ledger")
    lines = ["| Claim | Verdict | Value | Runs | After Holm |", "|---|---|---|---|---|"]
    for v, after in zip(found, after_holm(found)):
        first = ledger.rows([v])[0]
        where = link(app, f"notebooks/{folder(paper)}/{v.claim.page}", v.claim.where)
        value = f"{true_minus(first.value())}; must exceed {true_minus(first.limit())}" if first.value() else ""
        says = f"{plain(v.claim.says)} ({where}) `{v.claim.id}`"
        lines.append(
            f"| {says} | {badge(v.status, f'<strong>{v.status}</strong>')} {v.scale}"
            f"{f'<br><small>{v.claim.age}</small>' if v.claim.age else ''} "
            f"| {value} | {len(v.runs) or ''} | {after} |"
        )
    return "\n".join(lines)


def test_table(found):
    lines = [
        "| Claim | Test | Mean (95 % interval) | Must exceed | Over | State | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in library("ledger").rows(found):
        value, limit = true_minus(row.value()), true_minus(row.limit())
        about = plain(row.test if row.value() else f"none: {row.test}")
        p = "" if row.p is None else f"{row.p:.2g}"
        over = f"{row.seeds} {row.unit}" if row.seeds else ""
        lines.append(f"| `{row.claim.id}` | {about} | {value} | {limit} | {over} | {row.state or ''} | {p} |")
    return "\n".join(lines)


def run_list(paper, found):
    """The runs behind the verdicts on a paper, figure by figure: what made them, and their identities."""
    papers = library("papers")
    figures = dict.fromkeys(v.claim.evidence.figure for v in found if v.runs)
    if not figures:
        return "No runs at this scale decide a claim."
    parts = []
    for figure in figures:
        runs = papers.paper(paper).find(papers.paper(paper).plan(figure, scale()))
        lines = [f"- `{run.config.id}` {plain(papers.describe(run.config, labels))}" for run, labels in runs]
        about = "" if figure == "main" else f" (`{figure}`)"
        head = f":::{{dropdown}} {len(runs)} runs behind these verdicts{about}"
        parts.append(f"{head}\n{papers.facts(runs, scale()).line}\n\n" + "\n".join(lines) + "\n:::")
    return "\n\n".join(parts)


def plain(text):
    """Text that Markdown leaves as it is in a table."""
    return re.sub(r"([|*_<\[])", r"\\\1", text)


def document(app, name):
    """The public functions and classes of a module (and of a package's modules) as MyST directives.

    Of "papers", those of every paper's modules, each under a heading.
    """
    if name == "papers":
        known = [
            f"sslbook.papers.{paper}.{part}"
            for paper in library(name).names()
            for part in ("plan", "measure", "theory")
        ]
        there = [module for module in known if importlib.util.find_spec(module)]
        return "\n\n".join(f"## `{module}`\n\n{document(app, module)}" for module in there)
    module = importlib.import_module(name)
    parts = [inspect.getdoc(module) or ""]
    app.env.note_dependency(module.__file__)
    for part in pkgutil.iter_modules(getattr(module, "__path__", [])):
        app.env.note_dependency(importlib.import_module(f"{name}.{part.name}").__file__)
    for key, thing in vars(module).items():
        owned = getattr(thing, "__module__", "").startswith(name)
        if owned and not key.startswith("_") and (inspect.isfunction(thing) or inspect.isclass(thing)):
            parts.append(entry(thing, f"{name}.{key}", whereabouts(app, thing, name, key)))
    return re.sub(r"\b(sslbook\.\w+)\.\w+\.([A-Z]\w*)", public, "\n\n".join(parts))


def public(found):
    """The public name of a class that is defined in a module of a package and offered by the package."""
    package, name = found.groups()
    return f"{package}.{name}" if hasattr(importlib.import_module(package), name) else found[0]


def summary(app, name):
    """The first line of a module's docstring."""
    return plain((inspect.getdoc(importlib.import_module(name)) or "").partition("\n")[0])


def whereabouts(app, thing, module, key):
    """Links to the source of a function or class and to the notebooks whose code names it."""
    thing = inspect.unwrap(thing)
    path, line = inspect.getsourcefile(thing), inspect.getsourcelines(thing)[1]
    repository, branch = (app.config.html_theme_options.get(f"repository_{part}", "") for part in ("url", "branch"))
    links = [f"[source]({repository}/blob/{branch}/{Path(path).relative_to(app.srcdir).as_posix()}#L{line})"]
    short = module.rpartition(".")[2]
    used = re.compile(rf"\b{short}\.{key}\b|^from {re.escape(module)} import .*\b{key}\b", re.MULTILINE)
    pages = [page for page, code in codes(str(app.srcdir)).items() if used.search(code)]
    return " · ".join(links + [f"[](/{page})" for page in pages if page in app.project.docnames])


@functools.cache
def codes(root):
    """The code of each notebook, by its name in the book."""
    found = {}
    for path in sorted(Path(root, "notebooks").rglob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        found[path.relative_to(root).with_suffix("").as_posix()] = code
    return found


def described(thing):
    """A docstring as Markdown: its examples, which a test runs, are code."""
    text = inspect.getdoc(thing) or ""
    return re.sub(
        r"(?:^>>>.*\n(?:(?:\.\.\.|[^\n]).*\n)*)", r"```pycon\n\g<0>```\n", f"{text}\n", flags=re.MULTILINE
    ).rstrip()


def entry(thing, name, links):
    """One function, or one class with its documented public methods; below it, `links`."""
    if inspect.isfunction(thing):
        text = f"{described(thing)}\n\n{links}"
        return directive("function", f"{name}{inspect.signature(thing)}", text)
    text = [described(thing) if thing.__doc__ else "", links]
    for key, member in vars(thing).items():
        method = getattr(member, "__func__", member)
        if not key.startswith("_") and inspect.isfunction(method) and method.__doc__:
            text.append(directive("method", f"{key}{without_self(method)}", described(method)))
    signature = "" if issubclass(thing, Exception) else without_return(inspect.signature(thing))
    return directive("class", f"{name}{signature}", "\n\n".join(text), fence="::::::")


def without_return(signature):
    return signature.replace(return_annotation=inspect.Signature.empty)


def without_self(method):
    signature = inspect.signature(method)
    return signature.replace(parameters=[p for p in signature.parameters.values() if p.name not in ("self", "cls")])


def directive(kind, signature, text, fence=":::::"):
    return f"{fence}{{py:{kind}}} {signature}\n{text}\n{fence}"


HOOKS = {
    "executed notebooks": table,
    "figure": figure,
    "answer": answer,
    "scoreboard": scoreboard,
    "verdicts": verdicts,
    "verdict": verdict,
    "evidence": evidence,
    "training": training,
    "functions of": document,
    "summary of": summary,
    "repository": lambda app, _: app.config.html_theme_options.get("repository_url", ""),
}
HOOK = re.compile(rf"\{{\{{ ({'|'.join(HOOKS)})(?: (\S+))? \}}\}}")


def shows_verdicts(app, env, added, changed, removed):
    """The pages that are read anew at each build, because runs may have been finished since."""
    pages = {name: Path(env.doc2path(name)).read_text("utf-8") for name in env.found_docs if name.startswith("book/")}
    return [name for name, text in pages.items() if re.search(r"\{\{ (verdict|scoreboard|evidence|training)", text)]


def setup(app):
    app.add_config_value("executed", "", "env")
    app.connect("config-inited", set_folder)
    app.connect("source-read", read_page)
    app.connect("env-get-outdated", shows_verdicts)
    app.connect("html-page-context", keep_together)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
