"""Answers to findings: one module per rule family; a rule's docstring is its documentation page."""
