"""The only place that builds real adapters and hands them to loops: a module a daemon."""
