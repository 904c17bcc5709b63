"""The version, which is in ``service/__init__.py`` and nowhere else by hand.

    python deploy/release.py                 prints it
    python deploy/release.py --set 0.2.0     sets it, in the chart too, and heads what the changelog has as unreleased with it
    python deploy/release.py --notes 0.2.0   prints what the changelog says of a release

Then commit, tag `v0.2.0` and push: .github/workflows/release.yml does the rest.
"""

import argparse
import datetime
import re
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:(a|b|rc)(\d+))?")
UNRELEASED = "## [Unreleased]\n"


def current(root: Path) -> str:
    """Return the version."""
    version: str = runpy.run_path(str(root / "service/__init__.py"))["__version__"]
    return version


def notes(root: Path, version: str) -> str:
    """Return what the changelog says of a release.

    Raises:
        ValueError: it says nothing.
    """
    text = (root / "CHANGELOG.md").read_text()
    found = re.search(rf"^## \[{re.escape(version)}\][^\n]*\n(.*?)(?=^## \[|\Z)", text, re.M | re.S)
    if found is None or not found[1].strip():
        raise ValueError(f"CHANGELOG.md says nothing of {version}")
    return found[1].strip() + "\n"


def set_version(root: Path, version: str, today: datetime.date) -> None:
    """Write another version to where it stands.

    Raises:
        ValueError: it is none, it is earlier than the one before or released, or the changelog has nothing unreleased.
    """
    if not VERSION.fullmatch(version):
        raise ValueError(f"{version!r} is no version such as 0.2.0 or 0.2.0rc1")
    if _order(version) < _order(current(root)):
        raise ValueError(f"{version} is earlier than {current(root)}")
    if f"## [{version}]" in (root / "CHANGELOG.md").read_text():
        raise ValueError(f"{version} is released already, says CHANGELOG.md")
    notes(root, "Unreleased")
    _rewrite(root / "service/__init__.py", r'__version__ = ".*"', f'__version__ = "{version}"')
    chart = root / "deploy/kubernetes/anytime/Chart.yaml"
    _rewrite(chart, r"^version: .*", f"version: {_semantic(version)}")
    _rewrite(chart, r"^appVersion: .*", f"appVersion: {version}")
    readme = runpy.run_path(str(root / "deploy/kubernetes/readme.py"))["readme"]
    (chart.parent / "README.md").write_text(readme())
    headed = f"{UNRELEASED}\n## [{version}] - {today.isoformat()}\n"
    _rewrite(root / "CHANGELOG.md", re.escape(UNRELEASED), headed)


def _order(version: str) -> tuple[int, int, int, str, int]:
    match = VERSION.fullmatch(version)
    assert match is not None
    major, minor, patch, stage, number = match.groups()
    return int(major), int(minor), int(patch), stage or "z", int(number or 0)  # a release is last


def _semantic(version: str) -> str:
    """Return a version as Helm writes it: 0.2.0rc1 is 0.2.0-rc.1."""
    return re.sub(r"(a|b|rc)(\d+)$", r"-\1.\2", version)


def _rewrite(path: Path, pattern: str, text: str) -> None:
    before = path.read_text()
    after, times = re.subn(pattern, text, before, count=1, flags=re.M)
    assert times == 1, f"{path} has no {pattern}"
    path.write_text(after)


def main() -> int:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", metavar="VERSION")
    parser.add_argument("--notes", metavar="VERSION")
    options = parser.parse_args()
    try:
        if options.set:
            set_version(ROOT, options.set, datetime.date.today())
        print(notes(ROOT, options.notes) if options.notes else current(ROOT))
    except ValueError as error:
        print(f"release: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
