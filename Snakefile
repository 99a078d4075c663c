"""The batch: one job for each training run, one for each notebook, one for the book.

    snakemake --cores 2 book                            the shipped records, live experiments, the book
    snakemake --cores 2 runs --config profile=laptop    every main run of a profile
    snakemake --cores 2 book --config profile=laptop dataset=cifar100

Finished runs and shipped records are never made again. A run's directory is its own; two jobs cannot train the same
run, and a GPU is locked by the job that uses it.
"""

import os
from pathlib import Path

from sslbook import papers, runs
from sslbook.papers import geometry

PROFILE = config.get("profile", "laptop")
DATASET = config.get("dataset")
papers.check(PROFILE, DATASET)

NOTEBOOKS = sorted(str(path.with_suffix("")) for path in Path("notebooks").rglob("*.ipynb") if "checkpoint" not in str(path))
CONFIGS = {c.id: c for c in geometry.configs("main", PROFILE, DATASET)}
FOUND = {id: run for id, c in CONFIGS.items() if (run := runs.find(c)) is not None}
RUNS = os.path.relpath(runs.folder())
HISTORIES = [str(FOUND[id].path / "history.csv") if id in FOUND else f"{RUNS}/{id}/history.csv" for id in CONFIGS]
LIBRARY = sorted(str(path) for path in Path("sslbook").rglob("*.py"))


rule book:
    input:
        "_build/html/index.html",


rule runs:
    input:
        HISTORIES,


rule train:
    output:
        f"{RUNS}/{{id}}/history.csv",
    params:
        dataset=f"--dataset {DATASET}" if DATASET else "",
    threads: 1
    retries: 2
    shell:
        "OMP_NUM_THREADS={threads} {sys.executable} -m sslbook run --profile {PROFILE} {params.dataset} --id {wildcards.id}"


rule notebook:
    input:
        "{path}.ipynb",
        LIBRARY,
        HISTORIES,
    output:
        f"_build/executed/{PROFILE}/{{path}}.ipynb",
    params:
        dataset=f"-p dataset {DATASET}" if DATASET else "",
    wildcard_constraints:
        path="notebooks/.*",
    shell:
        "OMP_NUM_THREADS=1 {sys.executable} -m sslbook notebook {wildcards.path}.ipynb --profile {PROFILE} {params.dataset}"


rule compile:
    input:
        [f"_build/executed/{PROFILE}/{path}.ipynb" for path in NOTEBOOKS],
        "_config.yml",
        "_toc.yml",
        [str(path) for path in Path("book").rglob("*") if path.is_file() and "records" not in path.parts],
    output:
        "_build/html/index.html",
    shell:
        "SSLBOOK_PROFILE={PROFILE} {sys.executable} -m jupyter_book build . -W -n --keep-going"
