"""The OpenAI-compatible front: a process of its own that goes on when the controller is down.

It knows the route snapshot and engines' sockets. It writes no prompt and no completion anywhere.
"""
