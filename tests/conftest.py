"""What holds for every test: which build runs, and when a kernel test may be skipped.

CTFW_EXPECT_BUILD       compiled or interpreted: the tests of the build itself go first (tests/test_build.py).
CTFW_REQUIRE_KERNEL=1   a kernel test that skips, for whatever reason, fails: on a machine that is supposed to
                        run them a silent skip would be a hole. Only tests with real servers may skip then: these
                        programs, and users that they can become, are there when root runs `make test`.
"""

import os
from collections.abc import Generator

import hypothesis
import pytest

from lab.net import why_not
from lab.systemd import why_no_systemd

# Where a red test stops a change, the same examples each time: what chance finds elsewhere is written down as a test.
REQUIRED = os.environ.get("CTFW_REQUIRE_KERNEL", "0") not in ("", "0")

hypothesis.settings.register_profile("required", derandomize=True, deadline=None)
hypothesis.settings.register_profile("searching", deadline=None)
hypothesis.settings.load_profile("required" if REQUIRED else "searching")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name != "test_build.py")
    kernel = [item for item in items if item.get_closest_marker("kernel")]
    reason = why_not() if kernel else ""
    if reason:
        for item in kernel:
            item.add_marker(pytest.mark.skip(reason=f"kernel test: {reason}"))
    booting = [item for item in items if item.get_closest_marker("systemd")]
    reason = why_no_systemd() if booting else ""
    if reason:
        for item in booting:
            item.add_marker(pytest.mark.skip(reason=f"systemd test: {reason}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    is_due = item.get_closest_marker("kernel") and not item.get_closest_marker("server")
    if REQUIRED and report.skipped and is_due and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{report.longrepr}\nCTFW_REQUIRE_KERNEL is set: a kernel test must not be skipped"
    return report
