"""The words of the house: values, errors, stages and roles. No library but pydantic and numpy."""
