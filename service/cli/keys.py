"""``anytime keys`` and ``anytime sign``: keys to give away, keys to sign with, and signatures of bundles."""

import os
from pathlib import Path
from typing import Annotated

import typer

from model.bundle import SIGNATURE_FILE, BundleError, sign_bundle
from model.signature import SignatureRefused, make_key, read_secret_key
from service.cli.exits import fail, importing

SIGN_EXAMPLES = """\
Examples:

\b
  anytime keys signing release.key                    once; keep that file to yourself
  anytime sign runs/digits/bundle --key release.key   writes manifest.json.minisig into the bundle
  ANYTIME_BUNDLE_KEYS=RW… anytime serve …             serves no bundle that this key has not signed
"""

keys = typer.Typer(help="Make keys.", no_args_is_help=True)


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
