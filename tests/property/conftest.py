"""Properties are about results, not about time: a busy machine must not fail them."""

from hypothesis import HealthCheck, settings

settings.register_profile("appliance", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("appliance")
