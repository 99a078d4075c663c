"""The batch: one job for each training run, one for each notebook, one for the book.

    snakemake --cores 2 book                            the shipped records, live experiments, the book
    snakemake --cores 2 runs --config profile=laptop    every run of a profile that the book shows
    snakemake --cores 2 sweep                           the runs that go beyond the papers
    snakemake --cores 2 book --config profile=laptop dataset=shapes
    snakemake --profile profiles/slurm runs --config profile=paper ship=yes       on a SLURM cluster

With `ship=yes` each finished run leaves its record in book/records.

The book of the profile `laptop` is compiled to _build/html, any other to _build/<profile>[-<dataset>]/_build/html.

Finished runs and shipped records are never made again. A run's directory is its own; two jobs cannot train the same
run, and a GPU is locked by the job that uses it. A job that fails, is killed or comes to its time limit (the resource
`runtime` of the rule `train`, in minutes) is started again and goes on from the run's last checkpoint.
"""

import os
import shlex
import sys
from pathlib import Path

from sslbook import papers, runs

PYTHON = shlex.quote(sys.executable)
# Through the interpreter: the first line of a script names the place where it was installed.
JUPYTER_BOOK = shlex.join([sys.executable, str(Path(sys.executable).with_name("jupyter-book"))])
PROFILE = config.get("profile", "laptop")
DATASET = config.get("dataset")
try:
    papers.check(PROFILE, DATASET)
except ValueError as error:
    sys.exit(str(error))
VARIANT = f"{PROFILE}-{DATASET}" if DATASET else PROFILE
SITE = "" if VARIANT == "laptop" else f"_build/{VARIANT}/"

NOTEBOOKS = sorted(str(path.with_suffix("")) for path in Path("notebooks").rglob("*.ipynb") if "checkpoint" not in str(path))
OPTIONS, FINISHED = {}, {}


def finished(name, figures):
    """What says that the runs of these figures of a paper are finished: a run's own history, or the note of a job.

    No output of a job lies in a run's directory: Snakemake deletes the outputs of failed jobs.
    """
    for figure in figures:
        for c, _ in papers.paper(name).plan(figure, PROFILE, DATASET):
            if c.id not in FINISHED:
                try:
                    run, note = runs.find(c), Path("_build/finished", c.id)
                except ValueError as error:
                    sys.exit(str(error))
                if run is None:
                    note.unlink(missing_ok=True)  # of a run that was deleted since
                OPTIONS[c.id] = f"--paper {name} --figure {figure}"
                FINISHED[c.id] = os.path.relpath(run.path / "history.csv") if run else str(note)
            yield FINISHED[c.id]


SHOWN = {name: list(dict.fromkeys(finished(name, papers.paper(name).shown))) for name in papers.names()}
SWEEP = [path for name in papers.names() for path in finished(name, papers.paper(name).sweep)]


def limit(wildcards, resources):
    """The time limit of a run: nine tenths of its job's time, the rest is for starting and for measuring."""
    return f"--time-limit {54 * resources.runtime}" if "runtime" in resources.keys() else ""


LIBRARY = sorted(str(path) for path in Path("sslbook").rglob("*") if path.suffix in {".py", ".js", ".css"})


rule book:
    input:
        f"{SITE}_build/html/index.html",


rule runs:
    input:
        list(SHOWN.values()),


rule sweep:
    input:
        SWEEP,


rule train:
    output:
        touch("_build/finished/{id}"),
    params:
        options=lambda wildcards: OPTIONS[wildcards.id],
        dataset=f"--dataset {DATASET}" if DATASET else "",
        limit=limit,
        ship="--ship" if config.get("ship") else "",
    threads: 1
    retries: 0 if workflow.remote_exec else 2  # a job on a cluster is submitted again instead, with all its time
    shell:
        "OMP_NUM_THREADS={threads} {PYTHON} -m sslbook run --profile {PROFILE} {params.options}"
        " {params.dataset} --id {wildcards.id} {params.limit} {params.ship}"


rule notebook:
    input:
        "{path}.ipynb",
        LIBRARY,
        lambda wildcards: SHOWN[Path(wildcards.path).parts[1].replace("-", "_")],
    output:
        f"_build/executed/{VARIANT}/{{path}}.ipynb",
    params:
        dataset=f"-p dataset {DATASET}" if DATASET else "",
    wildcard_constraints:
        path="notebooks/.*",
    shell:
        "OMP_NUM_THREADS=1 {PYTHON} -m sslbook.notebooks.command {wildcards.path}.ipynb --profile {PROFILE} {params.dataset}"
        " --output {output}"


rule compile:
    input:
        [f"_build/executed/{VARIANT}/{path}.ipynb" for path in NOTEBOOKS],
        "_config.yml",
        "_toc.yml",
        "benchmarks/results.md",
        [str(path) for path in Path("book").rglob("*") if path.is_file() and not {"records", "__pycache__"} & set(path.parts)],
    output:
        f"{SITE}_build/html/index.html",
    shell:
        "SSLBOOK_PROFILE={VARIANT} {JUPYTER_BOOK} build . --path-output ./{SITE} -q -W -n --keep-going"
        " && echo 'The book is compiled: open {output}'"
