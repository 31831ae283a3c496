"""The section `failure`: what becomes of packets that ctfw cannot judge.

Each fate is the kernel's to carry out, so only what the kernel can tell apart can be chosen. It does not know a daemon
that hangs: packets wait for it, and meet `queue_full` when there are too many; the watchdog ends it, and from then on
nobody listens. So `stuck` says what `no_listener` says, or it would promise what is not so.
"""

from ctfw.config.problems import Report
from ctfw.config.schema import FAILURE
from ctfw.config.walk import Fields

DROP = "drop"


def read_failure(fields: Fields, report: Report) -> dict[str, str]:
    """The section's fields -> accept or drop for each of its keys; what is wrong with it is reported."""
    fates: dict[str, str] = {name: fields.get(name, DROP) for name in FAILURE.keys}
    absent = fates["no_listener"]
    if fates["stuck"] != absent:
        if "stuck" in fields.values:
            message = f"stuck: {fates['stuck']} cannot be when no_listener is {absent}"
            hint = "the watchdog ends what hangs, and then nobody listens: say the same of both"
            report.error(fields.place("stuck"), message, hint)
        fates["stuck"] = absent
    return fates
