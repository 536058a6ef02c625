"""``node.db``: an effect and what the hub must hear of it, in one transaction.

Only the controller writes it. Whoever else wants to know asks the controller's socket.
"""
