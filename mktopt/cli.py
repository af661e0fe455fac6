"""The command `mktopt`: clear a market, check its files, look at cases and mechanisms, run the demo.

Results go to stdout, messages to stderr. Exit codes are those of `mktopt.terminal`. Libraries are imported by the
command that needs them, so that `mktopt --help` is quick.
"""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from mktopt.errors import InfeasibleError, MktoptError, UnboundedError, unknown_name
from mktopt.terminal import (
    BAD_INPUT,
    PIPE_CLOSED,
    UNTRUSTED,
    Format,
    Settings,
    emit,
    guarded,
    say,
    say_plainly,
    silence,
    stdout,
)

if TYPE_CHECKING:
    from mktopt.scenario import Scenario

app = typer.Typer(
    name="mktopt",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 1 the market is infeasible or unbounded; 2 bad input; 3 an answer that does not hold.",
)

FormatOption = Annotated[Format, typer.Option("--format", help="How to print: for people, or clean for programs.")]
WIDE = 150  # columns of a terminal on which sources and licences stand beside the cases
# What `clear` declares, for the message about a misspelt one.
CLEAR_OPTIONS = (
    "--orders", "--prosumers", "--mechanism", "--flow", "--solver", "--solver-option", "--seed", "--out", "--format",
    "--table", "--help",
)  # fmt: skip


class Table(enum.StrEnum):
    """The tables of a clearing."""

    prices = "prices"
    dispatch = "dispatch"
    flows = "flows"
    voltages = "voltages"
    constraints = "constraints"
    order_prices = "order_prices"
    price_parts = "price_parts"
    reactive_prices = "reactive_prices"
    relaxation = "relaxation"
    contingencies = "contingencies"
    agents = "agents"
    aggregators = "aggregators"
    trace = "trace"
    trades = "trades"
    payments = "payments"
    groups = "groups"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mktopt {sys.modules['mktopt'].__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (as MKTOPT_DEBUG=1 does).")] = False,
) -> None:
    """Local electricity markets on real grids: declared, cleared, priced and proved."""
    Settings.debug = debug


@app.command()
@guarded
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the tables and pictures.")] = Path("out"),
    quick: Annotated[bool, typer.Option("--quick", help="5 draws of flexible consumers per share, not 60.")] = False,
) -> None:
    """Clear use case 1 of OpenGridGym on the IEEE 34-node feeder; leave tables and pictures in a folder."""
    from mktopt.demo import FEW_SEEDS, SEEDS, run_demo
    from mktopt.report import print_demo, refuse_unwritable

    refuse_unwritable(out)
    # the long text is in summary.md; its headline table follows below
    seeds = FEW_SEEDS if quick else SEEDS
    run_demo(out, seeds=seeds, progress=lambda text: None if text.startswith("# ") else say_plainly(text))
    print_demo(out)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@guarded
def clear(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SCENARIO|CASE",
            help="A scenario.toml or a folder with one; a named case (`mktopt cases`); or a network: a folder of CSV "
            "files, a MATPOWER .m file, a pandapower .json file. More [--NAME VALUE] go to the mechanism.",
            show_default=False,
        ),
    ] = None,
    orders: Annotated[
        Path | None, typer.Option(help="CSV file of orders, instead of the default ones.", show_default=False)
    ] = None,
    prosumers: Annotated[
        Path | None, typer.Option(help="CSV file of prosumers, for mechanisms that take them.", show_default=False)
    ] = None,
    mechanism: Annotated[str | None, typer.Option(help="How the market is cleared.", show_default="surplus")] = None,
    flow: Annotated[
        str | None,
        typer.Option(
            help="How the wires behave, with options as NAME:option=value,option=value.",
            show_default="the mechanism's",
        ),
    ] = None,
    solver: Annotated[str | None, typer.Option(help="Which solver.", show_default="by problem class")] = None,
    solver_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the solver; may be repeated.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="For what is drawn at random.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Save the whole result and pictures in this folder.", show_default=False)
    ] = None,
    format: FormatOption = Format.table,
    table: Annotated[
        Table | None,
        typer.Option(help="Print only this table, in full (CSV: prices if not given).", show_default=False),
    ] = None,
) -> None:
    """Clear a market: dispatch, prices, and the proof that they are right."""
    from mktopt.report import print_clearing, print_no_market, refuse_unwritable, save

    plan = _plan(words or [], orders, prosumers, mechanism, flow, solver, solver_option or [], seed)
    if out is not None:
        refuse_unwritable(out)
    market = plan.load()
    _mention_unused_seed(plan)
    try:
        clearing = plan.clear(market)
    except (InfeasibleError, UnboundedError) as error:
        print_no_market(error, format)
        raise
    if out is not None:
        save(clearing, out)
    print_clearing(clearing, format, table, out, market.origin)
    if not clearing.certificate.ok():
        say(f"the result does not prove itself: {clearing.certificate}", "bold red")
        raise typer.Exit(UNTRUSTED)


