"""Settings for every test."""

import os

from hypothesis import HealthCheck, settings

# Compilation makes a first example slow, and machines are shared: no example has a deadline.
_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=15, **_common)
settings.register_profile("long", max_examples=200, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
