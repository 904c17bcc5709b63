"""``anytime keys`` and ``anytime sign``: keys to give away, keys to sign with, and signatures of bundles."""

import os
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer

from model.bundle import SIGNATURE_FILE, BundleError, sign_bundle
from model.signature import SignatureRefused, make_key, read_secret_key
from service.board import KEYS as MOST_KEYS
from service.cli.exits import MISUSED, fail, importing
from service.front.access.keys import (
    MOST_AT_ONCE,
    KeyEntry,
    KeysUnusable,
    Scope,
    make_api_key,
    read_keys,
    write_entry,
)

SIGN_EXAMPLES = """\
Examples:

\b
  anytime keys signing release.key                    once; keep that file to yourself
  anytime sign runs/digits/bundle --key release.key   writes manifest.json.minisig into the bundle
  ANYTIME_BUNDLE_KEYS=RW… anytime serve …             serves no bundle that this key has not signed
"""

NEW_EXAMPLES = """\
Examples:

\b
  anytime keys new web --file keys.toml
  anytime keys new prometheus --scope metrics --file keys.toml
  anytime keys new partner --scope classify --scope feedback --requests-per-s 100 --concurrency 16 --file keys.toml
  ANYTIME_KEYS_FILE=keys.toml anytime serve --host 0.0.0.0
"""

keys = typer.Typer(help="Make keys.", no_args_is_help=True)


@keys.command("new", epilog=NEW_EXAMPLES)
def new(
    name: Annotated[str, typer.Argument(help="What it is called in logs and metrics.")],
    file: Annotated[Path, typer.Option("--file", help="File of the keys; it is added to.")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="What it is for; may be repeated. [default: classify]"),
    ] = None,
    requests_per_s: Annotated[
        float | None, typer.Option(min=0.000_001, max=1e6, help="Most requests in a second.")
    ] = None,
    burst: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_AT_ONCE,
            help="Most requests at once, with --requests-per-s. [default: those of a second]",
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_AT_ONCE, help="Most requests answered at a time."),
    ] = None,
) -> None:
    """Make an API key, print it, and add its hash to the file of the keys; it is shown only now.

    A server reads the file at its start, and within a second of each change. To replace a key, add one under another name, and take the old
    one's table out of the file once nobody uses it any more.
    """
    if burst is not None and requests_per_s is None:
        fail("--burst says nothing without --requests-per-s", MISUSED)
    key = make_api_key()
    try:
        entry = KeyEntry(
            sha256=sha256(key.encode()).hexdigest(),
            scopes=frozenset(scope or [Scope.CLASSIFY]),
            requests_per_s=requests_per_s,
            burst=burst,
            concurrency=concurrency,
        )
        table = write_entry(name, entry)
        if file.exists() and file.stat().st_size:
            names = {each.name for each in read_keys(file).keys}
            if name in names:
                fail(f"{file}: has a key {name!r} already")
            if len(names) == MOST_KEYS:
                fail(f"{file}: holds {MOST_KEYS} keys, the most that are read")
            table = "\n" + table
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "w") as opened:
            opened.write(table)
    except KeysUnusable as error:
        fail(str(error), MISUSED)
    except OSError as error:
        fail(f"{file}: {error.strerror or error}")
    typer.echo(key)


@keys.command("signing")
def signing(
    file: Annotated[Path, typer.Argument(help="Where the secret key goes; it must not exist.")],
) -> None:
    """Make a key to sign bundles with, and print its public key, the value of ANYTIME_BUNDLE_KEYS.

    Both are keys of minisign. The file is encrypted with a password; an empty one leaves it as it is.
    """
    password = typer.prompt(
        "Password",
        default="",
        show_default=False,
        hide_input=True,
        confirmation_prompt=True,
        err=True,
    )
    with importing("cpu"), make_key() as key:
        public_key = key.get_public_key().to_base64().decode()
        if password:
            key.encrypt(password)
        content = bytes(key) + b"\n"
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(content)
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    typer.echo(public_key)


def sign(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    key: Annotated[Path, typer.Option("--key", help="Secret key of minisign.")],
) -> None:
    """Sign a bundle, once every file of it is verified."""

    def ask_password() -> str:
        password: str = typer.prompt("Password", hide_input=True, err=True)
        return password

    try:
        with importing("cpu"), read_secret_key(key.read_bytes(), ask_password) as secret_key:
            sign_bundle(bundle, secret_key)
    except OSError as error:
        fail(f"{key}: {error.strerror or error}")
    except SignatureRefused as error:
        fail(f"{key}: {error}")
    except BundleError as error:
        fail(str(error))
    typer.echo(f"signed: {bundle / SIGNATURE_FILE}")
