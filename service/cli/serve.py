"""``anytime serve``: the server, with an option for each of its settings."""

import inspect
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic.fields import FieldInfo

from service.cli.exits import MISUSED, fail, importing
from service.settings import Settings, SettingsError, option_name, read_settings, variable_name

SERVE_EXAMPLES = """\
Examples:

\b
  anytime serve                                     the bundled network, on http://127.0.0.1:8000
  anytime serve runs/digits/bundle --port 9000      another one
  ANYTIME_LOG_SAMPLE=1 anytime serve --threads 2    options win over variables, variables over defaults
"""
NEEDED = (
    "fastapi",
    "onnxruntime",
    "prometheus_client",
    "uvicorn",
    "uvloop",
)  # by the processes that it starts
METAVARS: dict[Any, str] = {int: "INTEGER", float: "NUMBER", Path: "PATH"}


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Put an option for each setting in place of a command's ``**given``."""
    *own, _ = inspect.signature(command).parameters.values()
    settings = [_option(name, field) for name, field in Settings.model_fields.items()]
    signature = inspect.Signature([*own, *settings])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in [*own, *settings]}
    return command


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    """Describe the option of a setting. Its value stays text: ``Settings`` alone says what is allowed."""
    choices = [each for each in get_args(field.annotation) if isinstance(each, str)]
    flag = option_name(name)
    kind: Any = str | None
    metavar: str | None = "|".join(choices) or METAVARS.get(field.annotation, "TEXT")
    if field.annotation is bool:
        kind, flag, metavar = bool | None, f"{flag}/--no-{flag[2:]}", None
    option = typer.Option(
        flag,
        metavar=metavar,
        help=f"{field.description} [{variable_name(name)}; default: {field.default}]",
        autocompletion=(lambda: choices) if choices else None,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
    )


@_with_settings
def serve(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE", help="Folder of a bundle, as --bundle-dir.")
    ] = None,
    **given: object,
) -> None:
    """Serve a bundle over HTTP.

    Each setting is an option here, and a variable of the environment. The log is JSON lines on stdout. SIGTERM and Ctrl-C
    end the server once it has answered what it accepted; SIGHUP has it load the bundle anew.
    """
    options = {name: value for name, value in given.items() if value is not None}
    if bundle is not None:
        if "bundle_dir" in options:
            raise typer.BadParameter("the bundle is named twice, with --bundle-dir and without")
        options["bundle_dir"] = str(bundle)
    try:
        settings = read_settings(options)
    except SettingsError as error:
        fail(str(error), MISUSED)
    with importing("cpu"):
        from service.server import serve as run

        for name in NEEDED:
            if find_spec(name) is None:
                raise ModuleNotFoundError(name=name)
    raise typer.Exit(run(settings))
