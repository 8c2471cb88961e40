"""All of a profile in this process: what `ascood run` makes by Snakemake, for tests that need its files and not its jobs."""

from ascood.study.cli import write_pages
from ascood.study.collect import collect
from ascood.study.figures import FIGURES, report_figure
from ascood.study.page import ALL_TABLES, all_tables_of
from ascood.study.premises import has_synthesis, measure_premises
from ascood.study.profiles import load_profile
from ascood.study.runs import evaluate_run, is_evaluated, train_run


def make_all(profile: str, results, figures):
    "Runs that are not there yet, tables, figures and the page."
    plan = load_profile(profile)
    for run in plan.runs:
        train_run(run, results, progress=False)
        if not is_evaluated(run, results):
            evaluate_run(run, results)
    collect(plan, results)
    if has_synthesis(plan):
        measure_premises(plan, results)
    for table in all_tables_of(plan):
        ALL_TABLES[table](plan, results)
    for figure in FIGURES:
        report_figure(figure, plan, results, figures)
    write_pages(plan, results, figures)
