"""C{python -m tests.running [ARGS]}: trial, and after its report what was skipped and how not to skip it.

Everything that trial understands may be given; without a name it runs all tests.
"""

from __future__ import annotations

import sys
from collections import Counter

from twisted.scripts import trial
from twisted.trial import reporter

from tests.programs import missing_packages


class SkipReporter(reporter.TreeReporter):
    """Trial's own report, and a few lines more."""

    def done(self) -> None:
        """The run is over."""
        super().done()
        failed = len(self.failures) + len(self.errors) + len(self.unexpectedSuccesses)
        passed = self.successes + len(self.expectedFailures)
        self._writeln("")
        for line in tell_skips(Counter(str(reason) for _, reason in self.skips)):
            self._writeln("%s", line)
        self._writeln("%s", f"{passed} passed, {failed} failed, {len(self.skips)} skipped")


def tell_skips(reasons: Counter[str]) -> list[str]:
    """@return: what was skipped, and what to install."""
    if not reasons:
        return []
    lines = [f"{count:6} skipped: {reason}" for reason, count in reasons.most_common()]
    if packages := missing_packages():
        lines.append("To run more of them here: apt-get install --no-install-recommends " + " ".join(packages))
    return [*lines, ""]


def main() -> None:
    """Run trial with the arguments of this process; its exit status is ours."""
    import hypothesis

    if not any(argument.lstrip("./").startswith("tests") for argument in sys.argv[1:]):
        sys.argv.append("tests")
    # No example takes too long on a machine that is busy with other things, and nothing is kept in the checkout.
    hypothesis.settings.register_profile("mailgw", deadline=None, database=None)
    hypothesis.settings.load_profile("mailgw")
    # Trial loads its reporter by the name that a plugin gives; this is the default one's.
    reporter.TreeReporter = SkipReporter  # type: ignore[misc]
    trial.run()


if __name__ == "__main__":
    main()
