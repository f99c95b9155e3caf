"""Settings for every test."""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

# Compilation makes a first example slow, and machines are shared: no example has a deadline.
_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
# Shrinking a failure can take minutes: the long profile does it.
_no_shrinking = (Phase.explicit, Phase.reuse, Phase.generate)
# The quick profile tries the same examples every time; the long one looks for new ones.
settings.register_profile("quick", max_examples=15, phases=_no_shrinking, derandomize=True, **_common)
settings.register_profile("long", max_examples=200, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


class AtOnce:
    """Show a failure when it happens, not at the end of the run; pytest's own summary still lists them all."""

    def __init__(self, config: pytest.Config) -> None:
        self.plugins = config.pluginmanager

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Print the report of a failed test."""
        terminal = self.plugins.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.section(f"failed: {report.nodeid}", "_")
            terminal.write_line(report.longreprtext)


def pytest_configure(config: pytest.Config) -> None:
    """Failures are shown by the process that prints, not by its workers."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(AtOnce(config), "failures-at-once")
