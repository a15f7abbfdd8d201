"""What to do, and doing it: plan, decide, store, run."""
