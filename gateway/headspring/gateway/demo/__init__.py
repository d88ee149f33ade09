"""The demo: a shop of real processes, faults on request, and a run through an incident from end to end."""
