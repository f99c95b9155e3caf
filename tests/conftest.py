"""Settings for every test."""

import os

from hypothesis import HealthCheck, Phase, settings

# Compilation makes a first example slow, and machines are shared: no example has a deadline.
_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
# Shrinking a failure can take minutes: the long profile does it.
_no_shrinking = (Phase.explicit, Phase.reuse, Phase.generate)
# The quick profile tries the same examples every time; the long one looks for new ones.
settings.register_profile("quick", max_examples=15, phases=_no_shrinking, derandomize=True, **_common)
settings.register_profile("long", max_examples=200, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
