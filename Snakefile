"""The batch: one job for each training run, one for each notebook, one for the book.

    snakemake --cores 2 book                            the shipped records, live experiments, the book
    snakemake --cores 2 runs --config profile=laptop    every run of a profile that the book shows
    snakemake --cores 2 sweep                           runs beyond the paper, one seed each
    snakemake --cores 2 book --config profile=laptop dataset=shapes

The book of the profile `laptop` is compiled to _build/html, any other to _build/<profile>[-<dataset>]/_build/html.

Finished runs and shipped records are never made again. A run's directory is its own; two jobs cannot train the same
run, and a GPU is locked by the job that uses it.
"""

import os
import shlex
import sys
from pathlib import Path

from sslbook import papers, runs
from sslbook.papers import geometry

PYTHON = shlex.quote(sys.executable)
JUPYTER_BOOK = shlex.quote(str(Path(sys.executable).with_name("jupyter-book")))
PROFILE = config.get("profile", "laptop")
DATASET = config.get("dataset")
try:
    papers.check(PROFILE, DATASET)
except ValueError as error:
    sys.exit(str(error))
VARIANT = f"{PROFILE}-{DATASET}" if DATASET else PROFILE
SITE = "" if VARIANT == "laptop" else f"_build/{VARIANT}/"

NOTEBOOKS = sorted(str(path.with_suffix("")) for path in Path("notebooks").rglob("*.ipynb") if "checkpoint" not in str(path))
CONFIGS = {c.id: (figure, c) for figure in ("knobs", "losses", "fig8", "main") for c in geometry.configs(figure, PROFILE, DATASET)}
FIGURES = {id: figure for id, (figure, _) in CONFIGS.items()}
FOUND = {id: run for id, (_, c) in CONFIGS.items() if (run := runs.find(c)) is not None}


def histories(*figures):
    """What says that the runs of these figures are finished: their own history, or the note of a job that made one.

    No output of a job lies in a run's directory: Snakemake deletes the outputs of failed jobs.
    """
    ids = [id for id, figure in FIGURES.items() if figure in figures]
    return [os.path.relpath(FOUND[id].path / "history.csv") if id in FOUND else f"_build/finished/{id}" for id in ids]


LIBRARY = sorted(str(path) for path in Path("sslbook").rglob("*.py"))


rule book:
    input:
        f"{SITE}_build/html/index.html",


rule runs:
    input:
        histories("main", "fig8"),


rule sweep:
    input:
        histories("knobs", "losses"),


rule train:
    output:
        touch("_build/finished/{id}"),
    params:
        figure=lambda wildcards: FIGURES[wildcards.id],
        dataset=f"--dataset {DATASET}" if DATASET else "",
    threads: 1
    retries: 2
    shell:
        "OMP_NUM_THREADS={threads} {PYTHON} -m sslbook run --profile {PROFILE} --figure {params.figure}"
        " {params.dataset} --id {wildcards.id}"


rule notebook:
    input:
        "{path}.ipynb",
        LIBRARY,
        histories("main", "fig8"),
    output:
        f"_build/executed/{VARIANT}/{{path}}.ipynb",
    params:
        dataset=f"-p dataset {DATASET}" if DATASET else "",
    wildcard_constraints:
        path="notebooks/.*",
    shell:
        "OMP_NUM_THREADS=1 {PYTHON} -m sslbook notebook {wildcards.path}.ipynb --profile {PROFILE} {params.dataset}"
        " --output {output}"


rule compile:
    input:
        [f"_build/executed/{VARIANT}/{path}.ipynb" for path in NOTEBOOKS],
        "_config.yml",
        "_toc.yml",
        [str(path) for path in Path("book").rglob("*") if path.is_file() and "records" not in path.parts],
    output:
        f"{SITE}_build/html/index.html",
    shell:
        "SSLBOOK_PROFILE={VARIANT} {JUPYTER_BOOK} build . --path-output ./{SITE} -q -W -n --keep-going"
        " && echo 'The book is compiled: open {output}'"
