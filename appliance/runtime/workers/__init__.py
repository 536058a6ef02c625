"""Engines that come as a Python package, each run as a process of its own."""
