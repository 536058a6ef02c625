"""Making bundles: sources, locks, bills, signatures of several people, volumes. Never on a node."""
