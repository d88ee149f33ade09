"""The language between stages: messages, topics, ids, clock, codec, errors.

Everything else in Headspring depends on this package; it depends on nothing of ours.
"""
