"""Engines as pods: rendered, compared with what is there, put right."""
