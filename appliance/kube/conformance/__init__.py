"""What of Kubernetes AI Conformance can be seen in a cluster at this moment.

One small function for each id of the checklist. None answers "Implemented" for what a product can
do in principle: it asks the cluster, notes question and answer as evidence, and judges by that.
"""
