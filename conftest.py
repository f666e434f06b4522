"""Notebooks under pytest: see adlearn/notebooks/pytest_plugin.py."""

pytest_plugins = ["adlearn.notebooks.pytest_plugin"]
