"""Controllers beside each other on one node, and the parent that switches between them.

``switch`` and ``gate`` decide and touch nothing; ``shelf`` keeps ``software/`` of the state folder;
``staging`` makes an environment of wheels; ``supervisor`` is the parent. It knows neither engines,
bundles nor signatures: who may be staged and switched to is judged by the node that asks.
"""
