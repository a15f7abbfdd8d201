"""Accuracy metrics of tasks, for a recipe's `metric`: `metric: {entry: "trtbuild.metrics.audio:waveforms", ...}`.

audio          how far two waveforms are apart, and what a predictor of opinion scores says of them
classes        how many pictures keep their class
hidden_states  how far each token of a text encoder has turned
tokens         how many tokens are the same
"""
