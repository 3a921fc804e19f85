"""Evaluate generation across two models: teacher-forced metrics, and samples.

Texts go in; a `Judgement` comes out: cross-entropy, agreement with the target model, repetition,
and the target's perplexity on sampled texts.
"""
