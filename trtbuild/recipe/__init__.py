"""YAML to values: the recipe language."""
