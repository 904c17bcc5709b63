"""The commands of ``anytime``; each loads what it needs when it is called."""

from typing import Annotated

import typer

from service import __version__
from service.cli.bench import BENCH_EXAMPLES, bench
from service.cli.canary import CANARY_EXAMPLES, canary
from service.cli.classify import CLASSIFY_EXAMPLES, classify
from service.cli.info import INFO_EXAMPLES, info
from service.cli.keys import SIGN_EXAMPLES, keys, sign
from service.cli.serve import SERVE_EXAMPLES, serve
from service.cli.training import add_training

EXAMPLES = """\
Examples:

\b
  anytime serve                                    the bundled network, on http://127.0.0.1:8000
  anytime train --recipe tiny --out runs/digits    a network of one's own
  anytime COMMAND --help                           what a command takes, with examples

\b
Exit codes:
  0    done
  1    it failed; the last line says why
  2    called in a way that makes no sense, or a setting has a value that it cannot take
  130  stopped by Ctrl-C
"""

app = typer.Typer(
    help="The most accurate answer that fits in the deadline: serve it, ask it, measure it, train it.",
    epilog=EXAMPLES,
    rich_markup_mode=None,  # examples keep their lines, and errors take one
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"anytime {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Say the version."),
    ] = False,
) -> None:
    """Take the options that come before a command."""


app.command("serve", epilog=SERVE_EXAMPLES)(serve)
app.command("classify", epilog=CLASSIFY_EXAMPLES)(classify)
app.command("info", epilog=INFO_EXAMPLES)(info)
app.command("bench", epilog=BENCH_EXAMPLES)(bench)
app.command("canary", epilog=CANARY_EXAMPLES)(canary)
app.command("sign", epilog=SIGN_EXAMPLES)(sign)
app.add_typer(keys, name="keys")
add_training(app)
