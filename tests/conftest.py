"""What all tests share."""

from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings
from programs import packages_to_install

# How long an example takes depends on what else the machine does.
settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """Say below everything else what to install, so that no test is skipped for want of a program."""
    yield
    skipped = (report.longrepr for report in terminalreporter.stats.get("skipped", ()))
    packages = packages_to_install(reason for _path, _line, reason in skipped)
    if packages:
        terminalreporter.write_line(f"To run the tests skipped above: apt-get install {' '.join(packages)}")
