"""Telling people: one message an incident, channel and kind, and whether it arrived."""
