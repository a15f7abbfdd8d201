"""Hugging Face decoders: exported so that a cache can be attached, and observed so that its scales can be set."""
