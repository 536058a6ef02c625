"""The local API on the controller's Unix socket: what the commands of this machine talk to.

Who may use it is decided by the socket's file mode; who did is known by the peer's credentials and
goes into the audit stream. Answers are JSON objects, one a line; an error is ``{"error": {...}}``.
Each module holds one group of routes; ``app.py`` puts them together.
"""
