"""``python deploy/kubernetes/readme.py``: writes the chart's README from ``Chart.yaml`` and what ``values.yaml`` says of each value.

A comment belongs to the value on its line, or to the one that follows it. A test fails where the README is another.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "anytime"
LINE = re.compile(r"(?P<indent> *)(?P<name>\w+):(?: (?P<value>.*?))??(?: *# (?P<comment>.*))?")


def described(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the path of each value, as in ``image.tag``, and what its comments say."""
    path: list[str] = []
    before: list[str] = []
    for line in lines:
        text = line.strip()
        if text.startswith("# "):
            before.append(text.removeprefix("# "))
        elif not text:
            before = []
        elif match := LINE.fullmatch(line):
            path[len(match["indent"]) // 2 :] = [match["name"]]
            yield ".".join(path), " ".join([*before, match["comment"] or ""]).strip()
            before = []


def rows(values: dict[str, Any], comments: dict[str, str], prefix: str = "") -> Iterator[str]:
    """Yield a row of the table for each value; groups of values have one where something is said of them."""
    for name, value in values.items():
        path = prefix + name
        comment = comments[path].replace("|", "\\|")
        if isinstance(value, dict) and any(each.startswith(f"{path}.") for each in comments):
            if comment:
                yield f"| **{path}** | | {comment} |"
            yield from rows(value, comments, f"{path}.")
        else:
            yield f"| `{path}` | `{json.dumps(value)}` | {comment} |"


def readme() -> str:
    """Return the README."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    text = (CHART / "values.yaml").read_text()
    comments = dict(described(text.splitlines()))
    table = "\n".join(rows(yaml.safe_load(text), comments))
    return f"""# {chart["name"]}

{chart["description"]} Version {chart["version"]}, for Kubernetes {chart["kubeVersion"].removesuffix("-0").removeprefix(">=")} or newer.
{chart["home"]}

```
helm install {chart["name"]} . --set image.repository=registry.example/anytime
helm test {chart["name"]}
```

`values-gpu.yaml` beside this file is for nodes with an NVIDIA GPU. A wrong or misspelt value is refused, and so are settings that the server has not.

| value | default | |
|---|---|---|
{table}
"""


if __name__ == "__main__":
    (CHART / "README.md").write_text(readme())
