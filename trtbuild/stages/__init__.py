"""What is done: one stage a module, each a function whose signature is its declaration."""
