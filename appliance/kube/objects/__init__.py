"""Our custom resources: how they are defined, read and written."""
