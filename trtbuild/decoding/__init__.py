"""Text from an exported decoder: the loop around its graph, and how far two decoders agree.

A decoder is any `Session` whose graph takes `input_ids` and `lengths` (int64, [batch, tokens] and [batch]) and the
cache, and gives `logits` and the cache as it is after. Nothing here imports a framework.

    cache            the arrays of a cache, and what codes stand for
    decoder          one batch in flight: its cache and its lengths, advanced call by call
    sampling         the next token from logits
    generation       prompts in, tokens out as they come
    tokenizer        text to tokens and back
    likelihood       what a decoder thinks of a text: log-probabilities, perplexity
    teacher_forcing  two decoders on the same text, step by step
    cache_directions caches made comparable, layer by layer
    free_running     how long two decoders write the same
    needle           whether a decoder still finds what it read long ago
    reading          all that is found out about one decoder alone
"""