def _plan(
    words: list[str],
    orders: Path | None,
    prosumers: Path | None,
    mechanism: str | None,
    flow: str | None,
    solver: str | None,
    solver_options: list[str],
    seed: int | None,
) -> Scenario:
    """The scenario that the words name, with what the command line says instead."""
    from mktopt.mechanisms import mechanism_named
    from mktopt.scenario import find
    from mktopt.words import parse_pairs, parse_words

    targets, options = parse_words(words, CLEAR_OPTIONS)
    if len(targets) != 1:
        given = f"not {len(targets)}: {', '.join(targets)}" if targets else "for example: mktopt clear ieee34"
        raise MktoptError(f"name one scenario or case to clear, {given}")
    plan = find(targets[0])
    plan = plan.replace(
        orders=None if orders is None else orders.absolute(),
        prosumers=None if prosumers is None else prosumers.absolute(),
        mechanism=mechanism,
        flow=flow,
        solver=solver,
        seed=seed,
        options={**plan.options, **options},
        solver_options={**plan.solver_options, **parse_pairs(solver_options, "--solver-option")},
    )
    own = mechanism_named(plan.mechanism).options
    for name in options:
        if name not in own:
            raise unknown_name("option", f"--{name}", [*CLEAR_OPTIONS, *(f"--{option}" for option in own)])
    return plan


def _mention_unused_seed(plan: Scenario) -> None:
    from mktopt.mechanisms import mechanism_named

    if plan.seed is not None and "seed" not in mechanism_named(plan.mechanism).options and ":" not in plan.network:
        say(f"note: mechanism '{plan.mechanism}' draws nothing at random, so the seed is not used")


@app.command()
@guarded
def cases(
    name: Annotated[str | None, typer.Argument(help="One case, to be told all about it.", show_default=False)] = None,
    format: FormatOption = Format.table,
) -> None:
    """List the named cases, or describe one."""
    from mktopt.catalogue import about_case, case_table

    if name is not None:
        facts = about_case(name)
        if format is not Format.table:
            emit(facts.T.set_axis(facts["fact"], axis=1).iloc[1:], name, format)
        for fact, text in facts.itertuples(index=False) if format is Format.table else ():
            stdout().print(f"[bold]{fact:10}[/bold] {escape(text)}", soft_wrap=True)
        return
    frame = case_table()
    if format is Format.table and stdout().width < WIDE:
        frame = frame.drop(columns=["source", "licence"])
        emit(frame, "Named cases (source and licence: `mktopt cases NAME`)", format)
    else:
        emit(frame, "Named cases", format)


@app.command()
@guarded
def mechanisms(format: FormatOption = Format.table) -> None:
    """List mechanisms, flows and solvers."""
    from mktopt.catalogue import flow_table, mechanism_table, solver_table
    from mktopt.terminal import write_json

    tables = {"mechanisms": mechanism_table(), "flows": flow_table(), "solvers": solver_table()}
    if format is Format.json:
        write_json(tables)
    elif format is Format.csv:
        raise MktoptError("three tables do not fit in one CSV file; use --format json")
    else:
        for name, frame in tables.items():
            emit(frame, name.capitalize(), format)
            stdout().print()


@app.command()
@guarded
def check(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Scenarios, networks (a folder, .m, .json), or CSV files of orders.",
            show_default=False,
        ),
    ],
    network: Annotated[
        str | None,
        typer.Option(help="Named case or path that files of orders must fit to.", show_default=False),
    ] = None,
) -> None:
    """Check files and name every fault in them, not only the first."""
    from mktopt.checking import check as findings_of
    from mktopt.scenario import find

    against = None if network is None else find(network).load_network()
    findings = [finding for file in files for finding in findings_of(file, against)]
    console = stdout()
    for finding in findings:
        good = not finding.faults
        verdict = "ok" if good else f"{len(finding.faults)} fault{'s' if len(finding.faults) > 1 else ''}"
        console.print(f"[bold {'green' if good else 'red'}]{verdict}[/]", end="  ")
        what = f": {finding.what}" if good and finding.what else ""
        console.print(f"{finding.path}{what}", markup=False, soft_wrap=True)
        for line in [*map(str, finding.faults), *(f"warning: {text}" for text in finding.warnings)]:
            console.print(f"  - {line}", markup=False, soft_wrap=True)
    if any(finding.faults for finding in findings):
        raise typer.Exit(BAD_INPUT)


def main() -> None:
    """The command `mktopt`, as installed."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a name still shows the rest
    try:
        app(prog_name="mktopt")
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            silence()
            sys.exit(PIPE_CLOSED)
