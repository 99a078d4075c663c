"""What the pages of the book are made of besides their text.

- A page under `notebooks/` is read from its executed copy, so that buttons lead to the clean source.
- The line `{{ executed notebooks }}` becomes the table of executed copies.
- The line `{{ verdicts }}` becomes the table of claims, decided by the finished runs of the profile.
- The line `{{ functions of sslbook.x }}` becomes the documentation of that module, its docstrings read as Markdown.
- `{{ repository }}` becomes the address of the repository in `_config.yml`.
"""

import importlib
import inspect
import json
import os
import pkgutil
import re
import sys
from pathlib import Path

from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
TABLE = "{{ executed notebooks }}"
VERDICTS = "{{ verdicts }}"
MODULE = re.compile(r"^\{\{ functions of (sslbook[\w.]*) \}\}$", re.MULTILINE)


def set_folder(app, config):
    """The executed copies: `$SSLBOOK_EXECUTED` (`_build/executed`) / `$SSLBOOK_PROFILE` (`laptop`)."""
    folder = os.environ.get("SSLBOOK_EXECUTED") or "_build/executed"
    sys.path.insert(0, str(app.srcdir))  # the library documented is that of this checkout
    config.executed = str(Path(app.srcdir, folder, profile()))


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
            notebook["cells"].append({"cell_type": "markdown", "id": "cost", "metadata": {}, "source": cost(notebook)})
            source[0] = json.dumps(notebook)
        return
    text = source[0].replace("{{ repository }}", app.config.html_theme_options.get("repository_url", ""))
    if TABLE in text:
        text = text.replace(TABLE, table(app))
    if VERDICTS in text:
        text = text.replace(VERDICTS, verdicts())
    source[0] = MODULE.sub(lambda found: document(app, found[1]), text)


def executed(app, docname):
    """The executed copy of a page as a dictionary, or None with a warning if there is none."""
    path = Path(app.config.executed, f"{docname}.ipynb")
    app.env.note_dependency(str(path))
    if not path.is_file():
        LOGGER.warning("%s has no executed copy %s", docname, path, location=docname)
        return None
    return json.loads(path.read_text("utf-8"))


def cost(notebook):
    """The closing line of a notebook's page: what it took to make it."""
    facts = notebook["metadata"].get("sslbook")
    if facts is None:
        return "```{admonition} This page\nExecuted by hand: nothing is known of the machine.\n```"
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    return (
        "```{admonition} This page\n:class: note\n"
        f"took {minutes(facts)} with profile `{facts['profile']}` on {facts['hardware']}, at commit "
        f"`{facts['commit']}`, on {facts['date']}, with {versions}.\n```"
    )


def minutes(facts):
    return f"{60 * facts['minutes']:.0f} s" if facts["minutes"] < 2 else f"{facts['minutes']:.0f} min"


def table(app):
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
        machines.setdefault((facts["hardware"], facts["date"]), []).append(f"[](/{docname})")
        rows.append(
            f"| [](/{docname}) | {facts['profile']} | {facts.get('data', '')} | {seeds} | {minutes(facts)} "
            f"| `{facts['commit']}` | {facts.get('result', 'ran to its end')} |"
        )
    lines = [f"- {hardware}, {date}: {', '.join(pages)}." for (hardware, date), pages in machines.items()]
    return "\n".join(rows) + "\n\nHardware and day:\n\n" + "\n".join(lines)


def verdicts():
    """Two tables: each claim with its verdict, and the tests behind the verdicts."""
    claims = importlib.import_module("sslbook.claims")
    judged = claims.verdicts(profile().split("-")[0])
    rows = ["| Claim | Where | Verdict |", "|---|---|---|"]
    rows += [f"| {plain(v.claim.says)} | {v.claim.where} | **{v.status}** |" for v in judged]
    tests = ["| Where | Test | Mean | 95 % interval | Must exceed | Seeds |", "|---|---|---|---|---|---|"]
    for verdict in judged:
        for o in verdict.outcomes:
            interval = f"{o.low:.3g} to {o.high:.3g}"
            tests.append(
                f"| {verdict.claim.where} | {plain(o.test.says)} | {o.mean:.3g} | {interval} | {o.test.threshold:g} "
                f"| {o.seeds} |"
            )
        if verdict.violation is not None:
            size = f"{verdict.violation:.3g}"
            tests.append(f"| {verdict.claim.where} | violation by a counter-example | {size} | | | |")
    return "\n".join(rows) + "\n\n## The tests behind the verdicts\n\n" + "\n".join(tests)


def plain(text):
    """Text that Markdown leaves as it is in a table."""
    return re.sub(r"([|*_<\[])", r"\\\1", text)


def document(app, name):
    """The public functions and classes of a module (and of a package's modules) as MyST directives."""
    module = importlib.import_module(name)
    parts = [inspect.getdoc(module) or ""]
    app.env.note_dependency(module.__file__)
    for part in pkgutil.iter_modules(getattr(module, "__path__", [])):
        app.env.note_dependency(importlib.import_module(f"{name}.{part.name}").__file__)
    for key, thing in vars(module).items():
        owned = getattr(thing, "__module__", "").startswith(name)
        if owned and not key.startswith("_") and (inspect.isfunction(thing) or inspect.isclass(thing)):
            parts.append(entry(thing, f"{name}.{key}"))
    return re.sub(r"\b(sslbook\.\w+)\.\w+\.([A-Z]\w*)", public, "\n\n".join(parts))


def public(found):
    """The public name of a class that is defined in a module of a package and offered by the package."""
    package, name = found.groups()
    return f"{package}.{name}" if hasattr(importlib.import_module(package), name) else found[0]


def entry(thing, name):
    """One function, or one class with its documented public methods."""
    if inspect.isfunction(thing):
        return directive("function", f"{name}{inspect.signature(thing)}", inspect.getdoc(thing) or "")
    text = [(thing.__doc__ and inspect.getdoc(thing)) or ""]
    for key, member in vars(thing).items():
        method = getattr(member, "__func__", member)
        if not key.startswith("_") and inspect.isfunction(method) and method.__doc__:
            text.append(directive("method", f"{key}{without_self(method)}", inspect.getdoc(method)))
    signature = "" if issubclass(thing, Exception) else without_return(inspect.signature(thing))
    return directive("class", f"{name}{signature}", "\n\n".join(text), fence="::::::")


def without_return(signature):
    return signature.replace(return_annotation=inspect.Signature.empty)


def without_self(method):
    signature = inspect.signature(method)
    return signature.replace(parameters=[p for p in signature.parameters.values() if p.name not in ("self", "cls")])


def directive(kind, signature, text, fence=":::::"):
    return f"{fence}{{py:{kind}}} {signature}\n{text}\n{fence}"


def setup(app):
    app.add_config_value("executed", "", "env")
    app.connect("config-inited", set_folder)
    app.connect("source-read", read_page)
    app.connect("env-get-outdated", lambda app, env, added, changed, removed: ["book/verdicts"])
    return {"parallel_read_safe": True, "parallel_write_safe": True}
