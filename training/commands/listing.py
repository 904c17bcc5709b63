"""What a bundle holds, as a table."""

from model.manifest import Manifest, Measured, Quantised, Subnetwork


def listing(manifest: Manifest) -> str:
    """Return a table of the subnetworks; what is not known of one is a dash."""
    width = max(14, *(len(each.name) for each in manifest.subnetworks))
    head = f"{'subnetwork':<{width}} {'depth':>5} {'MMACs':>9} {'validation':>11} {'95 %':>13} {'test':>8} {'calibration error':>18}"
    lines = [head]
    for each in manifest.subnetworks:
        size = f"{each.name:<{width}} {each.depth or '–':>5} {each.macs / 1e6:>9.2f}"
        lines.append(f"{size} {_figures(each)}")
        if each.int8:
            alike = f"{each.int8.agreement.value:.2%} of the answers as in float"
            lines.append(f"{'  in int8':<{width + 16}} {_figures(each.int8)}, {alike}")
    return "\n".join(lines)


def _figures(measured: Subnetwork | Quantised) -> str:
    """Return accuracies and calibration as cells of the table."""
    accuracy, calibration = measured.accuracy, measured.calibration
    between = f"{accuracy.estimate.low:.1%}–{accuracy.estimate.high:.1%}"
    return (
        f"{_share(accuracy.validation):>11} {between:>13} {_share(accuracy.test):>8} "
        f"{calibration.ece_before:>8.3f} -> {calibration.ece_after:.3f}"
    )


def _share(measured: Measured | None) -> str:
    return f"{measured.value:.2%}" if measured else "–"
