"""Edge AI Appliance: models served on your own boxes, for months without a link.

The package's layers, who may import whom and what each one must not know are in
``docs/architecture.md``; importing this module imports nothing else.
"""

__version__ = "0.1.0"
